"""The ledger of looks on disk: OUT/looks.jsonl, which only grows, merged with the archive's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from three_factors.reproduce.engine.contract.archive import HOME
from three_factors.reproduce.engine.contract.files import lock, read_lines
from three_factors.reproduce.engine.judge.looks import Ledger, Spent, spent
from three_factors.reproduce.engine.options import InputError

LOOKS = "looks.jsonl"


def read(out: Path) -> Ledger:
    """Returns the looks spent in a results folder and in the archive. Raises InputError if a ledger is damaged."""
    return Ledger([*_lines(HOME / LOOKS), *_lines(out / LOOKS)])


def append(folder: Path, lines: Sequence[Spent]) -> None:
    """Adds the looks that a folder's ledger does not have: a look is spent by a set of runs, not by a call."""
    if not lines:
        return
    file = folder / LOOKS
    folder.mkdir(parents=True, exist_ok=True)
    with lock(file, "lock"):
        known = {(line.about, line.look, line.runs) for line in _lines(file)}
        new = [line for line in lines if (line.about, line.look, line.runs) not in known]
        if new:
            with file.open("a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(line.as_json(), allow_nan=False) + "\n" for line in new))


def of_figure(out: Path, name: str, scale: str) -> list[Spent]:
    """Returns the looks that a results folder's ledger has of one figure at one scale, for the archive's."""
    return [
        line for line in _lines(out / LOOKS) if line.claim.startswith(f"{name}.") and line.place.split(" ")[0] == scale
    ]


def _lines(file: Path) -> list[Spent]:
    try:
        return [spent(line) for line in read_lines(file)]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is damaged ({error}); which looks were spent is not known") from error
