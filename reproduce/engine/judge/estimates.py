"""What was found of a statistic: its value, its interval at any confidence, how sure it is above or below an edge.

The replicates are seeds, and arms of one seed are pairs. A seed without a value (its run diverged, or never crossed a
level) was not lost by chance: it enters with that seed's value which is least favourable for what is to be shown. A
value that lies beyond what was tried enters as bounded on one side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from three_factors.reproduce.engine.judge.student import LEAST, fieller, quantile, tail, tail_of_mean

FEWEST = 2  # seeds with a value
MOST_LOST = 0.2  # of the seeds: with more nothing is decided


@dataclass(frozen=True)
class Scale:
    """The scale on which a statistic is averaged over seeds.

    Attributes:
        to: from the statistic.
        back: to the statistic.
        name: for people; "" where it is the statistic's own.
    """

    to: Callable[[Any], Any]
    back: Callable[[Any], Any]
    name: str = ""


PLAIN = Scale(lambda x: x, lambda x: x)
LOG = Scale(np.log, np.exp, "log")


class Estimate(ABC):
    """A statistic as it was found.

    Attributes:
        n: replicates: seeds or chains.
        lost: of them without a value.
        on: the scale that it is averaged on, "log"; "" for its own.
    """

    n: int
    lost: int = 0
    on: str = ""

    @property
    @abstractmethod
    def value(self) -> float | None:
        """Returns the statistic; None if it is undefined."""

    @abstractmethod
    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Returns the two-sided interval; None if it is unbounded."""

    @abstractmethod
    def p_above(self, edge: float) -> float:
        """Returns the one-sided p of the statistic lying above an edge: small where it does."""

    @abstractmethod
    def p_below(self, edge: float) -> float:
        """Returns the one-sided p of the statistic lying below an edge."""

    def p_inside(self, low: float, high: float) -> float:
        """Returns the p of it lying between two edges: of two one-sided tests the worse."""
        return max(self.p_above(low), self.p_below(high))

    def p_outside(self, low: float, high: float) -> float:
        """Returns the one-sided p of it lying beyond either edge."""
        return min(self.p_below(low), self.p_above(high))

    @property
    def spread(self) -> float | None:
        """Returns the sd of one replicate, on the scale that it is averaged on; None if there is no such thing."""
        return None

    @property
    def too_many_lost(self) -> bool:
        """Tells whether so many seeds have no value that nothing is decided."""
        return self.lost > MOST_LOST * self.n


class OverSeeds(Estimate):
    """The mean of a number a seed, with Student's t on its scale.

    Args:
        values: (n,); NaN where a seed has none.
        scale: on which the mean is taken.
        at_least: bounds (n,) of values that lie beyond what was tried, where `values` are +inf; and -inf below
            `at_most`.
        at_most: likewise.
    """

    def __init__(
        self,
        values: np.ndarray,
        scale: Scale = PLAIN,
        *,
        at_least: np.ndarray | None = None,
        at_most: np.ndarray | None = None,
    ) -> None:
        found = np.asarray(values, dtype=float)
        known = ~np.isnan(found)
        self.n, self.lost, self.scale, self.on = len(found), int((~known).sum()), scale, scale.name
        self.values = found
        above, below = np.isposinf(found), np.isneginf(found)
        lows = np.where(above, math.nan if at_least is None else at_least, found)
        highs = np.where(below, math.nan if at_most is None else at_most, found)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._lows = np.where(below, -math.inf, np.asarray(scale.to(np.where(below, math.nan, lows)), dtype=float))
            self._highs = np.where(above, math.inf, np.asarray(scale.to(np.where(above, math.nan, highs)), dtype=float))
        if known.sum() < FEWEST:
            raise ValueError(f"values: {int(known.sum())} seeds have one, fewer than {FEWEST}")

    @property
    def value(self) -> float | None:
        middle = float(np.mean(self._lows[~np.isnan(self._lows)]))
        return float(self.scale.back(middle)) if math.isfinite(middle) else None

    @property
    def spread(self) -> float:
        there = self._lows[np.isfinite(self._lows)]
        return float(there.std(ddof=1)) if len(there) > 1 else 0.0

    @property
    def bounded(self) -> int:
        """Counts the seeds whose values lie beyond what was tried."""
        return int(np.isinf(self.values).sum())

    def interval(self, confidence: float) -> tuple[float, float]:
        t = quantile(confidence, self.n - 1)
        (low, below), (high, above) = self._mean(upper=False), self._mean(upper=True)
        return float(self.scale.back(low - t * below)), float(self.scale.back(high + t * above))

    def p_above(self, edge: float) -> float:
        middle, error = self._mean(upper=False)
        return tail(middle - self._at(edge), error, self.n - 1)

    def p_below(self, edge: float) -> float:
        middle, error = self._mean(upper=True)
        return tail(self._at(edge) - middle, error, self.n - 1)

    def _at(self, edge: float) -> float:
        with np.errstate(divide="ignore"):
            return float(self.scale.to(edge))

    def _mean(self, *, upper: bool) -> tuple[float, float]:
        """Returns the mean and its standard error, lost seeds as low (`upper`: as high) as any."""
        values = self._highs if upper else self._lows
        lost = np.isnan(values)
        if lost.all():
            return (math.inf if upper else -math.inf), math.inf
        filled = np.where(lost, (np.nanmax if upper else np.nanmin)(values), values)
        if np.isinf(filled).any():
            return (math.inf if upper else -math.inf), math.inf
        return float(filled.mean()), max(float(filled.std(ddof=1)) / math.sqrt(len(filled)), LEAST)


