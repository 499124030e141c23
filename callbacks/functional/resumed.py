"""A path's finished points in a file, so that an interrupted `interpolate` goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from three_factors.callbacks.functional.inputs import distributed, of_all_ranks


def about_path(policy: str, one: Any, two: Any, batches: list[Any], estimation: list[Any] | None) -> dict[str, Any]:
    """Returns what the points of a path depend on, but for the loss; of all ranks, the same on each."""
    data = {"batches": batches, "estimation": estimation}
    of_data = {name: digest(of_all_ranks(digest(held))) for name, held in data.items()}
    return {"batch_norm": policy, "start": digest(one), "end": digest(two), **of_data}


def digest(value: Any) -> str:
    """Returns SHA-256 of tensors (type, shape and bytes), also in lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        found = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()
    parts = value.items() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else None
    text = repr(value) if parts is None else " ".join(digest(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


class NotResumed(ValueError):
    """The file does not hold points of this path."""


class Resumed:
    """Points already done, in a file of one JSON line each; the first line says of which path they are.

    Rank 0 alone reads and writes it: the ranks must agree on what is left to do.
    """

    def __init__(self, path: str | Path | None, about: dict[str, Any]) -> None:
        self.path, self.points = None if path is None else Path(path), {}
        self.writes = not distributed() or torch.distributed.get_rank() == 0
        if self.path is None:
            return
        problem, self.points = of_all_ranks(self._opened(self.path, about) if self.writes else None)[0]
        if problem:
            raise NotResumed(f"resume: {str(self.path)!r} {problem}")

    @staticmethod
    def _opened(path: Path, about: dict[str, Any]) -> tuple[str, dict[float, tuple[float, ...]]]:
        """Returns what is wrong with the file, or "", and its points; afterwards it can be appended to."""
        text = path.read_text(errors="replace") if path.exists() else ""
        if not text:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.draft")
            draft.write_text(json.dumps(about) + "\n")
            draft.replace(path)
            return "", {}
        header, *lines = (_parsed(line) for line in text.splitlines())
        if not isinstance(header, dict):
            return "does not begin with the header of a path", {}
        other = [name for name in about | header if about.get(name) != header.get(name)]
        if other:
            return f"holds points of another path; not the same: {', '.join(other)}", {}
        if not text.endswith("\n"):  # killed while it wrote: the next point must not end in that line
            with path.open("a") as file:
                file.write("\n")
        rows = [row for row in lines if isinstance(row, list) and [type(x) for x in row] == 4 * [float]]
        return "", {a: tuple(point) for a, *point in rows}

    def add(self, a: float, point: tuple[float, float, float]) -> None:
        self.points[a] = point
        if self.path is not None and self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps([a, *point]) + "\n")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
