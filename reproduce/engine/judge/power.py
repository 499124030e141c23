"""What claims can hope for, from the spread between seeds that the last judged call found.

It is printed and never acted on: the spread of a few seeds is itself known to a factor only, and whoever sets the
number of seeds by it, or adds some until a claim is supported, finds what was looked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.rules import Direction, Range, from_json

WEAK = 0.6  # below this power a claim is seldom confirmed where it holds
MANY = 128  # seeds: a claim that needs more needs another statistic
SURE = 0.9  # two-sided, of the range of a spread


@dataclass(frozen=True)
class Hope:
    """Describes what a claim can hope for.

    Attributes:
        power: that it is supported where it holds: twice the smallest effect, or the middle of the range; and the power
            at the largest and at the smallest spread that so many seeds allow.
        needs_n: how many seeds give it enough, with their range, "12 (3 to 40)"; None if it has that.
    """

    power: tuple[float, float, float]
    needs_n: str | None = None


def hopes(claims: list[dict[str, Any]], seeds: int, first: int) -> dict[str, Hope]:
    """Returns id -> what each stored primary claim can hope for at so many seeds; the first look is at `first`."""
    found = {}
    for claim in claims:
        spread, n = claim.get("spread"), claim["n"]
        if claim.get("primary") and spread and n > 1:
            found[claim["id"]] = _hope(claim, float(spread), int(n), seeds, first)
    return found


def _hope(claim: Mapping[str, Any], spread: float, n: int, seeds: int, first: int) -> Hope:
    low, high = spread_range(spread, n)
    powers = tuple(round(power(claim, sd, seeds, first), 3) for sd in (spread, high, low))
    if powers[0] >= WEAK:
        return Hope(powers)  # type: ignore[arg-type]
    needed = [needs(claim, sd, first) for sd in (spread, low, high)]
    words = ["another statistic is needed" if of > MANY else str(of) for of in needed]
    return Hope(powers, words[0] if needed[0] > MANY else f"{words[0]} ({words[1]} to {words[2]})")  # type: ignore[arg-type]


def spread_range(spread: float, n: int) -> tuple[float, float]:
    """Returns the 90 % range of an sd that was found from n seeds."""
    quantiles = (special.chdtri(n - 1, p) for p in ((1 - SURE) / 2, (1 + SURE) / 2))
    low, high = (spread * math.sqrt((n - 1) / of) for of in quantiles)
    return low, high


def power(claim: Mapping[str, Any], sd: float, seeds: int, first: int) -> float:
    """Returns the probability of the word 'supported', before Holm, at a spread."""
    if seeds < 2:
        return 0.0
    rule, level = from_json(claim["rule"]), look(seeds, first).level
    edge = float(special.stdtrit(seeds - 1, 1 - level))
    alone = 1 - float(special.nctdtr(seeds - 1, _distance(rule, claim.get("scale", "")) * math.sqrt(seeds) / sd, edge))
    return max(0.0, 2 * alone - 1) if isinstance(rule, Range) else alone


def needs(claim: Mapping[str, Any], sd: float, first: int) -> int:
    """Returns the smallest number of seeds that gives enough power; `MANY` + 1 if that is not enough."""
    return next((n for n in range(2, MANY + 1) if power(claim, sd, n, first) >= WEAK), MANY + 1)


def _distance(rule: Direction | Range, scale: str) -> float:
    """Returns how far from the null, or from the nearest edge, the truth lies that power is asked for."""

    def at(value: float) -> float:
        return float(np.log(value)) if scale == "log" else value

    if isinstance(rule, Range):
        return (at(rule.high) - at(rule.low)) / 2
    if rule.smallest:
        return 2 * abs(at(rule.interesting) - at(rule.null))
    return abs(at(rule.null)) or math.inf  # the null of a test of non-inferiority: no difference at all
