"""Whether runs that are made again agree with the archive.

    python reproduce/fig1.py --out AGAIN
    python tests/replayed.py AGAIN

Each finished run of AGAIN that the archive has is held against it: bit-equal where runs end (and to the archive's four
digits in between), else how far apart, in standard deviations of the setting's seeds in the archive. Exit status 1 if
any differs by more than three.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]
COMPARED = ("train/loss", "train_subset/loss", "val/accuracy", "test/accuracy")
FURTHEST = 3.0  # sds


def same(kept: Any, made: Any) -> bool:
    """Tells whether a run made again is the archive's, to the bit where it ends."""
    from three_factors.reproduce.engine.contract.compact import four_digits

    first, second = kept.result()["final"], made.result()["final"]
    if any(first[name] != second.get(name) for name in first):
        return False
    for one, other in zip(kept.rows(), made.rows(), strict=True):
        if any(four_digits(np.array(other[name], dtype=float)) != of for name, of in one.items() if name in COMPARED):
            return False
    return True


def again(out: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Yields (block, kept, made) of every run that both have."""
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.block import ArchivedRun
    from three_factors.reproduce.engine.contract.folder import RunFolder

    archive = Archive()
    for folder in sorted((out / "runs").iterdir()):
        blocks = [archive.block(name) for name in archive.index["keys"].get(folder.name, ())]
        made = RunFolder(folder)
        if blocks and made.result() is not None:
            yield blocks[0], ArchivedRun(archive.folder / folder.name, blocks=tuple(blocks)), made


def spread(block: Any, key: str, name: str) -> float:
    """Returns the sd over the seeds that the archive has of a run's setting."""
    from three_factors.reproduce.engine.contract.block import ArchivedRun

    told, setting = block.told, block.told["setting"][block.place[key]]
    # Settings of several seeds differ in the split of their data alone.
    alike = [other for other, of in zip(told["runs"], told["setting"]) if _but_for_the_split(told, of, setting)]
    runs = [ArchivedRun(block.folder / other, blocks=(block,)) for other in alike]
    values = [run.result()["final"].get(name, math.nan) for run in runs]
    return float(np.nanstd(values, ddof=1)) if len(values) > 1 else math.nan


def _but_for_the_split(told: dict[str, Any], one: int, other: int) -> bool:
    def plain(at: int) -> dict[str, Any]:
        of = dict(told["settings"][at])
        return of | {"data": {**of["data"], "split_seed": 0}}

    return plain(one) == plain(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    equal, furthest, count = 0, (0.0, ""), 0
    for block, kept, made in again(options.out):
        count += 1
        if same(kept, made):
            equal += 1
            continue
        first, second = kept.result()["final"], made.result()["final"]
        for name in COMPARED:
            if name in first and name in second:
                gap = abs(first[name] - second[name]) / spread(block, made.path.name, name)
                furthest = max(furthest, (gap, f"{name} of {made.path.name}"))
    print(f"{count} runs of {options.out} are in the archive: {equal} equal to the bit")
    if equal < count:
        print(f"the furthest of the others: {furthest[1]}, {furthest[0]:.2g} sds of its setting's seeds")
    raise SystemExit(not count or furthest[0] > FURTHEST)


if __name__ == "__main__":
    main()
