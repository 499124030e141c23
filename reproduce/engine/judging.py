"""Judging: what a script's claims are told to be, at the looks that were spent; and the power they have beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from three_factors.reproduce.engine.contract import provenance
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.judge import power, verdicts
from three_factors.reproduce.engine.judge.claims import joined
from three_factors.reproduce.engine.judge.looks import Ledger, Spent
from three_factors.reproduce.engine.judge.power import Hope
from three_factors.reproduce.engine.judge.rules import BELOW
from three_factors.reproduce.engine.publish import ledger

ONLY_AT = "looked at once, at {} seeds"


def looked_at(
    context: Context, items: Sequence[Item], evidence: Any, missing: Sequence[Item], hopes: Mapping[str, Hope]
) -> list[verdicts.Claim]:
    """Returns the claims with their words, and spends the look before a word is published: it cannot be lost then."""
    runs, out = runs_of(items), context.options.out
    why_not = _why_not(context, missing)
    if why_not or context.definition.first_look(context.options.scale) is None:
        return judge(context, evidence, hopes, why_not, ledger.read(out), runs)
    with ledger.held(out):
        judged = judge(context, evidence, hopes, "", ledger.read(out), runs)
        ledger.add(out, _spent(context, judged, runs))
    return judged


def judge(
    context: Context,
    evidence: Any,
    hopes: Mapping[str, Hope],
    why_not: str = "",
    earlier: Ledger | None = None,
    runs: str = "",
) -> list[verdicts.Claim]:
    """Returns all claims with their words; where nothing may be judged, the values stay and the verdict says why.

    Args:
        hopes: what claims could hope for beforehand, by their ids.
        why_not: why nothing is given a word; "" if claims are.
        earlier: the looks that were spent.
        runs: by which this one is (`runs_of`).
    """
    spent, look, rules = earlier or Ledger(), context.look, context.definition.rules(context.arm.name)
    found, only = [], context.definition.only_at(context.options.scale)
    why_not = why_not or (ONLY_AT.format(only) if only not in (None, context.seeds) else "")
    for finding in context.check(evidence):
        name = _name(context, finding.about.id)
        reasons = [why_not]
        if look.counts and spent.other_runs(name, context.place, rules, look.number, runs):
            reasons.append(verdicts.OTHER_RUNS.format(look.number))
        if finding.about.location and not context.near:
            reasons.append("where it lies moves with t_eta: judged within a factor of 3 of the paper's")
        found.append(finding.without(joined(*reasons)) if any(reasons) else finding)

    def before(claim: str) -> list[Spent]:
        looks = spent.of(_name(context, claim), context.place, rules)
        # What others than these runs were judged to be at this very look is not these runs' word.
        return [of for of in looks if not look.counts or of.look != look.number or of.runs == runs]

    judged = verdicts.judge(found, look, context.primary, before)
    return [_told(claim, context, evidence, hopes.get(claim.id)) for claim in judged]


def runs_of(items: Sequence[Item]) -> str:
    """Returns a hash of the runs' keys: which runs a look was spent by. What calibrates is given no word."""
    keys = sorted(item.spec.key for item in items if "calibration" not in item.factors)
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]


def powers(context: Context, say: Callable[..., None]) -> dict[str, Hope]:
    """Returns each primary claim's power at this many seeds, by id, from the spread that the last judged call found."""
    first = context.definition.first_look(context.options.scale)
    if first is None or context.options.scale == "smoke" or context.seeds < 2 or not context.own_data:
        return {}
    file = context.options.out / context.definition.name / context.folder / "claims.json"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        found = power.hopes(before, context.seeds, first)
        told = [(claim["claim"], found[claim["id"]]) for claim in before if claim["id"] in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, of an earlier edition, or damaged
        return {}
    if found:
        say(f"power at {context.seeds} seeds, by the spread between seeds that the last call found, and its range:")
    for claim, hope in told:
        middle, least, most = (100 * of for of in hope.power)
        needs = f" (needs n {hope.needs_n})" if hope.needs_n is not None else ""
        say(f"  {middle:>3.0f} % ({least:.0f} to {most:.0f} %)  {claim}{needs}")
    return found


def _why_not(context: Context, missing: Sequence[Item]) -> str:
    """Returns why nothing is given a word; "" if nothing stands in the way."""
    if context.options.scale == "smoke":
        return "smoke scale"
    if context.other_data:
        return f"on {context.other_data}"
    return "runs are missing" if missing else ""


def _name(context: Context, claim: str) -> str:
    return f"{context.definition.name}.{claim}"


def _spent(context: Context, judged: Sequence[verdicts.Claim], runs: str) -> list[Spent]:
    """Returns the looks that this judgement spends: of primary claims that were given a word at a look that counts."""
    made, rules = provenance.environment()["made"][:10], context.definition.rules(context.arm.name)
    return [
        claim.spent(_name(context, claim.id), context.place, rules, runs, context.seeds, made)
        for claim in judged
        if claim.primary and claim.look is not None and claim.verdict != "not judged"
    ]


def _told(claim: verdicts.Claim, context: Context, evidence: Any, hope: Hope | None) -> verdicts.Claim:
    """Adds to a claim what it was judged on, and what stands in its way."""
    notes = [claim.note]
    for label in claim.labels:
        if lost := evidence.diverged(label):
            notes.append(f"{lost} run{'s' if lost > 1 else ''} of '{label}' diverged")
    lost = sum(map(evidence.diverged, evidence.labels))
    if lost and not claim.labels:
        notes.append(f"{lost} run{'s' if lost > 1 else ''} of the figure diverged")
    word = claim.verdict if context.papers_words else BELOW.get(claim.verdict, claim.verdict)
    claim = replace(claim, word=word, data=context.data, arm=context.arm.name, note=joined(*notes))
    return claim if hope is None else replace(claim, power=hope.power, needs_n=hope.needs_n)