class Ratio(Estimate):
    """mean(above)/mean(below) of paired numbers a seed, by Fieller; below is positive if the claim's direction holds.

    What is asked of the ratio r is asked of the mean of above - r below, so a small denominator makes nothing certain.

    Args:
        above: (n,); NaN where a seed has none.
        below: (n,), likewise.
    """

    def __init__(self, above: np.ndarray, below: np.ndarray) -> None:
        pairs = np.stack([np.asarray(above, dtype=float), np.asarray(below, dtype=float)], axis=1)
        known = ~np.isnan(pairs).any(axis=1)
        self.n, self.lost = len(pairs), int((~known).sum())
        if known.sum() < FEWEST:
            raise ValueError(f"values: {int(known.sum())} seeds have one, fewer than {FEWEST}")
        self._known = pairs[known]
        # A seed without a value takes, one after the other, that of every seed.
        fillings = self._known if self.lost else self._known[:1]
        self._filled = [np.where(known[:, None], pairs, filling) for filling in fillings]

    @property
    def value(self) -> float | None:
        a, d = self._known.mean(axis=0)
        return float(a / d) if d else None

    @property
    def spread(self) -> float | None:
        if self.value is None:
            return None
        above, below = self._known.T
        return float(np.std(above - self.value * below, ddof=1) / abs(below.mean()))

    def interval(self, confidence: float) -> tuple[float, float] | None:
        found = [fieller(pairs, confidence) for pairs in self._filled]
        bounds = [of for of in found if of is not None]
        if len(bounds) < len(found):
            return None
        return min(low for low, _ in bounds), max(high for _, high in bounds)

    def p_above(self, edge: float) -> float:
        return max(self._positive(edge, 1), self._denominator())

    def p_below(self, edge: float) -> float:
        return max(self._positive(edge, -1), self._denominator())

    def p_inside(self, low: float, high: float) -> float:
        return max(self._positive(low, 1), self._positive(high, -1))  # both together have the denominator positive

    def p_outside(self, low: float, high: float) -> float:
        """Returns the p of every ratio between the edges being wrong, also where the denominator may be 0."""
        return min(max(self._positive(edge, sign) for edge in (low, high)) for sign in (1, -1))

    def _positive(self, edge: float, sign: int) -> float:
        """Returns the p of sign (above - edge below) having a positive mean."""
        return max(tail_of_mean(sign * (pairs[:, 0] - edge * pairs[:, 1])) for pairs in self._filled)

    def _denominator(self) -> float:
        return max(tail_of_mean(pairs[:, 1]) for pairs in self._filled)


class Trend(Estimate):
    """A rise over ordered groups: that there is one is shown by a permutation test, how much of one by a slope a seed.

    Args:
        slopes: of the groups' values, a seed.
        p: exact, one-sided, of a rise.
    """

    def __init__(self, slopes: OverSeeds, p: float) -> None:
        self.slopes, self.p = slopes, p
        self.n, self.lost = slopes.n, slopes.lost

    @property
    def value(self) -> float | None:
        return self.slopes.value

    @property
    def spread(self) -> float:
        return self.slopes.spread

    def interval(self, confidence: float) -> tuple[float, float]:
        return self.slopes.interval(confidence)

    def p_above(self, edge: float) -> float:
        """Returns the permutation test's p, which is about a rise of any size: `edge` is 0."""
        if edge != 0:
            raise ValueError(f"edge: {edge!r}; a trend is tested against none")
        return self.p

    def p_below(self, edge: float) -> float:
        return self.slopes.p_below(edge)


def furthest(parts: Sequence[Estimate]) -> Estimate:
    """Returns the one furthest from 0; one without a value is further than any."""
    return max(parts, key=lambda of: math.inf if of.value is None else abs(of.value))


class AllOf(Estimate):
    """Several estimates that have to lie inside, or above an edge, all of them: the worst of them is shown.

    That all do is as sure as the least sure of them; that one does not is shown at their number times its level.

    Args:
        parts: the estimates.
        worst: of them, the one that is shown.
    """

    def __init__(self, parts: Sequence[Estimate], worst: Callable[[Sequence[Estimate]], Estimate]) -> None:
        self.parts, self.worst = parts, worst(parts)
        self.n, self.lost = min(of.n for of in parts), max(of.lost for of in parts)

    @property
    def value(self) -> float | None:
        return self.worst.value

    @property
    def spread(self) -> float | None:
        return self.worst.spread

    def interval(self, confidence: float) -> tuple[float, float] | None:
        return self.worst.interval(confidence)

    def p_above(self, edge: float) -> float:
        return max(of.p_above(edge) for of in self.parts)

    def p_below(self, edge: float) -> float:
        """Returns the p of one of them lying below."""
        return min(1.0, len(self.parts) * min(of.p_below(edge) for of in self.parts))

    def p_inside(self, low: float, high: float) -> float:
        return max(of.p_inside(low, high) for of in self.parts)

    def p_outside(self, low: float, high: float) -> float:
        return min(1.0, len(self.parts) * min(of.p_outside(low, high) for of in self.parts))


@dataclass(frozen=True)
class Alone(Estimate):
    """A number that stands alone: nothing is known of its error, and nothing is decided by it."""

    found: float
    n: int = 1

    @property
    def value(self) -> float:
        return self.found

    def interval(self, confidence: float) -> None:
        return None

    def p_above(self, edge: float) -> float:
        return 1.0

    def p_below(self, edge: float) -> float:
        return 1.0


def estimated(values: Sequence[np.ndarray], make: Callable[..., Estimate]) -> Estimate | None:
    """Returns the estimate from numbers a seed; None where fewer than 2 seeds have them."""
    known = ~np.isnan(np.stack([np.asarray(of, dtype=float) for of in values])).any(axis=0)
    return make(*values) if known.sum() >= FEWEST else None
