"""The ledger of looks on disk: OUT/looks.jsonl, which only grows, merged with the archive's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from three_factors.reproduce.engine.contract.archive import HOME
from three_factors.reproduce.engine.contract.files import lock, write_text
from three_factors.reproduce.engine.judge.looks import Ledger, Spent, spent
from three_factors.reproduce.engine.options import InputError

LOOKS = "looks.jsonl"


def read(out: Path) -> Ledger:
    """Returns the looks spent in a results folder and in the archive. Raises InputError if a ledger is damaged."""
    return Ledger([*_lines(HOME / LOOKS), *_lines(out / LOOKS)])


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other calls from reading and spending looks between this one's reading and its `add`."""
    with lock(folder / LOOKS, "lock"):
        yield


def append(folder: Path, lines: Sequence[Spent]) -> None:
    """Adds the looks that a folder's ledger does not have: a look is spent by a set of runs, not by a call."""
    if lines:
        with held(folder):
            add(folder, lines)


def add(folder: Path, lines: Sequence[Spent]) -> None:
    """Does what `append` does, for one who holds the ledger.

    The file is replaced as a whole: a full disk or a kill leaves the old one.
    """
    file = folder / LOOKS
    there = _lines(file)
    known = {(line.about, line.look, line.runs) for line in there}
    new = [line for line in lines if (line.about, line.look, line.runs) not in known]
    if new:
        before = file.read_text(encoding="utf-8") if there else ""
        added = "".join(json.dumps(line.as_json(), allow_nan=False) + "\n" for line in new)
        write_text(file, (before if before.endswith("\n") or not before else before + "\n") + added)


def of_figure(out: Path, name: str, scale: str) -> list[Spent]:
    """Returns the looks that a results folder's ledger has of one figure at one scale, for the archive's."""
    return [
        line for line in _lines(out / LOOKS) if line.claim.startswith(f"{name}.") and line.place.split(" ")[0] == scale
    ]


def _lines(file: Path) -> list[Spent]:
    """Returns a ledger's lines, the last of them also where a hand's edit has left no end of line."""
    try:
        return [spent(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is damaged ({error}); which looks were spent is not known") from error
