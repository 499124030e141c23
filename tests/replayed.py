"""Whether runs that are made again agree with the archive.

    python reproduce/fig1.py --out AGAIN
    python tests/replayed.py AGAIN

Each finished run of AGAIN that the archive has is held against it: bit-equal where runs end (and to the archive's four
digits in between), else how far apart its end is, in standard deviations of a difference of two seeds of its setting in
the archive. Four seeds give a rough standard deviation, so that one run says little: exit status 1 if half of the runs
are further off than two seeds are (the median of |t| at the setting's degrees of freedom), in any of what is compared.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]
COMPARED = ("train/loss", "train_subset/loss", "val/accuracy", "test/accuracy")


def ends(run: Any) -> dict[str, float]:
    """Returns what a run ended at; without what has no value, as after a divergence."""
    return {name: value for name, value in run.result()["final"].items() if value is not None}


def same(kept: Any, made: Any) -> bool:
    """Tells whether a run made again is the archive's, to the bit where it ends."""
    from three_factors.reproduce.engine.contract.compact import four_digits

    if ends(kept) != ends(made):
        return False
    for one, other in zip(kept.rows(), made.rows(), strict=True):
        if any(four_digits(np.array(other[name], dtype=float)) != of for name, of in one.items() if name in COMPARED):
            return False
    return True


def again(out: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Yields (block, kept, made) of every run that both have."""
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.block import ArchivedRun
    from three_factors.reproduce.engine.contract.run_folder import RunFolder

    archive = Archive()
    for folder in sorted((out / "runs").iterdir()):
        blocks = [archive.block(name) for name in archive.index["keys"].get(folder.name, ())]
        made = RunFolder(folder)
        if blocks and made.result() is not None:
            yield blocks[0], ArchivedRun(archive.folder / folder.name, blocks=tuple(blocks)), made


def spread(block: Any, key: str, name: str) -> tuple[float, int]:
    """Returns the sd over the seeds that the archive has of a run's setting, and how many they are."""
    from three_factors.reproduce.engine.contract.block import ArchivedRun

    told, setting = block.told, block.told["setting"][block.place[key]]
    # Settings of several seeds differ in the split of their data alone.
    alike = [other for other, of in zip(told["runs"], told["setting"]) if _but_for_the_split(told, of, setting)]
    runs = [ArchivedRun(block.folder / other, blocks=(block,)) for other in alike]
    values = [run.result()["final"].get(name, math.nan) for run in runs]
    return (float(np.nanstd(values, ddof=1)) if len(values) > 1 else math.nan), len(values)


def _but_for_the_split(told: dict[str, Any], one: int, other: int) -> bool:
    def plain(at: int) -> dict[str, Any]:
        of = dict(told["settings"][at])
        return of | {"data": {**of["data"], "split_seed": 0}}

    return plain(one) == plain(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    pairs = list(again(options.out))
    others = [pair for pair in pairs if not same(*pair[1:])]
    print(f"{len(pairs)} runs of {options.out} are in the archive: {len(pairs) - len(others)} equal to the bit")
    far = False
    for name in COMPARED if others else ():
        gaps = [gap for pair in others if (gap := _gap(*pair, name)) is not None]
        if not gaps:
            continue
        median, usual = np.median(gaps, axis=0)
        far = far or median > usual
        alone = sum(math.isinf(gap) for gap, _ in gaps)
        print(
            f"{name}: {len(gaps)} runs off by {median:.2f} of two seeds' sd at the median, {usual:.2f} between seeds"
            + (f"; {alone} have a value in one of the two alone" if alone else "")
        )
    raise SystemExit(int(far or not pairs))


def _gap(block: Any, kept: Any, made: Any, name: str) -> tuple[float, float] | None:
    """Returns how far apart two ends are, in sds of a difference of two seeds, and what is usual.

    Endlessly far where one of them alone has a value; None where neither has, or seeds do not differ.
    """
    first, second = ends(kept).get(name), ends(made).get(name)
    sd, seeds = spread(block, made.path.name, name)
    usual = float(stats.t.ppf(0.75, max(seeds - 1, 1)))
    if (first is None) != (second is None):
        return math.inf, usual
    if first is None or second is None or not sd > 0:
        return None
    return abs(first - second) / (math.sqrt(2) * sd), usual


if __name__ == "__main__":
    main()
