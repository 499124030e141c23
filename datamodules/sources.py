"""Where images come from, and the prepared files that every process memory-maps.

A data set is looked for in `data_dir` (torchvision's own layout, or an image folder NAME/{train,test}/<class>/*),
then downloaded by torchvision. It is decoded once into four arrays in the cache; the folder appears under its final
name only when it is whole. Naming a data set never falls back on another: the embedded digits are a name too.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import queue
import shutil
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock

FORMAT = 2  # of the prepared files; raise it when what they hold changes
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
DOWNLOAD_TIMEOUT = 20  # seconds without an answer; a firewall may hang instead of refusing
REACH_TIMEOUT = 3  # seconds to a first connection


class DataError(ValueError):
    """Data that are missing, damaged or unknown; the message is one line."""


class DamagedData(DataError):
    """Data that are there and cannot be used."""


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
        """uint8 images (N, C, H, W) and int64 labels (N,), memory-mapped, read-only."""
        return {name: np.load(Path(self.folder) / f"{name}.npy", mmap_mode="r") for name in ARRAYS}


Arrays = dict[str, np.ndarray]
NAMES = ("cifar10", "mnist", "fashionmnist", "digits", "digits28")
_TORCHVISION = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}
_TORCHVISION_FOLDER = {
    "cifar10": "cifar-10-batches-py",
    "mnist": "MNIST/raw",
    "fashionmnist": "FashionMNIST/raw",
}
_HOST = {  # where torchvision downloads from
    "cifar10": ("www.cs.toronto.edu", 443),
    "mnist": ("ossci-datasets.s3.amazonaws.com", 443),
    "fashionmnist": ("fashion-mnist.s3-website.eu-central-1.amazonaws.com", 80),
}
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def cache_folder() -> Path:
    """Where prepared arrays live: $THREE_FACTORS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("THREE_FACTORS_CACHE") or platformdirs.user_cache_dir("three-factors"))


def prepare(name: str, data_dir: str | Path = "data", *, download: bool = True) -> Prepared:
    """Find, decode and cache a data set; returns at once if its prepared files match the source files.

    Raises:
        DataError: unknown name, nothing found and no download, or files that cannot be read.
    """
    data_dir = Path(data_dir)
    if name in ("digits", "digits28"):
        return _cached(name, "drawn with matplotlib's fonts", f"v{FORMAT}", lambda: _draw(name))
    found = _find(name, data_dir)
    if found is None and name in _TORCHVISION:
        if not download:
            raise DataError(f"data-dir: no {name} in {str(data_dir)!r}")
        _download(name, data_dir)
        found = _find(name, data_dir)
    if found is None:
        raise _unknown(name, data_dir)
    folder, decode = found
    return _cached(name, str(folder), _listing(folder), decode)


def cached(name: str, data_dir: str | Path) -> Prepared | None:
    """The prepared data set if it is there and its source files are unchanged; decodes and downloads nothing.

    Raises:
        DataError: unknown name, or nothing here and no way to the server that has it.
    """
    if name in ("digits", "digits28"):
        return _read_manifest(name, "drawn with matplotlib's fonts", f"v{FORMAT}")
    found = _find(name, Path(data_dir))
    if found is None and name not in _TORCHVISION:
        raise _unknown(name, Path(data_dir))
    if found is None:
        _check_reachable(name, Path(data_dir))
    return found and _read_manifest(name, str(found[0]), _listing(found[0]))


def _unknown(name: str, data_dir: Path) -> DataError:
    if name and (data_dir / name).is_dir():
        return DataError(f"data: {str(data_dir / name)!r} holds no train/<class>/* and test/<class>/*")
    near = difflib.get_close_matches(name.lower(), NAMES, 1)
    if near:
        return DataError(f"data: {name!r} is none of {', '.join(NAMES)}; {near[0]!r}?")
    return DataError(f"data: {name!r} is none of {', '.join(NAMES)}, and no folder {str(data_dir / name)!r}")


def _find(name: str, data_dir: Path) -> tuple[Path, Callable[[], Arrays]] | None:
    """The folder that holds the data set, and the function that decodes it."""
    if name in _TORCHVISION:
        folder = data_dir / _TORCHVISION_FOLDER[name]
        if folder.is_dir() and any(folder.iterdir()):
            return folder, lambda: _decode_torchvision(name, data_dir)
    if name not in ("", ".", "..") and not Path(name).is_absolute():
        folder = data_dir / name
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder, lambda: _decode_image_folder(folder)
    return None


def _draw(name: str) -> Arrays:
    from datamodules import digits

    size, channels = (28, 1) if name == "digits28" else (32, 3)
    train, train_labels = digits.draw(digits.TRAIN, size=size, channels=channels, seed=0)
    test, test_labels = digits.draw(digits.TEST, size=size, channels=channels, seed=1)
    return dict(zip(ARRAYS, (train, train_labels, test, test_labels)))


def _download(name: str, data_dir: Path) -> None:
    import torchvision

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        place = data_dir / _TORCHVISION_FOLDER[name]
        with _alone(place):
            if _find(name, data_dir) is not None:
                return
            # Moved when whole: what an interrupted download leaves is never taken for data.
            with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as draft:
                getattr(torchvision.datasets, _TORCHVISION[name])(draft, download=True)
                (Path(draft) / _TORCHVISION_FOLDER[name]).rename(place)
    except Exception as error:
        raise DataError(f"data: {name} is not in {str(data_dir)!r} and its download failed: {_line(error)}") from error
    finally:
        socket.setdefaulttimeout(before)


