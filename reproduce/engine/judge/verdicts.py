"""Verdicts: the word that a finding is given, by its rule and among the figure's other claims.

A figure names at most four primary claims. They are a family: a word needs its look's interval and Holm's p, of
supports and of refutations apart. Everything else that a figure states is estimated, with no word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from three_factors.reproduce.engine.judge.claims import Finding, Quantity, Unit, check_ids, joined
from three_factors.reproduce.engine.judge.looks import ALPHA, DECISIVE, LEVELS, Look, Spent
from three_factors.reproduce.engine.judge.rules import Direction, Verdict, as_json
from three_factors.reproduce.engine.judge.stored_claims import GATED, HOLM, interval

SMALLER = "smaller than of interest"
BETWEEN_LOOKS = "no word at {} seeds: it has the interval of the next look"
STANDS = "{} at look {}; now {}"
OTHER_RUNS = "look {} was spent by other runs"


@dataclass(frozen=True)
class Claim:
    """One claim and what became of it; the fields of claims.json.

    Attributes:
        id: of its `Statement`.
        claim: the statement's text.
        statistic: what was computed, and the rule in words.
        value: the statistic.
        low: bounds it below, at the look's confidence.
        high: bounds it above, likewise.
        n: replicates.
        verdict: by `rule`; "estimated" of what is no primary claim.
        primary: whether it is given a word.
        look: the number of the look; None where there was none.
        confidence: of the interval.
        p_support: one-sided, at this look alone; the larger of the rule's p and the gate's (`Finding.gate`). A support
            needs at most the look's level, (1 - confidence) / 2.
        p_refute: likewise, by the rule alone.
        holm_support: the least p_support over the looks, each on the scale of all, adjusted for the figure's other
            primary claims. A support needs at most 5 % of it besides. Where p_support is above the level this is
            large too, and not what was lacking: see `stored_claims.why_undecided`.
        holm_refute: likewise.
        small: whether the effect is shown to be smaller than of interest.
        spread: the sd of one replicate on the scale that it is averaged on.
        scale: that scale, "log", where it is not the statistic's own.
        lost: replicates without a value.
        power: of the planned experiment, from the last judged call's spread; with the range that this allows.
        needs_n: how many seeds reach 60 %, with its range.
        data: the data set.
        arm: what was changed in all runs.
        unit: of the estimate.
        paper: the paper's own value.
        quote: the paper's sentence, in few words.
        note: what else is to be said.
        control_of: of its `Statement`.
        quantity: of its `Statement`.
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
    primary: bool = False
    look: int | None = None
    confidence: float | None = None
    p_support: float | None = None
    p_refute: float | None = None
    holm_support: float | None = None
    holm_refute: float | None = None
    small: bool = False
    spread: float | None = None
    scale: str = ""
    lost: int = 0
    power: tuple[float, float, float] | None = None
    needs_n: str | None = None
    paper: str | None = None
    quote: str = ""
    note: str = ""
    data: str = ""
    arm: str = "epochs"
    unit: Unit = ""
    control_of: str = ""
    quantity: Quantity = ""
    labels: tuple[str, ...] = ()
    rule: dict[str, Any] = field(default_factory=dict)
    word: str = ""

    def as_json(self) -> dict[str, Any]:
        return {k: _finite(v) for k, v in asdict(self).items()}

    def spent(self, claim: str, place: str, rules: str, runs: str, seeds: int, made: str) -> Spent:
        """Returns the line of the ledger for this look."""
        assert self.look is not None
        support, refute = (1.0 if of is None else of for of in (self.p_support, self.p_refute))
        value, low, high = (_finite(of) for of in (self.value, self.low, self.high))
        return Spent(claim, place, rules, self.look, runs, seeds, support, refute, self.verdict, value, low, high, made)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judge(
    findings: Sequence[Finding],
    look: Look,
    primary: Sequence[str] | None = None,
    earlier: Callable[[str], Sequence[Spent]] = lambda claim: (),
) -> list[Claim]:
    """Returns the claims with their words.

    Args:
        look: at which they are judged.
        primary: the ids of those that are given one, which are a family even where some were not found; None: of all
            (simulations).
        earlier: the looks spent on a claim before, by its id, in their order. This look may be one of them: what it was
            judged to be stands, also where its runs were made anew and differ in their last bits.

    Raises:
        ValueError: two claims have one id, or a control is one of a claim that there is not.
    """
    check_ids(findings)
    there = {finding.about.id: finding for finding in findings}
    family = list(there) if primary is None else list(primary)
    before = {name: list(earlier(name)) for name in family}
    support = {name: _over_looks(there.get(name), before[name], look, "p_support") for name in family}
    refute = {name: _over_looks(there.get(name), before[name], look, "p_refute") for name in family}
    holm = {"supported": holm_adjusted(support), "not supported": holm_adjusted(refute)}
    return [
        _estimated(finding, look)
        if finding.about.id not in holm["supported"]
        else _worded(finding, look, {verdict: of[finding.about.id] for verdict, of in holm.items()}, before)
        for finding in findings
    ]


