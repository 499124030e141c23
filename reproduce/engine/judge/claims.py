"""Claims as statistics that are fixed before the runs. The verdict rules stand in `rules`.

Not judged: smoke scale, fewer than two runs of a setting, or data that are not the figure's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from scipy import special

from three_factors.reproduce.engine.judge.rules import (
    ALPHA,
    BELOW,
    CONFIDENCE,
    Direction,
    Rule,
    Verdict,
    as_json,
    within,
)
from three_factors.reproduce.engine.judge.statistics import Ratio, t_above
from three_factors.reproduce.engine.judge.table import Evidence

EVERY = "*"
HOLM = "alone it would be supported; not after Holm"
NO_EFFECT = "no effect of noise is shown here: the control differs neither clearly nor more than the pair"


@dataclass(frozen=True)
class Statement:
    """Says what is claimed, before anything has run. Verdicts and controls go by `id` alone; the rest is words.

    Attributes:
        id: names the claim within its figure, words joined by dots: "cyclic.accuracy".
        text: the claim.
        statistic: what is computed; the rule's words are added.
        paper: the paper's own value.
        note: what else is to be said.
        control_of: the id of the claim of which it asks whether it survives a confound taken away, or the beginning of
            several up to a dot (`EVERY`: all of the figure's); empty for a claim of its own.
    """

    id: str
    text: str
    statistic: str = ""
    paper: str | None = None
    note: str = ""
    control_of: str = ""

    def noting(self, *notes: str) -> Statement:
        """Returns the statement with more notes; empty ones are left out."""
        return replace(self, note=joined(self.note, *notes))


@dataclass(frozen=True)
class Estimate:
    """A statistic's value and interval; p is one-sided, of the rule it is judged by.

    Attributes:
        n: replicates: runs, seeds or chains.
        unit: "share" for a share of 1, printed as percentage points.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None = None
    unit: Literal["", "share"] = ""


@dataclass(frozen=True)
class Claim:
    """One claim and what became of it; the fields of claims.json.

    Attributes:
        id: of its `Statement`.
        claim: the statement's text.
        statistic: what was computed, and the rule in words.
        value: the statistic.
        low: bounds it below, at 90 % (two one-sided 95 % bounds) unless the rule says otherwise.
        high: bounds it above, likewise.
        n: replicates.
        verdict: by `rule`.
        p: one-sided.
        p_holm: after Holm's correction.
        power: of the planned experiment; below 60 %, `needs_n` says how many seeds reach it.
        data: the data set.
        arm: what was changed in all runs.
        unit: of the estimate.
        paper: the paper's own value.
        note: what else is to be said.
        control_of: of its `Statement`.
        rule: its kind and numbers.
        word: what the verdict is called at the scale it was made at.
        labels: the settings whose runs it is about; empty if it is about all of the figure's.
    """

    id: str
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
    labels: tuple[str, ...] = ()
    rule: dict[str, Any] = field(default_factory=dict)
    word: str = ""

    def as_json(self) -> dict[str, Any]:
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(self).items()}


def key(value: float) -> str:
    """Returns a number as a word of an id, which has no dots: '0_9'."""
    return f"{value:g}".replace(".", "_").replace("-", "m")


def joined(*notes: str) -> str:
    """Joins notes; empty ones and repetitions are left out."""
    return "; ".join(dict.fromkeys(filter(None, notes)))


def judged(about: Statement, rule: Rule, found: Estimate, *, labels: Sequence[str] = ()) -> Claim:
    """Puts a statement, its rule and what was found together; without an interval nothing is decided."""
    bounded = found.low is not None and found.high is not None
    verdict = rule.verdict(found.low, found.high) if bounded else "inconclusive"  # type: ignore[arg-type]
    return _claim(about, rule, found, verdict, labels)


def unjudged(about: Statement, rule: Rule, n: int, *, labels: Sequence[str] = ()) -> Claim:
    """Returns the claim where too few runs trained."""
    about = replace(about, note=joined("too few runs that trained", about.note))
    return _claim(about, rule, Estimate(None, None, None, n), "not judged", labels)


def _claim(about: Statement, rule: Rule, found: Estimate, verdict: Verdict, labels: Sequence[str]) -> Claim:
    return Claim(
        id=about.id,
        claim=about.text,
        statistic=f"{about.statistic}; {rule}",
        **asdict(found),
        verdict=verdict,
        paper=about.paper,
        note=about.note,
        control_of=about.control_of,
        labels=tuple(labels),
        rule=as_json(rule),
    )


def withheld(claim: Claim, *notes: str) -> Claim:
    """Returns the claim, inconclusive where it was supported: something else may explain it."""
    supported = claim.verdict == "supported"
    found = replace(claim, verdict="inconclusive", p=None) if supported else claim
    return replace(found, note=joined(found.note, *notes))


