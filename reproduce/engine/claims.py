"""Claims as statistics that are fixed before the runs, and the verdict rules; the same for every figure.

Directional: supported if the one-sided 95 % bound excludes 0 the claimed way, not supported if the two-sided 90 %
interval excludes the smallest effect of interest, else inconclusive. Equivalence: supported if the 90 % interval
lies inside the margin, not supported if wholly outside, else inconclusive. Holm's correction within a figure can
only take a support back. Not judged: smoke scale, fewer than two runs an arm, or data that are not the figure's own.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from scipy import special

from three_factors.reproduce.engine.statistics import Ratio, t_above
from three_factors.reproduce.engine.table import Evidence

Verdict = Literal["supported", "not supported", "inconclusive", "not judged"]
ALPHA = 0.05
EVERY = "*"
HOLM = "alone it would be supported; not after Holm"
NO_EFFECT = "no effect of noise is shown here: the control differs neither clearly nor more than the pair"


@dataclass(frozen=True)
class Claim:
    """One claim and what became of it. `low` and `high` bound `value`, at 90 % (two one-sided 95 % bounds) unless the
    statistic says otherwise.

    `power` is that of the planned experiment; below 60 %, `needs_n` says how many seeds reach it. `unit` "share": of 1,
    printed as percentage points. `control_of`: how the claims begin of which it asks whether they survive a confound
    taken away (`EVERY`: all of the figure's); empty for a claim of its own.
    """

    claim: str
    statistic: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    verdict: Verdict
    p: float | None = None
    p_holm: float | None = None
    power: float | None = None
    needs_n: str | None = None
    paper: str | None = None
    note: str = ""
    data: str = ""
    arm: str = "epochs"
    unit: Literal["", "share"] = ""
    control_of: str = ""

    def as_json(self) -> dict[str, Any]:
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(self).items()}


def interval(claim: dict[str, Any]) -> str:
    """'0.933 [0.878, 0.962]' of a claim as it is stored; percentage points where the value is a share of 1."""
    if claim["value"] is None:
        return "no value"
    share = claim["unit"] == "share"
    value, low, high = (
        None if claim[key] is None else f"{100 * claim[key]:.2f}" if share else f"{claim[key]:.3g}"
        for key in ("value", "low", "high")
    )  # fmt: skip
    if low is None or high is None:
        return f"{value} [unbounded]"
    return f"{value} [{low}, {high}]{' pp' if share else ''}"


def own(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of stored claims, those that are no controls."""
    return [claim for claim in claims if not claim["control_of"]]


def controls(claim: dict[str, Any], claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of stored claims, the controls of this one."""

    def of(name: str) -> bool:
        rest = claim["claim"].removeprefix(name)
        return rest != claim["claim"] and (not rest or rest[0] in " ,;:")  # "momentum 0" is not "momentum 0.9"

    return [c for c in claims if c["control_of"] and (c["control_of"] == EVERY or of(c["control_of"]))]


def tally(claims: list[dict[str, Any]]) -> dict[str, int]:
    """verdict -> how many of stored claims have it."""
    counts = Counter(claim["verdict"] for claim in claims)
    return {verdict: counts[verdict] for verdict in get_args(Verdict) if counts[verdict]}


@dataclass(frozen=True)
class NoiseContrast:
    """What the noise alone does to `on`: the mean of a pair minus its control, at equal eta, steps and t_eta."""

    pair: tuple[str, str]
    control: str
    on: str


def equivalent(
    table: Evidence, a: str, b: str, *, on: str, margin: float, claim: str, paper: str | None = None
) -> Claim:
    """Two one-sided Welch tests (TOST): the means of two arms differ by less than `margin`."""
    x, y = table.values(a, on), table.values(b, on)
    statistic = f"mean {on}, '{a}' minus '{b}'; TOST ±{margin:g}"
    if min(len(x), len(y)) < 2:
        return unjudged(claim, statistic, min(len(x), len(y)), paper)
    mean, error, df = _welch(x, y)
    low, high = _interval(mean, error, df)
    p = max(t_above((mean + margin) / error, df), t_above((margin - mean) / error, df))
    return Claim(claim, statistic, mean, low, high, min(len(x), len(y)), _within(low, high, margin), p, paper=paper,
                 unit="share")  # fmt: skip


def share_of_effect(
    table: Evidence,
    a: str,
    b: str,
    *,
    noise: NoiseContrast,
    margin: float,
    claim: str,
    paper: str | None = None,
) -> Claim:
    """The difference of a pair as a share of what the noise does: (A - B) / `noise`, by Fieller.

    `noise` may be measured on this pair or on another one. Equivalence with `margin`. If the denominator's 90 %
    interval holds 0 the share is unbounded, and the verdict is 'inconclusive'.
    """
    labels, on = list(dict.fromkeys((a, b, *noise.pair, noise.control))), noise.on
    top = np.array([(label == a) - (label == b) for label in labels], dtype=float)
    bottom = np.array([0.5 * (label in noise.pair) - (label == noise.control) for label in labels])
    samples = [table.values(label, on) for label in labels]
    against = f"mean of '{noise.pair[0]}' and '{noise.pair[1]}' - '{noise.control}'"
    statistic = f"('{a}' - '{b}') / ({against}), {on}; Fieller, margin {margin:.3g}"
    sizes = np.array([len(sample) for sample in samples])
    n = int(sizes.min())
    if n < 2:
        return unjudged(claim, statistic, n, paper)
    df = int(sizes.sum() - len(samples))
    pooled = sum(float(((v - v.mean()) ** 2).sum()) for v in samples) / df
    variance, means = max(pooled, 1e-24) / sizes, np.array([v.mean() for v in samples])
    v_aa, v_dd, v_ad = (float((u * w) @ variance) for u, w in ((top, top), (bottom, bottom), (top, bottom)))
    ratio = Ratio(float(top @ means), float(bottom @ means), v_aa, v_ad, v_dd, df)
    interval = ratio.interval(1 - 2 * ALPHA)
    if interval is None:
        return Claim(claim, statistic, ratio.value, None, None, n, "inconclusive", 1.0, paper=paper, note=NO_EFFECT)
    p = max(ratio.p_above(-margin), ratio.p_below(margin))
    return Claim(claim, statistic, ratio.value, *interval, n, _within(*interval, margin), p, paper=paper)


def where_noise_shows(found: list[Claim], table: Evidence, a: str, b: str, noise: NoiseContrast) -> list[Claim]:
    """Claims about a pair, inconclusive unless the control differs visibly, and more than the pair does.

    Two runs that coincide show nothing about noise where noise does nothing (PAPER: the rule of Figures 4 and 13).
    """
    pair, other = (table.values(label, noise.on) for label in (a, b))
    middle = [table.values(label, noise.on) for label in noise.pair]
    without = table.values(noise.control, noise.on)
    if min(len(v) for v in (pair, other)) < 2:
        return found
    if min(len(v) for v in (*middle, without)) >= 2:
        mean, error, df = _welch(np.concatenate(middle), without)
        low, high = _interval(mean, error, df)
        if not low <= 0 <= high and abs(mean) > abs(float(pair.mean() - other.mean())):
            return found
    return [
        replace(c, verdict="inconclusive", p=1.0, note=_and(c.note, NO_EFFECT)) if c.verdict != "not judged" else c
        for c in found
    ]


def where_it_shows(equal: Claim, effect: Claim, none: float) -> Claim:
    """A claim that two runs are equal, inconclusive unless noise's own effect differs from `none` (as its interval)."""
    shows = effect.low is not None and effect.high is not None and not effect.low <= none <= effect.high
    if shows or equal.verdict == "not judged":
        return equal
    return replace(equal, verdict="inconclusive", p=1.0, note=_and(equal.note, NO_EFFECT))


def _and(note: str, more: str) -> str:
    return note if more in note else "; ".join(filter(None, [note, more]))


def differ(
    table: Evidence,
    a: str,
    b: str,
    *,
    on: str,
    smallest: float,
    claim: str,
    paper: str | None = None,
    null: float = 0.0,
    control_of: str = "",
) -> Claim:
    """Directional Welch test: the mean of `a` is above that of `b`; `smallest` is the effect of interest, from `null`.

    With a negative `null` it is a test of non-inferiority: not lower by more than that.
    """
    x, y = table.values(a, on), table.values(b, on)
    statistic = f"mean {on}, '{a}' minus '{b}'; > {null:g}, smallest effect of interest {smallest:g}"
    if min(len(x), len(y)) < 2:
        return unjudged(claim, statistic, min(len(x), len(y)), paper, control_of=control_of)
    mean, error, df = _welch(x, y)
    low, high = _interval(mean, error, df)
    verdict: Verdict = "supported" if low > null else "not supported" if high < null + smallest else "inconclusive"
    p = t_above((mean - null) / error, df)
    return Claim(claim, statistic, mean, low, high, min(len(x), len(y)), verdict, p, paper=paper, unit="share",
                 control_of=control_of)  # fmt: skip


def same_curve(
    table: Evidence, a: str, b: str, *, on: str, bound: float, claim: str, paper: str | None = None
) -> Claim:
    """Curves of two arms are no further apart than two seeds: mean distance between arms over that within them.

    The distance of two runs is the root mean square difference over the epochs' ends (equal t_eta within a pair).
    The interval is the jackknife's over seeds, on the logarithm; supported if its one-sided 95 % upper bound lies
    below `bound`, not supported if the lower one lies above.
    """
    both = sorted(set(table.seeds(a)) & set(table.seeds(b)))  # seed i of one arm faces seed i of the other
    (_, eta_a, x), (_, eta_b, y) = table.curves(a, on, both), table.curves(b, on, both)
    n = len(both)
    statistic = f"distance of {on} curves between '{a}' and '{b}' over that between seeds; upper bound < {bound:g}"
    if n < 3:
        return unjudged(claim, statistic, min(len(x), len(y)), paper)
    if len(eta_a) != len(eta_b) or not np.allclose(eta_a, eta_b, rtol=1e-6):
        raise ValueError(f"same_curve: '{a}' and '{b}' are not measured at the same t_eta")
    value, *rest = _log_distance_ratios(x, y)
    left_out = np.array(rest)
    error = max(math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())), 1e-12)
    t = float(special.stdtrit(n - 1, 1 - ALPHA))
    low, high = math.exp(value - t * error), math.exp(value + t * error)
    verdict: Verdict = "supported" if high < bound else "not supported" if low > bound else "inconclusive"
    p = t_above((math.log(bound) - value) / error, n - 1)
    return Claim(claim, statistic, math.exp(value), low, high, n, verdict, p, paper=paper)


