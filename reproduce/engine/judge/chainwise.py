"""Findings over independent chains of a simulation. Rules as in `rules`.

There are thousands of chains, so intervals are normal; but where an error is a jackknife's, over a few groups of them,
they are Student's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from three_factors.reproduce.engine.judge.claims import Finding, Statement
from three_factors.reproduce.engine.judge.estimates import Estimate
from three_factors.reproduce.engine.judge.looks import ONLY
from three_factors.reproduce.engine.judge.rules import Direction, Range, Rule

__all__ = ["Direction", "Range", "equal", "exponent", "jackknife", "over_chains", "unless_mixed"]

Z = float(special.ndtri(1 - ONLY.level))  # two-sided 90 %
GROUPS = 20  # of chains, for the jackknife
ONE = Range(0.9, 1.1)  # an exponent in it is 1


@dataclass(frozen=True)
class OverChains(Estimate):
    """A statistic with a known standard error; of thousands of chains it is normal.

    Attributes:
        found: the statistic.
        error: its standard error.
        n: chains.
        df: degrees of freedom of the error, where it comes from a few groups.
    """

    found: float
    error: float
    n: int
    df: float = math.inf

    @property
    def value(self) -> float:
        return self.found

    def over(self, reference: float) -> OverChains:
        """Returns the same statistic over a positive reference."""
        return replace(self, found=self.found / reference, error=self.error / reference)

    @property
    def _least(self) -> float:
        return max(self.error, 1e-300)

    def interval(self, confidence: float) -> tuple[float, float]:
        p = 0.5 + confidence / 2
        half = (special.ndtri(p) if math.isinf(self.df) else special.stdtrit(self.df, p)) * self._least
        return float(self.found - half), float(self.found + half)

    def p_above(self, edge: float) -> float:
        return self._tail((self.found - edge) / self._least)

    def p_below(self, edge: float) -> float:
        return self._tail((edge - self.found) / self._least)

    def _tail(self, score: float) -> float:
        return float(special.ndtr(-score) if math.isinf(self.df) else special.stdtr(self.df, -score))


def equal(about: Statement, values: np.ndarray, reference: float, margin: float) -> Finding:
    """Returns the finding that the mean of independent values (chains,) over `reference` lies within 1 ± margin."""
    mean, error = float(values.mean()) / reference, float(values.std(ddof=1)) / math.sqrt(len(values)) / abs(reference)
    about = replace(about, statistic=f"{about.statistic}, over theory")
    return over_chains(about, mean, error, Range(1 - margin, 1 + margin), len(values))


def over_chains(about: Statement, value: float, error: float, rule: Rule, n: int) -> Finding:
    """Returns the finding of an estimate from n chains with a known standard error."""
    return Finding(about, rule, OverChains(value, error, n))


def jackknife(statistic: Callable[[np.ndarray], float], chains: int) -> OverChains:
    """Returns a statistic with its standard error, by leaving out groups of chains, and that error's 19 freedoms.

    The statistic takes which chains are used, bool (chains,).
    """
    group = np.arange(chains) % GROUPS
    left_out = np.array([statistic(group != g) for g in range(GROUPS)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((left_out - left_out.mean()) ** 2).sum()))
    return OverChains(statistic(np.ones(chains, dtype=bool)), error, chains, GROUPS - 1)


def exponent(
    about: Statement,
    x: Sequence[float] | np.ndarray,
    distances: Callable[[np.ndarray], np.ndarray],
    chains: int,
    rule: Range = ONE,
) -> Finding:
    """Returns the finding that the log-log slope of `distances` (k,) on x (k,) is 1: that it lies within [0.9, 1.1].

    `distances` takes which chains are used, bool (chains,). The standard error is a jackknife's over groups of chains.
    """
    log_x = np.log(np.asarray(x))

    def slope(used: np.ndarray) -> float:
        y = np.log(np.maximum(distances(used), 1e-300))
        return float(np.polyfit(log_x, y, 1)[0])

    about = replace(about, statistic=f"log-log slope of {about.statistic}")
    return Finding(about, rule, jackknife(slope, chains))


def unless_mixed(found: list[Finding], starts: dict[str, np.ndarray], margin: float) -> list[Finding]:
    """Returns the findings, given no word unless the means from every start (name -> (chains,)) agree within `margin`.

    The values are 0 or 1 for a probability, or a statistic over its theory; the margin is that of the claims.
    Agreement is an equivalence: the 90 % interval of every difference of two means lies within the margin.
    """
    names = list(starts)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            x, y = starts[a].astype(float), starts[b].astype(float)
            difference = float(x.mean() - y.mean())
            half = Z * math.sqrt(x.var() / len(x) + y.var() / len(y))
            if abs(difference) + half > margin:
                why = f"not mixed: chains from '{a}' and from '{b}' differ by {difference:.3f} ± {half:.3f}"
                return [one.without(why) for one in found]
    return found