def interval(claim: dict[str, Any]) -> str:
    """Returns '0.933 [0.878, 0.962]' of a stored claim; percentage points where the value is a share of 1."""
    if claim["value"] is None:
        return "no value"
    share = claim["unit"] == "share"

    def shown(value: float) -> str:
        return f"{100 * value:.2f}" if share else f"{value:.3g}"

    value, low, high = (claim[key] for key in ("value", "low", "high"))
    if low is None or high is None:
        return f"{shown(value)} [unbounded]"
    return f"{shown(value)} [{shown(low)}, {shown(high)}]{' pp' if share else ''}"


def own(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those of stored claims that are no controls."""
    return [claim for claim in claims if not claim["control_of"]]


def controls(claim: dict[str, Any], claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those of stored claims that are controls of this one."""
    return [c for c in claims if c["control_of"] and refers(c["control_of"], claim["id"])]


def refers(control_of: str, claim: str) -> bool:
    """Tells whether a control's `control_of` means a claim's id: it, ids below it, or `EVERY`."""
    return control_of == EVERY or claim == control_of or claim.startswith(f"{control_of}.")


def tally(claims: list[dict[str, Any]]) -> dict[str, int]:
    """Returns the word of a verdict -> how many of stored claims have it."""
    counts = Counter(map(word, claims))
    order = [called for verdict in get_args(Verdict) for called in (verdict, BELOW.get(verdict, verdict))]
    return {called: counts[called] for called in order if counts[called]}


def word(claim: dict[str, Any]) -> str:
    """Returns what a stored claim's verdict is called; until 0.1 that was its name everywhere."""
    return str(claim.get("word") or claim["verdict"])


@dataclass(frozen=True)
class NoiseContrast:
    """Says what the noise alone does to `on`: the mean of a pair minus its control, at equal eta, steps and t_eta."""

    pair: tuple[str, str]
    control: str
    on: str


def equivalent(about: Statement, table: Evidence, a: str, b: str, *, on: str, margin: float) -> Claim:
    """Judges by two one-sided Welch tests (TOST) that the means of two settings differ by less than `margin`."""
    x, y = table.values(a, on), table.values(b, on)
    about, rule, labels = replace(about, statistic=f"mean {on}, '{a}' minus '{b}'"), within(margin), (a, b)
    n = min(len(x), len(y))
    if n < 2:
        return unjudged(about, rule, n, labels=labels)
    mean, error, df = _welch(x, y)
    p = max(t_above((mean + margin) / error, df), t_above((margin - mean) / error, df))
    return judged(about, rule, Estimate(mean, *_interval(mean, error, df), n, p, "share"), labels=labels)


def share_of_effect(about: Statement, table: Evidence, a: str, b: str, *, noise: NoiseContrast, margin: float) -> Claim:
    """Judges the difference of a pair as a share of what the noise does: (A - B) / `noise`, by Fieller.

    `noise` may be measured on this pair or on another one. Equivalence with `margin`. If the denominator's 90 %
    interval holds 0 the share is unbounded, and the verdict is 'inconclusive'.
    """
    labels, on = tuple(dict.fromkeys((a, b, *noise.pair, noise.control))), noise.on
    top = np.array([(label == a) - (label == b) for label in labels], dtype=float)
    bottom = np.array([0.5 * (label in noise.pair) - (label == noise.control) for label in labels])
    samples = [table.values(label, on) for label in labels]
    against = f"mean of '{noise.pair[0]}' and '{noise.pair[1]}' - '{noise.control}'"
    about, rule = replace(about, statistic=f"('{a}' - '{b}') / ({against}), {on}; Fieller"), within(margin)
    sizes = np.array([len(sample) for sample in samples])
    n = int(sizes.min())
    if n < 2:
        return unjudged(about, rule, n, labels=labels)
    df = int(sizes.sum() - len(samples))
    pooled = sum(float(((v - v.mean()) ** 2).sum()) for v in samples) / df
    variance, means = max(pooled, 1e-24) / sizes, np.array([v.mean() for v in samples])
    v_aa, v_dd, v_ad = (float((u * w) @ variance) for u, w in ((top, top), (bottom, bottom), (top, bottom)))
    ratio = Ratio(float(top @ means), float(bottom @ means), v_aa, v_ad, v_dd, df)
    bounds = ratio.interval(CONFIDENCE)
    if bounds is None:
        return judged(about.noting(NO_EFFECT), rule, Estimate(ratio.value, None, None, n, 1.0), labels=labels)
    p = max(ratio.p_above(-margin), ratio.p_below(margin))
    return judged(about, rule, Estimate(ratio.value, *bounds, n, p), labels=labels)


def where_noise_shows(found: list[Claim], table: Evidence, a: str, b: str, noise: NoiseContrast) -> list[Claim]:
    """Returns claims about a pair, inconclusive unless the control differs visibly, and more than the pair does.

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
    return [_undecided(claim) for claim in found]


def where_it_shows(equal: Claim, effect: Claim, none: float) -> Claim:
    """Returns a claim that two runs are equal, inconclusive unless noise's own effect differs from `none`."""
    shows = effect.low is not None and effect.high is not None and not effect.low <= none <= effect.high
    return equal if shows else _undecided(equal)


def _undecided(claim: Claim) -> Claim:
    if claim.verdict == "not judged":
        return claim
    return replace(claim, verdict="inconclusive", p=1.0, note=joined(claim.note, NO_EFFECT))


def differ(about: Statement, table: Evidence, a: str, b: str, rule: Direction, *, on: str) -> Claim:
    """Judges by Welch's test that the mean of `a` lies above that of `b` (`rule.sign` 1)."""
    x, y = table.values(a, on), table.values(b, on)
    about, labels, n = replace(about, statistic=f"mean {on}, '{a}' minus '{b}'"), (a, b), min(len(x), len(y))
    if n < 2:
        return unjudged(about, rule, n, labels=labels)
    mean, error, df = _welch(x, y)
    p = t_above(rule.sign * (mean - rule.null) / error, df)
    return judged(about, rule, Estimate(mean, *_interval(mean, error, df), n, p, "share"), labels=labels)


def same_curve(about: Statement, table: Evidence, a: str, b: str, *, on: str, bound: float) -> Claim:
    """Judges that curves of two settings are no further apart than two seeds: distance between over that within.

    The distance of two runs is the root mean square difference over the epochs' ends (equal t_eta within a pair).
    The interval is the jackknife's over seeds, on the logarithm; supported if its one-sided 95 % upper bound lies
    below `bound`, not supported if the lower one lies above.
    """
    both = sorted(set(table.seeds(a)) & set(table.seeds(b)))  # seed i of one setting faces seed i of the other
    (_, eta_a, x), (_, eta_b, y) = table.curves(a, on, both), table.curves(b, on, both)
    n, labels, rule = len(both), (a, b), Direction(-1, smallest=0.0, null=bound)
    about = replace(about, statistic=f"distance of {on} curves between '{a}' and '{b}' over that between seeds")
    if n < 3:
        return unjudged(about, rule, min(len(x), len(y)), labels=labels)
    if len(eta_a) != len(eta_b) or not np.allclose(eta_a, eta_b, rtol=1e-6):
        raise ValueError(f"same_curve: '{a}' and '{b}' are not measured at the same t_eta")
    value, *rest = _log_distance_ratios(x, y)
    left_out = np.array(rest)
    error = max(math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())), 1e-12)
    t = float(special.stdtrit(n - 1, 1 - ALPHA))
    p = t_above((math.log(bound) - value) / error, n - 1)
    bounds = math.exp(value - t * error), math.exp(value + t * error)
    return judged(about, rule, Estimate(math.exp(value), *bounds, n, p), labels=labels)


