"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

import three_factors

CHECKOUT = Path(__file__).resolve().parents[3]  # the repository
IMPORTABLE = Path(three_factors.__file__).resolve().parents[1]  # where `three_factors` is found


def write_text(path: Path, text: str) -> None:
    """Replaces `path` at once; a reader sees the old or the new content, never a part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Does for bytes what `write_text` does."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def digest(path: Path, *, stored: bool = False) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits.

    Args:
        stored: waits until what was appended is on the disk: a power loss leaves zeros where it was not.
    """
    with path.open("rb") as file:
        if stored:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(path: Path, kind: str, patience: float = -1) -> FileLock:
    """Returns a lock for one process at a time, held until it is released or that process ends; `with` waits for it.

    It lies beside `path`, which may be moved or replaced meanwhile. patience: seconds until filelock.Timeout; -1: none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.{kind}"), timeout=patience)


def read_cache(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file that can be made again: {} if it is absent or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSON-lines file; a last line that is still being written is left for later."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
