"""What claims can hope for, simulated before anything is trained: their power, and the seeds they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from three_factors.reproduce.engine.judge.claims import Claim, holm
from three_factors.reproduce.engine.judge.table import Evidence

WEAK = 0.6  # below this power a claim is seldom confirmed where it holds
SEEDS_DRAWN = 3_000  # in all experiments of a size: a share of 40 experiments is known to 8 %
GRID = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)  # seeds

Check = Callable[[Any], list[Claim]]
Draw = Callable[[int, np.random.Generator], Evidence]


@dataclass(frozen=True)
class Hope:
    """Describes what a claim can hope for before anything is trained.

    Attributes:
        power: the share of experiments that would support it where it holds.
        needs_n: how many seeds give it enough, "≥ 16"; None if it has that.
    """

    power: float | None = None
    needs_n: str | None = None


def hopes(check: Check, draw: Draw, n: int) -> dict[str, Hope]:
    """Returns id -> what each claim can hope for at n seeds, `draw`n under the claims' truth."""
    powers = simulated(check, draw, n)
    needs = needed(check, draw, powers, n)
    names = [claim.id for claim in check(draw(n, np.random.default_rng(0)))]
    return {name: Hope(power, need) for name, power, need in zip(names, powers, needs)}


def simulated(check: Check, draw: Draw, n: int, trials: int = 300) -> list[float]:
    """Returns the share of simulated experiments of n seeds in which each claim is supported."""
    random = np.random.Generator(np.random.PCG64(20171113))
    verdicts = [[c.verdict == "supported" for c in holm(check(draw(n, random)))] for _ in range(trials)]
    return [round(float(share), 3) for share in np.mean(verdicts, axis=0)]


def needed(check: Check, draw: Draw, powers: list[float], n: int, trials: int = 150) -> list[str | None]:
    """Returns, for every claim whose power at n seeds is weak, the smallest number of `GRID` that gives enough."""
    weak = [i for i, p in enumerate(powers) if p < WEAK]
    known: dict[int, list[float]] = {}

    def enough(size: int, claim: int) -> bool:
        if size not in known:
            known[size] = simulated(check, draw, size, max(40, min(trials, SEEDS_DRAWN // size)))
        return known[size][claim] >= WEAK

    answers: list[str | None] = [None] * len(powers)
    larger = [size for size in GRID if size > n]
    for i in weak:
        low, high = 0, len(larger)
        while low < high:  # power grows with n
            middle = (low + high) // 2
            low, high = (low, middle) if enough(larger[middle], i) else (middle + 1, high)
        answers[i] = f"≥ {larger[low]}" if low < len(larger) else f"> {GRID[-1]}"
    return answers