def _log_distance_ratios(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns log(between/within) of curves (seeds, P): of all seeds, then with each left out; (seeds + 1,)."""

    def sums(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        distances = np.sqrt(((u[:, None] - v[None]) ** 2).mean(-1))
        np.fill_diagonal(distances, 0)  # the same seed in both shares its initial weights: left out on both sides
        return np.concatenate([[0], distances.sum(0) + distances.sum(1)]) * -1 + distances.sum()

    between, inside = sums(x, y), (sums(x, x) + sums(y, y)) / 2
    return np.log(np.maximum(between, 1e-12) / np.maximum(inside, 1e-12))


def _welch(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Returns the difference of means, its standard error, Satterthwaite's degrees of freedom."""
    vx, vy = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    error = max(math.sqrt(vx + vy), 1e-12)
    df = (vx + vy) ** 2 / max(vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1), 1e-48)
    return float(x.mean() - y.mean()), error, max(float(df), 1.0)


def _interval(mean: float, error: float, df: float) -> tuple[float, float]:
    half = float(special.stdtrit(df, 1 - ALPHA)) * error
    return mean - half, mean + half


def holm(claims: list[Claim]) -> list[Claim]:
    """Adds Holm's adjusted p; a support whose adjusted p exceeds 5 % becomes inconclusive.

    A figure's own claims are one family and its controls another: what the paper claims does not get harder to support
    by being controlled more.

    Raises:
        ValueError: two claims have one id, or a control is one of a claim that there is not.
    """
    check_ids(claims)
    adjusted = list(claims)
    for family in (False, True):
        tested = sorted((c.p, i) for i, c in enumerate(claims) if c.p is not None and bool(c.control_of) is family)
        running = 0.0
        for rank, (p, index) in enumerate(tested):
            running = max(running, min(1.0, p * (len(tested) - rank)))
            claim = replace(claims[index], p_holm=running)
            if claim.verdict == "supported" and running > ALPHA:
                claim = replace(claim, verdict="inconclusive", note=joined(claim.note, HOLM))
            adjusted[index] = claim
    return adjusted


def check_ids(claims: Iterable[Claim]) -> None:
    """Raises ValueError if two claims have one id, or a control names no claim."""
    counts = Counter(claim.id for claim in claims)
    for name, count in counts.items():
        if count > 1 or not name:
            raise ValueError(f"id: {count} claims are named {name!r}")
    for claim in claims:
        if claim.control_of and not any(refers(claim.control_of, name) for name in counts if name != claim.id):
            raise ValueError(f"control_of: {claim.control_of!r} of {claim.id!r} is no claim")