def _log_distance_ratios(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log(between/within) of curves (seeds, P) x and y: of all seeds, then with each seed left out; (seeds + 1,)."""

    def sums(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        distances = np.sqrt(((u[:, None] - v[None]) ** 2).mean(-1))
        np.fill_diagonal(distances, 0)  # the same seed in both arms shares its initial weights: left out on both sides
        return np.concatenate([[0], distances.sum(0) + distances.sum(1)]) * -1 + distances.sum()

    between, within = sums(x, y), (sums(x, x) + sums(y, y)) / 2
    return np.log(np.maximum(between, 1e-12) / np.maximum(within, 1e-12))


def _welch(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Difference of means, its standard error, Satterthwaite's degrees of freedom."""
    vx, vy = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    error = max(math.sqrt(vx + vy), 1e-12)
    df = (vx + vy) ** 2 / max(vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1), 1e-48)
    return float(x.mean() - y.mean()), error, max(float(df), 1.0)


def _interval(mean: float, error: float, df: float) -> tuple[float, float]:
    half = float(special.stdtrit(df, 1 - ALPHA)) * error
    return mean - half, mean + half


def _within(low: float, high: float, margin: float) -> Verdict:
    if -margin < low and high < margin:
        return "supported"
    return "not supported" if low > margin or high < -margin else "inconclusive"


def unjudged(claim: str, statistic: str, n: int, paper: str | None, *, note: str = "", control_of: str = "") -> Claim:
    note = "; ".join(filter(None, ["too few runs that trained", note]))
    return Claim(claim, statistic, None, None, None, n, "not judged", paper=paper, note=note, control_of=control_of)


def holm(claims: list[Claim]) -> list[Claim]:
    """Holm's adjusted p; a support whose adjusted p exceeds 5 % becomes inconclusive.

    A figure's own claims are one family and its controls another: what the paper claims does not get harder to support
    by being controlled more.
    """
    adjusted = list(claims)
    for family in (False, True):
        tested = sorted((c.p, i) for i, c in enumerate(claims) if c.p is not None and bool(c.control_of) is family)
        running = 0.0
        for rank, (p, index) in enumerate(tested):
            running = max(running, min(1.0, p * (len(tested) - rank)))
            claim = replace(claims[index], p_holm=running)
            if claim.verdict == "supported" and running > ALPHA:
                claim = replace(claim, verdict="inconclusive", note=_and(claim.note, HOLM))
            adjusted[index] = claim
    return adjusted
