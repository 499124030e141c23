"""Claims whose statistic is one number a seed: a correlation over a grid, a log ratio, a location.

Seeds are the replicates, so intervals are t intervals over them, on a scale on which they are nearly normal (Fisher's z
for correlations, the logarithm for ratios). The verdict rules are those of `claims`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from three_factors.reproduce.engine.claims import ALPHA, Claim, Verdict, unjudged
from three_factors.reproduce.engine.statistics import Ratio, jonckheere, t_above


@dataclass(frozen=True)
class Scale:
    """The scale on which a statistic is averaged over seeds.

    `floor`: the least standard error of a mean. Rank correlations of a few cells are discrete, so that a few seeds may
    agree to the last digit without knowing it.
    """

    to: Callable[[Any], Any]
    back: Callable[[Any], Any]
    floor: float = 1e-12


PLAIN = Scale(lambda x: x, lambda x: x)
FISHER = Scale(lambda x: np.arctanh(np.clip(x, -0.9995, 0.9995)), np.tanh, floor=0.05)
LOG = Scale(np.log, np.exp)


@dataclass(frozen=True)
class Direction:
    """The statistic lies above (`sign` 1) or below (-1) `null`; `smallest` is the effect of interest, from `null`."""

    sign: int
    smallest: float
    null: float = 0.0


@dataclass(frozen=True)
class Range:
    """The statistic lies in [low, high]: equivalence or a location; with an interval of this confidence."""

    low: float
    high: float
    confidence: float = 1 - 2 * ALPHA


Rule = Direction | Range


def over_seeds(
    values: np.ndarray,
    rule: Rule,
    *,
    claim: str,
    statistic: str,
    scale: Scale = PLAIN,
    paper: str | None = None,
    note: str = "",
    control_of: str = "",
) -> Claim:
    """Judges the mean of a per-seed statistic (n,); NaN are seeds that have none.

    Raises ValueError for a direction from a null that the scale does not have.
    """
    if scale is LOG and isinstance(rule, Direction) and rule.null <= 0:
        raise ValueError(f"null: {rule.null:g} is not positive, as values on a logarithmic scale are")
    everyone = np.asarray(values, dtype=float)
    there = everyone[~np.isnan(everyone)]
    statistic, lost = f"{statistic}; {_ruled(rule)}", len(everyone) - len(there)
    if lost:
        note = "; ".join(filter(None, [note, f"{lost} of {len(everyone)} seeds have no value"]))
    if len(there) < 2:
        return unjudged(claim, statistic, len(there), paper, note=note, control_of=control_of)
    z = scale.to(there)
    n = len(z)
    mean, error = float(z.mean()), max(float(z.std(ddof=1)) / math.sqrt(n), scale.floor)
    half = float(special.stdtrit(n - 1, 0.5 + _confidence(rule) / 2)) * error
    low, high = float(scale.back(mean - half)), float(scale.back(mean + half))
    verdict, p = _judged(rule, scale, mean, error, n - 1, low, high)
    return Claim(claim, statistic, float(scale.back(mean)), low, high, n, verdict, p, paper=paper, note=note,
                 control_of=control_of)  # fmt: skip


def located(
    values: np.ndarray, rule: Range, *, claim: str, statistic: str, scale: Scale = PLAIN, paper: str | None = None,
    note: str = "", control_of: str = "", censored: bool = False,
) -> Claim:  # fmt: skip
    """As `over_seeds`, for a location that a seed may lack: NaN is none, and ±inf one beyond the range that was tried.

    Where some seeds have none, the others cannot support it, being chosen by the outcome. Where half of them or more
    lie beyond the range that was tried it is not supported, unless they are only `censored`: what was tried ends within
    the range that is claimed.
    """
    everyone = np.asarray(values, dtype=float)
    inside = np.where(np.isfinite(everyone), everyone, np.nan)
    lacking = int(np.isnan(inside).sum())
    found = over_seeds(inside, rule, claim=claim, statistic=statistic, scale=scale, paper=paper, note=note,
                       control_of=control_of)  # fmt: skip
    if not lacking or len(everyone) < 2:
        return found
    beyond = int(np.isinf(everyone).sum())
    words = [f"{beyond} of {len(everyone)} seeds have it beyond the range that was tried" if beyond else ""]
    words.append(f"{lacking - beyond} of {len(everyone)} seeds have none inside it" if lacking > beyond else "")
    found = replace(found, n=len(everyone), note="; ".join(filter(None, [note, *words])))
    if 2 * beyond >= len(everyone) and not censored:
        return replace(found, verdict="not supported", p=None)
    return found if found.verdict == "not supported" else replace(found, verdict="inconclusive", p=None)


def ratio_over_seeds(
    above: np.ndarray, below: np.ndarray, rule: Range, *, claim: str, statistic: str, paper: str | None = None,
    control_of: str = "",
) -> Claim:  # fmt: skip
    """Mean(above)/mean(below) of paired per-seed values (n,), by Fieller; unbounded where the denominator may be 0."""
    pairs = np.stack([above, below], axis=1)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    n, statistic = len(pairs), f"{statistic}; Fieller over seeds, {_ruled(rule)}"
    if n < 3:
        return unjudged(claim, statistic, n, paper, control_of=control_of)
    (a, d), covariance = pairs.mean(axis=0), np.cov(pairs.T) / n
    ratio = Ratio(float(a), float(d), covariance[0, 0], covariance[0, 1], covariance[1, 1], n - 1)
    interval = ratio.interval(rule.confidence)
    if interval is None:
        return Claim(claim, statistic, ratio.value, None, None, n, "inconclusive", 1.0, paper=paper,
                     note="the denominator does not differ from 0", control_of=control_of)  # fmt: skip
    p = max(ratio.p_above(rule.low), ratio.p_below(rule.high))
    return Claim(claim, statistic, ratio.value, *interval, n, _contained(rule, *interval), p, paper=paper,
                 control_of=control_of)  # fmt: skip


def rising(
    groups: Sequence[np.ndarray], *, claim: str, statistic: str, smallest: float = 0.3, paper: str | None = None,
    note: str = "",
) -> Claim:  # fmt: skip
    """Jonckheere's test that a per-seed statistic rises over ordered groups (n,) each; NaN are seeds without one.

    Supported if its exact p is at most 5 %. The interval takes the spread that tau has without a trend.
    """
    statistic = f"Jonckheere's tau of {statistic}; > 0, smallest effect of interest {smallest:g}"
    there = [group[~np.isnan(group)] for group in groups]
    n, lost = min(len(group) for group in there), sum(len(group) for group in groups) - sum(map(len, there))
    if lost:
        note = "; ".join(filter(None, [note, f"{lost} of {sum(map(len, groups))} values are missing"]))
    if n < 2:
        return unjudged(claim, statistic, n, paper, note=note)
    tau, spread, p = jonckheere(there)
    half = float(special.ndtri(1 - ALPHA)) * spread
    low, high = max(-1.0, tau - half), min(1.0, tau + half)
    verdict: Verdict = "supported" if p <= ALPHA else "not supported" if high < smallest else "inconclusive"
    return Claim(claim, statistic, tau, low, high, n, verdict, p, paper=paper, note=note)


def _ruled(rule: Rule) -> str:
    if isinstance(rule, Range):
        level = "" if rule.confidence == 1 - 2 * ALPHA else f", interval at {100 * rule.confidence:g} %"
        return f"within [{rule.low:g}, {rule.high:g}]{level}"
    return f"{'>' if rule.sign > 0 else '<'} {rule.null:g}, smallest effect of interest {rule.smallest:g}"


def _confidence(rule: Rule) -> float:
    return rule.confidence if isinstance(rule, Range) else 1 - 2 * ALPHA


def _judged(
    rule: Rule, scale: Scale, mean: float, error: float, df: int, low: float, high: float
) -> tuple[Verdict, float]:
    if isinstance(rule, Range):
        edges = [float(scale.to(edge)) for edge in (rule.low, rule.high)]
        p = max(t_above((mean - edges[0]) / error, df), t_above((edges[1] - mean) / error, df))
        return _contained(rule, low, high), p
    p = t_above(rule.sign * (mean - float(scale.to(rule.null))) / error, df)
    nearest, farthest = (low, high) if rule.sign > 0 else (high, low)
    if rule.sign * (nearest - rule.null) > 0:
        return "supported", p
    interesting = rule.null + rule.sign * rule.smallest
    return ("not supported" if rule.sign * (farthest - interesting) < 0 else "inconclusive"), p


def _contained(rule: Range, low: float, high: float) -> Verdict:
    if rule.low < low and high < rule.high:
        return "supported"
    return "not supported" if high < rule.low or low > rule.high else "inconclusive"
