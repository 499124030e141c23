"""Claims over independent chains of a simulation: thousands of them, so intervals are normal. Rules as in `rules`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from three_factors.reproduce.engine.judge.claims import Claim, Estimate, Statement, judged
from three_factors.reproduce.engine.judge.rules import ALPHA, Contains, Direction, Range

__all__ = ["Contains", "Direction", "Range", "equal", "exponent", "jackknife", "over_chains", "unless_mixed"]

Z = float(special.ndtri(1 - ALPHA))  # two-sided 90 %
GROUPS = 20  # of chains, for the jackknife


def equal(about: Statement, values: np.ndarray, reference: float, margin: float) -> Claim:
    """Judges that the mean of independent values (chains,) over `reference` lies within 1 ± margin."""
    mean, error = float(values.mean()) / reference, float(values.std(ddof=1)) / math.sqrt(len(values)) / abs(reference)
    about = replace(about, statistic=f"{about.statistic}, over theory")
    return over_chains(about, mean, error, Range(1 - margin, 1 + margin), len(values))


def over_chains(about: Statement, value: float, error: float, rule: Direction | Range, n: int) -> Claim:
    """Judges an estimate from n chains with a known standard error."""
    low, high, least = value - Z * error, value + Z * error, max(error, 1e-300)
    if isinstance(rule, Range):
        p = max(float(special.ndtr((rule.low - value) / least)), float(special.ndtr((value - rule.high) / least)))
    else:
        p = float(special.ndtr(rule.sign * (rule.null - value) / least))
    return judged(about, rule, Estimate(value, low, high, n, p))


def jackknife(statistic: Callable[[np.ndarray], float], chains: int) -> tuple[float, float]:
    """Returns a statistic and its standard error, by leaving out groups of chains.

    The statistic takes which chains are used, bool (chains,).
    """
    group = np.arange(chains) % GROUPS
    left_out = np.array([statistic(group != g) for g in range(GROUPS)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((left_out - left_out.mean()) ** 2).sum()))
    return statistic(np.ones(chains, dtype=bool)), error


def exponent(
    about: Statement,
    x: Sequence[float] | np.ndarray,
    distances: Callable[[np.ndarray], np.ndarray],
    chains: int,
    rule: Contains,
) -> Claim:
    """Judges the log-log slope of `distances` (k,) on x (k,).

    `distances` takes which chains are used, bool (chains,). The interval is a jackknife's over groups of chains.
    """
    log_x = np.log(np.asarray(x))

    def slope(used: np.ndarray) -> float:
        y = np.log(np.maximum(distances(used), 1e-300))
        return float(np.polyfit(log_x, y, 1)[0])

    whole, error = jackknife(slope, chains)
    half = float(special.stdtrit(GROUPS - 1, 0.5 + rule.confidence / 2)) * error
    about = replace(about, statistic=f"log-log slope of {about.statistic}")
    return judged(about, rule, Estimate(whole, whole - half, whole + half, chains))


def unless_mixed(found: list[Claim], starts: dict[str, np.ndarray], margin: float) -> list[Claim]:
    """Returns the claims, not judged unless the means from every start (name -> (chains,)) agree within `margin`.

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
