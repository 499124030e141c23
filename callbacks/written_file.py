"""The file that a callback replaces as a whole while a training runs: refused, or given its folder, before a step."""

from __future__ import annotations

from numbers import Real
from pathlib import Path


def check_file(path: str | Path) -> Path:
    """Refuses a folder in a file's place with ValueError."""
    if Path(path).is_dir():
        raise ValueError(f"path: {str(path)!r} is a folder; name a file in it")
    return Path(path)


def check_seconds(name: str, value: float) -> None:
    """Refuses what no time between two writings is, NaN among them, with ValueError."""
    if not isinstance(value, Real) or not float(value) >= 0:
        raise ValueError(f"{name}: {value!r} is not a number of seconds")


def make_folder_of(path: Path) -> None:
    """Makes the folder of a file, and those above it.

    Raises:
        ValueError: the path is a folder by now, or its folder cannot be made.
    """
    check_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"path: the folder of {str(path)!r} cannot be made ({error.strerror})") from error
