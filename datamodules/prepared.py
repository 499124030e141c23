"""The prepared files of a data set, which every process memory-maps.

A data set is decoded once into four arrays in the cache; their folder appears under its final name only when it is
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import platformdirs

from three_factors.datamodules import sources
from three_factors.datamodules.sources import ARRAYS, FORMAT, Arrays, DamagedData, DataError, Source, alone, one_line


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: `folder` holds the arrays, `fingerprint` is a hash of their content."""

    name: str
    folder: str
    fingerprint: str
    train: int
    test: int
    channels: int
    size: int
    classes: int
    origin: str

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns uint8 images (N, C, H, W) and int64 labels (N,), memory-mapped, read-only.

        Raises DataError where it is a description without images.
        """
        if not self.folder:
            raise DataError(f"data: the images of {self.name!r} are not here, only what an archive tells of them")
        return {name: np.load(Path(self.folder) / f"{name}.npy", mmap_mode="r") for name in ARRAYS}


def cache_folder() -> Path:
    """Returns where prepared arrays live: $THREE_FACTORS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("THREE_FACTORS_CACHE") or platformdirs.user_cache_dir("three-factors"))


def prepare(name: str, data_dir: str | Path = "data", *, download: bool = True) -> Prepared:
    """Finds, decodes and caches a data set; returns at once if its prepared files match the source files.

    Raises:
        DataError: unknown name, nothing found and no download, or files that cannot be read.
    """
    folder = Path(data_dir)
    source = sources.find(name, folder)
    if source is None and download:
        sources.download(name, folder)
        source = sources.find(name, folder)
    if source is None:
        raise DataError(f"data-dir: no {name} in {str(folder)!r}")
    return _cached(name, source)


def cached(name: str, data_dir: str | Path) -> Prepared | None:
    """Returns the prepared data set if it is there and its source files are unchanged; decodes and downloads nothing.

    Raises:
        DataError: unknown name, or nothing here and no way to the server that has it.
    """
    source = sources.find(name, Path(data_dir))
    if source is None:
        sources.check_reachable(name, Path(data_dir))
    return source and _read_manifest(name, source)


def _target(name: str, source: Source) -> Path:
    key = hashlib.sha256(f"{name}\0{source.origin}\0{source.state}\0{FORMAT}".encode()).hexdigest()[:16]
    return cache_folder() / f"{name.replace(os.sep, '_')}-{key}"


def _read_manifest(name: str, source: Source) -> Prepared | None:
    folder = _target(name, source)
    try:
        prepared = Prepared(**(json.loads((folder / "manifest.json").read_text()) | {"folder": str(folder)}))
        sizes = {array: len(values) for array, values in prepared.arrays().items()}
    except (OSError, ValueError, TypeError):
        return None  # absent or damaged: it is prepared anew
    whole = sizes == dict(zip(ARRAYS, (prepared.train, prepared.train, prepared.test, prepared.test)))
    return prepared if whole else None


def _cached(name: str, source: Source) -> Prepared:
    known = _read_manifest(name, source)
    if known:
        return known
    target = _target(name, source)
    with _written_to(target.parent):
        held = alone(target).acquire()
    with held:
        known = _read_manifest(name, source)
        if known:
            return known
        arrays = source.decode()
        with _written_to(target.parent):
            return _stored(target, name, source.origin, arrays)


@contextmanager
def _written_to(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cache: prepared data cannot be written to {str(cache)!r}: {one_line(error)}") from error


def _stored(target: Path, name: str, origin: str, arrays: Arrays) -> Prepared:
    """Writes arrays and manifest to the folder `target`, which is whole or absent."""
    _check_arrays(arrays, origin)
    prepared = Prepared(
        name,
        str(target),
        _fingerprint(arrays),
        train=len(arrays["train_labels"]),
        test=len(arrays["test_labels"]),
        channels=arrays["train_images"].shape[1],
        size=arrays["train_images"].shape[2],
        classes=int(arrays["train_labels"].max()) + 1,
        origin=origin,
    )
    for left in (target, *target.parent.glob(f".{target.name}.draft-*")):  # damaged, or broken off by a kill
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.draft-", dir=target.parent))
    try:
        for array, values in arrays.items():
            np.save(draft / f"{array}.npy", values)
        (draft / "manifest.json").write_text(json.dumps(asdict(prepared), indent=1))
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return prepared


def _check_arrays(arrays: Arrays, origin: str) -> None:
    height, width = arrays["train_images"].shape[2:]
    if height != width or arrays["test_images"].shape[1:] != arrays["train_images"].shape[1:]:
        raise DamagedData(f"data-dir: images in {origin!r} are {height}x{width}; square ones of one size are needed")
    classes = set(np.unique(arrays["train_labels"]).tolist())
    if classes != set(range(len(classes))) or not set(np.unique(arrays["test_labels"]).tolist()) <= classes:
        raise DamagedData(f"data-dir: {origin!r} has classes without training images")


def _fingerprint(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for array in ARRAYS:
        values = np.ascontiguousarray(arrays[array])
        digest.update(f"{array}{values.dtype}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()[:16]