def _over_looks(finding: Finding | None, before: Sequence[Spent], look: Look, which: str) -> float:
    """Returns the least p over the looks, each on the scale of all."""
    found = [Look(line.look, LEVELS[line.look - 1]).adjusted(getattr(line, which)) for line in before]
    anew = look.counts and not any(line.look == look.number for line in before)
    if anew and finding is not None and not finding.why_not(look.level):
        found.append(look.adjusted(getattr(finding, which)))
    return min(found, default=1.0)


def holm_adjusted(p: dict[str, float]) -> dict[str, float]:
    """Returns Holm's adjusted p of a family."""
    adjusted, running = dict[str, float](), 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        running = max(running, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = running
    return adjusted


def _estimated(finding: Finding, look: Look) -> Claim:
    """Returns a claim without a word."""
    about, found = finding.about, finding.estimate
    bounds = None if found is None else found.interval(look.confidence)
    low, high = (None, None) if bounds is None else bounds
    notes = [about.note]
    if found is None:
        notes.insert(0, "too few runs that have a value")
    elif found.lost:
        notes.append(f"{found.lost} of {found.n} seeds have no value: they count as the least favourable does")
    unknown = found is None or found.too_many_lost
    return Claim(
        id=about.id,
        claim=about.text,
        statistic=f"{about.statistic}; {finding.rule}",
        value=None if found is None else found.value,
        low=low,
        high=high,
        n=0 if found is None else found.n,
        verdict="estimated",
        look=look.number if look.counts else None,
        confidence=look.confidence,
        p_support=None if unknown else finding.p_support,
        p_refute=None if unknown else finding.p_refute,
        spread=None if found is None else found.spread,
        scale="" if found is None else found.on,
        lost=0 if found is None else found.lost,
        paper=about.paper,
        quote=about.quote,
        note=joined(*notes),
        control_of=about.control_of,
        quantity=about.quantity,
        unit=finding.unit,
        labels=finding.labels,
        rule=as_json(finding.rule),
    )


def _worded(finding: Finding, look: Look, holm: dict[str, float], before: dict[str, list[Spent]]) -> Claim:
    """Returns a primary claim with its word."""
    claim = replace(
        _estimated(finding, look),
        primary=True,
        holm_support=holm["supported"],
        holm_refute=holm["not supported"],
    )
    spent, why_not = before[claim.id], finding.why_not(look.level)
    stood = next((line for line in spent if line.verdict in DECISIVE), None)  # the first decision, whatever came later
    this = next((line for line in spent if look.counts and line.look == look.number), None)
    if stood is not None and (stood is not this or why_not or finding.estimate is None):
        return _kept(claim, stood, why_not)
    if finding.estimate is None or why_not:
        return replace(claim, verdict="not judged", note=joined(why_not, claim.note))
    if not look.counts:
        return replace(claim, verdict="not judged", note=joined(BETWEEN_LOOKS.format(claim.n), claim.note))
    verdict, notes = _decided(finding, look, holm)
    if this is not None and (this.verdict != verdict or not _same(this.value, claim.value)):
        return _kept(claim, this)
    short = isinstance(finding.rule, Direction) and finding.p_refute <= look.level
    small = verdict == "supported" and short
    return replace(claim, verdict=verdict, small=small, note=joined(SMALLER if small else "", *notes, claim.note))


def _kept(claim: Claim, line: Spent, why_not: str = "") -> Claim:
    """Returns a claim with the word of a look that was spent, and what is found now beside it."""
    now = STANDS.format("decided" if line.verdict in DECISIVE else "judged", line.look, interval(claim.as_json()))
    return replace(claim, verdict=line.verdict, note=joined(why_not, now, claim.note))


def _same(first: float | None, second: float | None) -> bool:
    """Tells whether two estimates are one, to more digits than are printed."""
    return first == second if first is None or second is None else math.isclose(first, second, rel_tol=1e-6)


def _decided(finding: Finding, look: Look, holm: dict[str, float]) -> tuple[Verdict, list[str]]:
    """Returns the verdict of a finding at a look that counts, and what stood in its way."""
    estimate, notes = finding.estimate, list[str]()
    assert estimate is not None
    if estimate.too_many_lost:
        notes.append("more than one seed in five has no value")
    alone: tuple[tuple[Verdict, float], ...] = (
        ("supported", finding.p_support),
        ("not supported", finding.p_refute),
    )
    for verdict, p in alone:  # a support goes first
        if p <= look.level:
            if holm[verdict] <= ALPHA:
                return verdict, notes
            notes.append(HOLM.format(verdict))
    if finding.gate is not None and finding.gate > look.level and finding.rule.p_support(estimate) <= look.level:
        notes.append(GATED)
    return "inconclusive", notes
