"""The verdict rules, the same for every claim: where the interval of a statistic lies, against what was fixed before.

Direction: supported if the one-sided 95 % bound excludes the null the claimed way, not supported if the two-sided 90 %
interval excludes the smallest effect of interest, else inconclusive. Range (equivalence, or a location): supported if
the interval lies inside, not supported if wholly outside, else inconclusive. Holm's correction within a figure can only
take a support back (`claims.holm`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["supported", "not supported", "inconclusive", "not judged"]
ALPHA = 0.05
CONFIDENCE = 1 - 2 * ALPHA  # two one-sided tests at ALPHA


# What verdicts are called where runs are further from the paper's than its words bear.
BELOW: dict[str, str] = {"supported": "seen", "not supported": "not seen", "inconclusive": "undecided"}


@dataclass(frozen=True)
class Direction:
    """The statistic lies beyond `null`.

    Attributes:
        sign: 1 above, -1 below.
        smallest: the effect of interest, from `null`.
        null: where there is no effect; with a negative one it is a test of non-inferiority.
    """

    sign: int
    smallest: float
    null: float = 0.0

    @property
    def confidence(self) -> float:
        return CONFIDENCE

    def verdict(self, low: float, high: float) -> Verdict:
        """Judges an interval."""
        nearest, farthest = (low, high) if self.sign > 0 else (high, low)
        if self.sign * (nearest - self.null) > 0:
            return "supported"
        interesting = self.null + self.sign * self.smallest
        return "not supported" if self.sign * (farthest - interesting) < 0 else "inconclusive"

    def __str__(self) -> str:
        return f"{'>' if self.sign > 0 else '<'} {self.null:g}, smallest effect of interest {self.smallest:g}"


@dataclass(frozen=True)
class Range:
    """The statistic lies in [low, high]; its interval has this confidence."""

    low: float
    high: float
    confidence: float = CONFIDENCE

    def verdict(self, low: float, high: float) -> Verdict:
        """Judges an interval."""
        if self.low < low and high < self.high:
            return "supported"
        return "not supported" if high < self.low or low > self.high else "inconclusive"

    def __str__(self) -> str:
        level = "" if self.confidence == CONFIDENCE else f", interval at {100 * self.confidence:g} %"
        return f"within [{self.low:g}, {self.high:g}]{level}"


@dataclass(frozen=True)
class Contains:
    """The interval of the statistic contains `value`; one wider than `width` decides nothing."""

    value: float
    width: float
    confidence: float = 0.95

    def verdict(self, low: float, high: float) -> Verdict:
        """Judges an interval."""
        if not low <= self.value <= high:
            return "not supported"
        return "supported" if high - low <= self.width else "inconclusive"

    def __str__(self) -> str:
        return f"{100 * self.confidence:g} % interval contains {self.value:g}, no wider than {self.width:g}"


Rule = Direction | Range | Contains


def within(margin: float) -> Range:
    """Returns the rule of equivalence: no further from 0 than `margin`."""
    return Range(-margin, margin)


def as_json(rule: Rule) -> dict[str, Any]:
    """Returns a rule's kind and numbers, by which a stored claim is known to be judged by it."""
    return {"kind": type(rule).__name__.lower(), **asdict(rule)}