def _check_reachable(name: str, data_dir: Path) -> None:
    """Asks for a connection to the data set's server, without torchvision: no network is known in milliseconds."""
    if urllib.request.getproxies():
        return  # then only the download itself can tell
    # In a thread: a firewall may let the name's lookup, or every one of its addresses, hang.
    answer: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_connect(*_HOST[name])), daemon=True).start()
    try:
        error = answer.get(timeout=REACH_TIMEOUT)
    except queue.Empty:
        error = TimeoutError(f"no answer in {REACH_TIMEOUT} s")
    if error is not None:
        layout = f"{_TORCHVISION_FOLDER[name]}/ or {name}/{{train,test}}/<class>/*"
        raise DataError(
            f"data: {name} is not in {str(data_dir)!r} (as {layout}) and {_HOST[name][0]} cannot be reached"
        ) from error


def _connect(host: str, port: int) -> OSError | None:
    """Why no connection can be made; None if one can."""
    try:
        socket.create_connection((host, port), timeout=REACH_TIMEOUT).close()
    except OSError as error:
        return error
    return None


def _decode_torchvision(name: str, data_dir: Path) -> Arrays:
    import torchvision

    kind = getattr(torchvision.datasets, _TORCHVISION[name])
    arrays: Arrays = {}
    for part, train in (("train", True), ("test", False)):
        try:
            dataset = kind(str(data_dir), train=train, download=False)
        except Exception as error:
            where = str(data_dir / _TORCHVISION_FOLDER[name])
            raise DamagedData(f"data-dir: {name} in {where!r} is damaged or incomplete: {_line(error)}") from error
        images = np.asarray(dataset.data)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        arrays[f"{part}_images"] = np.ascontiguousarray(images, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.asarray(dataset.targets, dtype=np.int64)
    return arrays


def _decode_image_folder(folder: Path) -> Arrays:
    """Images of <folder>/{train,test}/<class>/*; classes in sorted order, files in sorted order within a class."""
    from PIL import Image

    classes = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())
    if len(classes) < 2:
        raise DamagedData(f"data-dir: {str(folder / 'train')!r} holds {len(classes)} class folders; 2 are needed")
    arrays: Arrays = {}
    shape: tuple[int, ...] | None = None
    for part in ("train", "test"):
        others = {p.name for p in (folder / part).iterdir() if p.is_dir()} - set(classes)
        if others:
            raise DamagedData(
                f"data-dir: {str(folder / part)!r} has classes that train lacks: {', '.join(sorted(others))}"
            )
        files = [(p, i) for i, name in enumerate(classes) for p in sorted(_images(folder / part / name))]
        if not files:
            raise DamagedData(f"data-dir: {str(folder / part)!r} holds no images")
        decoded = []
        for path, _ in files:
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB"))
            except Exception as error:
                raise DamagedData(f"data-dir: {str(path)!r} cannot be read: {_line(error)}") from error
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise DamagedData(f"data-dir: {str(path)!r} has shape {pixels.shape}, others have {shape}")
            decoded.append(pixels)
        stack = np.stack(decoded)
        stack = stack[:, None] if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)
        arrays[f"{part}_images"] = np.ascontiguousarray(stack)
        arrays[f"{part}_labels"] = np.asarray([label for _, label in files], dtype=np.int64)
    return arrays


def _images(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_ENDINGS] if folder.is_dir() else []


def _listing(folder: Path) -> str:
    """A hash of every file's name, size and time: what must be unchanged for prepared files to be valid."""
    digest = hashlib.sha256(str(FORMAT).encode())
    pending = [str(folder)]
    entries: list[tuple[str, int, int]] = []
    try:
        while pending:
            with os.scandir(pending.pop()) as scan:
                for entry in scan:
                    if entry.is_dir():
                        pending.append(entry.path)
                    else:
                        stat = entry.stat()
                        entries.append((entry.path, stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise DamagedData(f"data-dir: {error.filename!r} cannot be read ({error.strerror})") from error
    for item in sorted(entries):
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _target(name: str, origin: str, listing: str) -> Path:
    key = hashlib.sha256(f"{name}\0{origin}\0{listing}\0{FORMAT}".encode()).hexdigest()[:16]
    return cache_folder() / f"{name.replace(os.sep, '_')}-{key}"


def _read_manifest(name: str, origin: str, listing: str) -> Prepared | None:
    folder = _target(name, origin, listing)
    try:
        prepared = Prepared(**(json.loads((folder / "manifest.json").read_text()) | {"folder": str(folder)}))
        sizes = {array: len(values) for array, values in prepared.arrays().items()}
    except (OSError, ValueError, TypeError):
        return None  # absent or damaged: it is prepared anew
    whole = sizes == dict(zip(ARRAYS, (prepared.train, prepared.train, prepared.test, prepared.test)))
    return prepared if whole else None


def _alone(place: Path) -> FileLock:
    """Held by the process that makes `place`; the others wait, and then find it made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(place.with_name(f".{place.name}.lock"))


def _cached(name: str, origin: str, listing: str, decode: Callable[[], Arrays]) -> Prepared:
    known = _read_manifest(name, origin, listing)
    if known:
        return known
    target = _target(name, origin, listing)
    with _written_to(target.parent):
        held = _alone(target).acquire()
    with held:
        known = _read_manifest(name, origin, listing)
        if known:
            return known
        arrays = decode()
        with _written_to(target.parent):
            return _stored(target, name, origin, arrays)


@contextmanager
def _written_to(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cache: prepared data cannot be written to {str(cache)!r}: {_line(error)}") from error


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


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else text[:197] + "..."
