"""Claims whose statistic is one number a seed: a correlation over a grid, a log ratio, a location.

Seeds are the replicates, so intervals are t intervals over them, on a scale on which they are nearly normal (Fisher's z
for correlations, the logarithm for ratios). The verdict rules are those of `rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from three_factors.reproduce.engine.judge.claims import Claim, Estimate, Statement, joined, judged, unjudged
from three_factors.reproduce.engine.judge.rules import ALPHA, Direction, Range
from three_factors.reproduce.engine.judge.statistics import Ratio, jonckheere, t_above

__all__ = ["FISHER", "LOG", "PLAIN", "Direction", "Range", "located", "over_seeds", "ratio_over_seeds", "rising"]


@dataclass(frozen=True)
class Scale:
    """The scale on which a statistic is averaged over seeds.

    Attributes:
        to: from the statistic.
        back: to the statistic.
        floor: the least standard error of a mean. Rank correlations of a few cells are discrete, so that a few seeds
            may agree to the last digit without knowing it.
    """

    to: Callable[[Any], Any]
    back: Callable[[Any], Any]
    floor: float = 1e-12


PLAIN = Scale(lambda x: x, lambda x: x)
FISHER = Scale(lambda x: np.arctanh(np.clip(x, -0.9995, 0.9995)), np.tanh, floor=0.05)
LOG = Scale(np.log, np.exp)


def over_seeds(about: Statement, values: np.ndarray, rule: Direction | Range, scale: Scale = PLAIN) -> Claim:
    """Judges the mean of a per-seed statistic (n,); NaN are seeds that have none.

    Raises ValueError for a direction from a null that the scale does not have.
    """
    if scale is LOG and isinstance(rule, Direction) and rule.null <= 0:
        raise ValueError(f"null: {rule.null:g} is not positive, as values on a logarithmic scale are")
    everyone = np.asarray(values, dtype=float)
    valid = everyone[~np.isnan(everyone)]
    lost = len(everyone) - len(valid)
    if lost:
        about = about.noting(f"{lost} of {len(everyone)} seeds have no value")
    if len(valid) < 2:
        return unjudged(about, rule, len(valid))
    z = scale.to(valid)
    n = len(z)
    mean, error = float(z.mean()), max(float(z.std(ddof=1)) / math.sqrt(n), scale.floor)
    half = float(special.stdtrit(n - 1, 0.5 + rule.confidence / 2)) * error
    low, high = float(scale.back(mean - half)), float(scale.back(mean + half))
    p = _p_value(rule, scale, mean, error, n - 1)
    return judged(about, rule, Estimate(float(scale.back(mean)), low, high, n, p))


def _p_value(rule: Direction | Range, scale: Scale, mean: float, error: float, df: int) -> float:
    if isinstance(rule, Range):
        low, high = (float(scale.to(edge)) for edge in (rule.low, rule.high))
        return max(t_above((mean - low) / error, df), t_above((high - mean) / error, df))
    return t_above(rule.sign * (mean - float(scale.to(rule.null))) / error, df)


def located(
    about: Statement, values: np.ndarray, rule: Range, scale: Scale = PLAIN, *, censored: bool = False
) -> Claim:
    """Judges, as `over_seeds`, a location that a seed may lack: NaN is none, ±inf one beyond the range that was tried.

    If some seeds have no value, the rest cannot support the claim: they were selected by the outcome. Where half of
    them or more lie beyond the range that was tried it is not supported, unless they are only `censored`: what was
    tried ends within the range that is claimed.
    """
    everyone = np.asarray(values, dtype=float)
    inside = np.where(np.isfinite(everyone), everyone, np.nan)
    lacking = int(np.isnan(inside).sum())
    found = over_seeds(about, inside, rule, scale)
    if not lacking or len(everyone) < 2:
        return found
    beyond = int(np.isinf(everyone).sum())
    words = [f"{beyond} of {len(everyone)} seeds have it beyond the range that was tried" if beyond else ""]
    words.append(f"{lacking - beyond} of {len(everyone)} seeds have none inside it" if lacking > beyond else "")
    found = replace(found, n=len(everyone), note=joined(about.note, *words))
    if 2 * beyond >= len(everyone) and not censored:
        return replace(found, verdict="not supported", p=None)
    if found.verdict == "not supported":
        return found
    return replace(found, verdict="inconclusive", p=None)


def ratio_over_seeds(about: Statement, above: np.ndarray, below: np.ndarray, rule: Range) -> Claim:
    """Judges mean(above)/mean(below) of paired values (n,), by Fieller; unbounded where the denominator may be 0."""
    pairs = np.stack([above, below], axis=1)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    n, about = len(pairs), replace(about, statistic=f"{about.statistic}; Fieller over seeds")
    if n < 3:
        return unjudged(about, rule, n)
    (a, d), covariance = pairs.mean(axis=0), np.cov(pairs.T) / n
    ratio = Ratio(float(a), float(d), covariance[0, 0], covariance[0, 1], covariance[1, 1], n - 1)
    bounds = ratio.interval(rule.confidence)
    if bounds is None:
        about = about.noting("the denominator does not differ from 0")
        return judged(about, rule, Estimate(ratio.value, None, None, n, 1.0))
    p = max(ratio.p_above(rule.low), ratio.p_below(rule.high))
    return judged(about, rule, Estimate(ratio.value, *bounds, n, p))


def rising(about: Statement, groups: Sequence[np.ndarray], *, smallest: float = 0.3) -> Claim:
    """Judges by Jonckheere's test that a per-seed statistic rises over ordered groups (n,) each; NaN: without one.

    Supported if its exact p is at most 5 %. The interval takes the spread that tau has without a trend.
    """
    rule = Direction(1, smallest)
    about = replace(about, statistic=f"Jonckheere's tau of {about.statistic}")
    valid = [group[~np.isnan(group)] for group in groups]
    n, lost = min(len(group) for group in valid), sum(len(group) for group in groups) - sum(map(len, valid))
    if lost:
        about = about.noting(f"{lost} of {sum(map(len, groups))} values are missing")
    if n < 2:
        return unjudged(about, rule, n)
    tau, spread, p = jonckheere(valid)
    half = float(special.ndtri(1 - ALPHA)) * spread
    low, high = max(-1.0, tau - half), min(1.0, tau + half)
    found = judged(about, rule, Estimate(tau, low, high, n, p))
    return replace(found, verdict="supported" if p <= ALPHA else rule.verdict(min(low, rule.null), high))
