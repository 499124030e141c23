"""Where images come from: torchvision's data sets, image folders, and digits drawn here.

A data set is looked for in `data_dir` (torchvision's own layout, the gzipped files of MNIST and FashionMNIST as they
are published, or an image folder NAME/{train,test}/<class>/*), then downloaded by torchvision. Naming one never falls
back on another: the drawn digits are a name too.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import os
import queue
import shutil
import socket
import tempfile
import threading
import urllib.request
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from filelock import FileLock

FORMAT = 2  # of the arrays below; raise it when what a decoder puts into them changes
FOLDER_FORMAT = 2  # the same of image folders' alone: the drawn digits are not drawn again, by other fonts perhaps
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
DOWNLOAD_TIMEOUT = 20  # seconds without an answer; a firewall may hang instead of refusing
REACH_TIMEOUT = 3  # seconds to a first connection


class DataError(ValueError):
    """Data that are missing, damaged or unknown; the message is one line."""


class DamagedData(DataError):
    """Data that are there and cannot be used."""


Arrays = dict[str, np.ndarray]  # uint8 images (N, C, H, W) and int64 labels (N,), named as in ARRAYS


class Source(NamedTuple):
    """A data set that is here: its place in words, what changes whenever its files do, and its decoder."""

    origin: str
    state: str
    decode: Callable[[], Arrays]


NAMES = ("cifar10", "mnist", "fashionmnist", "digits", "digits28")
_TORCHVISION = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}
_TORCHVISION_FOLDER = {
    "cifar10": "cifar-10-batches-py",
    "mnist": "MNIST/raw",
    "fashionmnist": "FashionMNIST/raw",
}
_IDX = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_HOST = {  # where torchvision downloads from
    "cifar10": ("www.cs.toronto.edu", 443),
    "mnist": ("ossci-datasets.s3.amazonaws.com", 443),
    "fashionmnist": ("fashion-mnist.s3-website.eu-central-1.amazonaws.com", 80),
}
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def find(name: str, data_dir: Path) -> Source | None:
    """Returns the data set.

    None if it is not here, but torchvision can download it. Raises DataError for an unknown name.
    """
    if name in ("digits", "digits28"):
        return Source("drawn with matplotlib's fonts", f"v{FORMAT}", lambda: _draw(name))
    if name in _TORCHVISION:
        folder = data_dir / _TORCHVISION_FOLDER[name]
        for packed in (folder, folder.parent) if name != "cifar10" else ():
            if _packed(packed):
                return Source(str(packed), _listing(packed), partial(_decode_packed, name, packed))
        if _filled(folder):
            return Source(str(folder), _listing(folder), lambda: _decode_torchvision(name, data_dir))
    if name not in ("", ".", "..") and not Path(name).is_absolute():
        folder = data_dir / name
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            state = f"{_listing(folder)} v{FOLDER_FORMAT}"
            return Source(str(folder), state, lambda: _decode_image_folder(folder))
    if name in _TORCHVISION:
        return None
    raise _unknown(name, data_dir)


def _unknown(name: str, data_dir: Path) -> DataError:
    if name and (data_dir / name).is_dir():
        return DataError(f"data: {str(data_dir / name)!r} holds no train/<class>/* and test/<class>/*")
    near = difflib.get_close_matches(name.lower(), NAMES, 1)
    if near:
        return DataError(f"data: {name!r} is none of {', '.join(NAMES)}; {near[0]!r}?")
    return DataError(f"data: {name!r} is none of {', '.join(NAMES)}, and no folder {str(data_dir / name)!r}")


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _packed(folder: Path) -> bool:
    """Tells whether the four files of an MNIST are there, and at least one of them only gzipped."""
    there = [(folder / name).is_file() for name in _IDX]
    packed = [(folder / f"{name}.gz").is_file() for name in _IDX]
    return all(a or b for a, b in zip(there, packed)) and not all(there)


def _draw(name: str) -> Arrays:
    from three_factors.datamodules import digits

    size, channels = (28, 1) if name == "digits28" else (32, 3)
    train, train_labels = digits.draw(digits.TRAIN, size=size, channels=channels, seed=0)
    test, test_labels = digits.draw(digits.TEST, size=size, channels=channels, seed=1)
    return dict(zip(ARRAYS, (train, train_labels, test, test_labels)))


def download(name: str, data_dir: Path) -> None:
    """Downloads a data set of torchvision's into `data_dir`, once if several processes ask. Raises DataError."""
    import torchvision

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        place = data_dir / _TORCHVISION_FOLDER[name]
        with alone(place):
            if _filled(place):
                return
            # Moved when whole: what an interrupted download leaves is never taken for data.
            with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as draft:
                kind = getattr(torchvision.datasets, _TORCHVISION[name])
                kind(draft, download=True)
                (Path(draft) / _TORCHVISION_FOLDER[name]).rename(place)
    except Exception as error:
        why = one_line(error)
        raise DataError(f"data: {name} is not in {str(data_dir)!r} and its download failed: {why}") from error
    finally:
        socket.setdefaulttimeout(before)


