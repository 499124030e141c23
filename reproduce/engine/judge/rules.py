"""The verdict rules, the same for every claim.

A direction is supported if the look's interval excludes the null the claimed way, and not supported if it excludes the
smallest effect of interest. An equivalence or a location is supported if the interval lies inside the range, not
supported if wholly outside. Everything else is inconclusive: what was not rejected is not thereby shown. A word needs
its interval and Holm's p over the figure's primary claims as well (`verdicts.judge`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from three_factors.reproduce.engine.judge.estimates import Estimate

TAG = "rules-2"  # the rules that words are given by; words of other rules are another ledger's
Verdict = Literal["supported", "not supported", "inconclusive", "not judged", "estimated"]
# What verdicts are called where runs are further from the paper's than its words bear.
BELOW: dict[str, str] = {"supported": "seen", "not supported": "not seen", "inconclusive": "undecided"}


@dataclass(frozen=True)
class Direction:
    """Asks that the statistic lie beyond `null`.

    Attributes:
        sign: 1 above, -1 below.
        smallest: the effect of interest, from `null`.
        null: where there is no effect; with a negative one it is a test of non-inferiority.
    """

    sign: int
    smallest: float
    null: float = 0.0

    @property
    def interesting(self) -> float:
        """Returns the statistic at the smallest effect of interest."""
        return self.null + self.sign * self.smallest

    def p_support(self, found: Estimate) -> float:
        """Returns the one-sided p of the statistic lying beyond `null`."""
        return found.p_above(self.null) if self.sign > 0 else found.p_below(self.null)

    def p_refute(self, found: Estimate) -> float:
        """Returns the one-sided p of it falling short of the smallest effect of interest."""
        return found.p_below(self.interesting) if self.sign > 0 else found.p_above(self.interesting)

    def holds(self, value: float) -> bool:
        """Tells whether a value lies on the claimed side."""
        return self.sign * (value - self.null) > 0

    def __str__(self) -> str:
        return f"{'>' if self.sign > 0 else '<'} {self.null:g}, smallest effect of interest {self.smallest:g}"


@dataclass(frozen=True)
class Range:
    """Asks that the statistic lie in [low, high]."""

    low: float
    high: float

    def p_support(self, found: Estimate) -> float:
        """Returns the p of the statistic lying inside."""
        return found.p_inside(self.low, self.high)

    def p_refute(self, found: Estimate) -> float:
        """Returns the p of it lying outside."""
        return found.p_outside(self.low, self.high)

    def holds(self, value: float) -> bool:
        """Tells whether a value lies inside."""
        return self.low < value < self.high

    def __str__(self) -> str:
        return f"within [{self.low:g}, {self.high:g}]"


Rule = Direction | Range


def within(margin: float) -> Range:
    """Returns the rule of equivalence: no further from 0 than `margin`."""
    return Range(-margin, margin)


def as_json(rule: Rule) -> dict[str, Any]:
    """Returns a rule's kind and numbers, by which a stored claim is known to be judged by it."""
    return {"kind": type(rule).__name__.lower(), **asdict(rule)}


def from_json(stored: dict[str, Any]) -> Rule:
    """Returns the rule of a stored claim."""
    kind = {"direction": Direction, "range": Range}[stored["kind"]]
    return kind(**{name: value for name, value in stored.items() if name != "kind"})
