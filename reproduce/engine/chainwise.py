"""Claims over independent chains of a simulation: thousands of them, so intervals are normal. Rules as in `claims`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from three_factors.reproduce.engine.claims import ALPHA, Claim, Verdict

Z = float(special.ndtri(1 - ALPHA))  # two-sided 90 %
GROUPS = 20  # of chains, for the jackknife


def equal(
    values: np.ndarray, reference: float, margin: float, *, claim: str, statistic: str, paper: str | None = None,
    control_of: str = "",
) -> Claim:  # fmt: skip
    """The mean of independent values (chains,) over `reference` lies within 1 ± margin."""
    mean, error = float(values.mean()) / reference, float(values.std(ddof=1)) / math.sqrt(len(values)) / abs(reference)
    statistic = f"{statistic}, over theory; within 1 ± {margin:g}"
    return _judged(mean, error, 1 - margin, 1 + margin, len(values), claim, statistic, paper, control_of)


def between(
    value: float, error: float, low: float, high: float, n: int, *, claim: str, statistic: str,
    paper: str | None = None, control_of: str = "",
) -> Claim:  # fmt: skip
    """An estimate with a known standard error lies in [low, high]."""
    return _judged(value, error, low, high, n, claim, f"{statistic}; within [{low:g}, {high:g}]", paper, control_of)


def _judged(
    value: float, error: float, low: float, high: float, n: int, claim: str, statistic: str, paper: str | None,
    control_of: str,
) -> Claim:  # fmt: skip
    left, right = value - Z * error, value + Z * error
    verdict: Verdict = "supported" if low < left and right < high else "inconclusive"
    if right < low or left > high:
        verdict = "not supported"
    error = max(error, 1e-300)
    p = max(float(special.ndtr((low - value) / error)), float(special.ndtr((value - high) / error)))
    return Claim(claim, statistic, value, left, right, n, verdict, p, paper=paper, control_of=control_of)


def above(
    value: float, error: float, bound: float, n: int, *, smallest: float, claim: str, statistic: str,
    paper: str | None = None, control_of: str = "",
) -> Claim:  # fmt: skip
    """An estimate lies above `bound`; `smallest` is the effect of interest, from there."""
    left, right = value - Z * error, value + Z * error
    verdict: Verdict = "supported" if left > bound else "not supported" if right < bound + smallest else "inconclusive"
    p = float(special.ndtr((bound - value) / max(error, 1e-300)))
    statistic = f"{statistic}; > {bound:g}, smallest effect of interest {smallest:g}"
    return Claim(claim, statistic, value, left, right, n, verdict, p, paper=paper, control_of=control_of)


def jackknife(statistic: Callable[[np.ndarray], float], chains: int) -> tuple[float, float]:
    """A statistic and its standard error, by leaving out groups of chains; it takes which are used, bool (chains,)."""
    group = np.arange(chains) % GROUPS
    left_out = np.array([statistic(group != g) for g in range(GROUPS)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((left_out - left_out.mean()) ** 2).sum()))
    return statistic(np.ones(chains, dtype=bool)), error


def exponent(
    x: Sequence[float] | np.ndarray, distances: Callable[[np.ndarray], np.ndarray], chains: int, expected: float, *,
    claim: str, statistic: str, width: float = 0.5,
) -> Claim:  # fmt: skip
    """The log-log slope of `distances` (k,) on x (k,) is `expected`: its 95 % interval contains it.

    `distances` takes which chains are used, bool (chains,). The interval is a jackknife's over groups of chains. An
    interval wider than `width` decides nothing.
    """
    log_x = np.log(np.asarray(x))

    def slope(used: np.ndarray) -> float:
        y = np.log(np.maximum(distances(used), 1e-300))
        return float(np.polyfit(log_x, y, 1)[0])

    whole, error = jackknife(slope, chains)
    half = float(special.stdtrit(GROUPS - 1, 0.975)) * error
    low, high = whole - half, whole + half
    verdict: Verdict = "not supported"
    if low <= expected <= high:
        verdict = "supported" if high - low <= width else "inconclusive"
    statistic = f"log-log slope of {statistic}; 95 % interval contains {expected:g}, no wider than {width:g}"
    return Claim(claim, statistic, whole, low, high, chains, verdict)


def unless_mixed(found: list[Claim], starts: dict[str, np.ndarray], margin: float) -> list[Claim]:
    """The claims, not judged unless the means over chains from every start (name -> (chains,)) agree within `margin`.

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
                note = f"not mixed: chains from '{a}' and from '{b}' differ by {difference:.3f} ± {half:.3f}"
                return [replace(c, verdict="not judged", p=None, note=note) for c in found]
    return found