def check_reachable(name: str, data_dir: Path) -> None:
    """Asks for a connection to the data set's server, without torchvision: no network is known in milliseconds.

    Raises:
        DataError: there is no way to that server.
    """
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
    """Says why no connection can be made; None if one can."""
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
            raise DamagedData(f"data-dir: {name} in {where!r} is damaged or incomplete: {one_line(error)}") from error
        images = np.asarray(dataset.data)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        arrays[f"{part}_images"] = np.ascontiguousarray(images, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.asarray(dataset.targets, dtype=np.int64)
    return arrays


def _decode_packed(name: str, folder: Path) -> Arrays:
    """Decodes what is gzipped: torchvision reads it unpacked, from a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as draft:
        raw = Path(draft) / _TORCHVISION_FOLDER[name]
        raw.mkdir(parents=True)
        for file in _IDX:
            try:
                with _opened(folder / file) as packed, (raw / file).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            except (OSError, EOFError, zlib.error) as error:
                raise DamagedData(f"data-dir: {file}.gz in {str(folder)!r} is damaged: {one_line(error)}") from error
        try:
            return _decode_torchvision(name, Path(draft))
        except DamagedData as error:
            raise DamagedData(f"data-dir: {name} in {str(folder)!r} is damaged: {error.__cause__}") from error


def _opened(file: Path) -> IO[bytes]:
    return file.open("rb") if file.is_file() else gzip.open(f"{file}.gz", "rb")  # type: ignore[return-value]


def _decode_image_folder(folder: Path) -> Arrays:
    """Images of <folder>/{train,test}/<class>/*; classes in sorted order, files in sorted order within a class."""
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
            pixels = _pixels(path)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise DamagedData(f"data-dir: {str(path)!r} has shape {pixels.shape}, others have {shape}")
            decoded.append(pixels)
        stack = np.stack(decoded)
        stack = stack[:, None] if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)
        arrays[f"{part}_images"] = np.ascontiguousarray(stack)
        arrays[f"{part}_labels"] = np.asarray([label for _, label in files], dtype=np.int64)
    return arrays


def _pixels(path: Path) -> np.ndarray:
    """Returns an image's pixels, uint8 (H, W) or (H, W, 3); of 16 bits of grey the upper 8."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode.startswith("I;16"):  # which Pillow's own conversion cuts off at 255
                return (np.asarray(image) >> 8).astype(np.uint8)
            if mode not in ("I", "F"):
                return np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
    except Exception as error:
        raise DamagedData(f"data-dir: {str(path)!r} cannot be read: {one_line(error)}") from error
    raise DamagedData(f"data-dir: {str(path)!r} has pixels of 32 bits (mode {mode!r}); save it with 8 a channel")


def _images(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_ENDINGS] if folder.is_dir() else []


def _listing(folder: Path) -> str:
    """Returns a hash of every file's name, size and time: what must be unchanged for prepared files to be valid."""
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


def alone(place: Path) -> FileLock:
    """Locks `place` for the process that makes it; the others wait, and then find it made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(place.with_name(f".{place.name}.lock"))


def one_line(error: BaseException) -> str:
    """Returns an error's text in one line, of 200 characters at most."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else text[:197] + "..."
