"""What a script publishes: picture, table, claims and provenance on disk, and the verdicts on the console."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.console import console
from three_factors.reproduce.engine.contract import provenance
from three_factors.reproduce.engine.contract.files import lock, read_cache, write_json, write_text
from three_factors.reproduce.engine.contract.folders import FOLDERS
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.definition import BESIDE, Context
from three_factors.reproduce.engine.judge import verdicts
from three_factors.reproduce.engine.judge.claims import joined
from three_factors.reproduce.engine.judge.looks import Ledger, Spent
from three_factors.reproduce.engine.judge.power import Hope
from three_factors.reproduce.engine.judge.rules import BELOW
from three_factors.reproduce.engine.judge.stored_claims import interval
from three_factors.reproduce.engine.options import EPOCHS
from three_factors.reproduce.engine.publish import ledger
from three_factors.reproduce.engine.publish.picture import KINDS, save
from three_factors.reproduce.engine.source import described

if TYPE_CHECKING:
    import pandas as pd

FILES = ("table.csv", "claims.json", "provenance.json")
ONLY_AT = "looked at once, at {} seeds"
COLOURS = {
    "supported": "green",
    "not supported": "red",
    "inconclusive": "yellow",
    "not judged": "bright_black",
    "estimated": "bright_black",
}


@dataclass(frozen=True)
class Published:
    """Describes what was written.

    Attributes:
        folder: where.
        frame: the rows of table.csv.
        claims: as in claims.json.
        picture: the PNG of the figure.
    """

    folder: Path
    frame: pd.DataFrame
    claims: list[dict[str, Any]]
    picture: bytes


def publish(
    context: Context,
    items: Sequence[Item],
    evidence: Any,
    missing: Sequence[Item],
    hopes: Mapping[str, Hope],
    seconds: float = 0.0,
) -> Published:
    """Writes OUT/NAME/SCALE[-DATA][-ARM][-PRECISION]/ and prints the verdicts.

    `seconds` that this call has spent on runs are added to those of earlier calls.
    """
    definition, smoke = context.definition, context.options.scale == "smoke"
    why_not = "smoke scale" if smoke else f"on {context.other_data}" if context.other_data else None
    why_not = why_not or ("runs are missing" if missing else None)
    judged = _looked_at(context, items, evidence, hopes, why_not)
    folder, frame = context.options.out / definition.name / context.folder, definition.frame(evidence)
    drawings = {definition.name: context.draw}
    if definition.beside is not None and context.arm.draw is None:
        drawings[f"{definition.name}-{BESIDE}"] = definition.beside
    marks: dict[str, Any] = {
        "footer": _footer(context, evidence, frame, missing),
        "watermark": "smoke scale: no result" if smoke else context.other_data,
    }
    folder.mkdir(parents=True, exist_ok=True)
    found = [claim.as_json() for claim in judged]
    with lock(folder, "lock"):  # another call may have other seeds: its table must not stand beside our picture
        for name in (*FILES, *(f"{drawing}.{kind}" for drawing in drawings for kind in KINDS)):
            for left in folder.glob(f".{name}.*"):  # drafts of a call that was killed
                left.unlink()
        drawn = {name: save(draw, evidence, folder, name, **marks) for name, draw in drawings.items()}
        write_text(folder / "table.csv", frame.to_csv(index=False))
        write_json(folder / "claims.json", found)
        others = _write_provenance(folder / "provenance.json", context, items, missing, seconds)
    _print(judged)
    if others:
        seeds = ", ".join(map(str, others))
        console.print(f"seeds {seeds} are in this folder from other calls, and are neither drawn nor judged here")
    return Published(folder, frame, found, drawn[definition.name])


def _looked_at(
    context: Context, items: Sequence[Item], evidence: Any, hopes: Mapping[str, Hope], why_not: str | None
) -> list[verdicts.Claim]:
    """Returns the claims with their words, and spends the look before a word is published: it cannot be lost then."""
    runs, out = runs_of(items), context.options.out
    if why_not is not None or context.definition.first_look(context.options.scale) is None:
        return judge(context, evidence, hopes, why_not, ledger.read(out), runs)
    with ledger.held(out):
        judged = judge(context, evidence, hopes, None, ledger.read(out), runs)
        ledger.add(out, _spent(context, judged, runs))
    return judged


def judge(
    context: Context,
    evidence: Any,
    hopes: Mapping[str, Hope],
    why_not: str | None,
    earlier: Ledger | None = None,
    runs: str = "",
) -> list[verdicts.Claim]:
    """Returns all claims with their words; where nothing may be judged, the values stay and the verdict says why.

    Args:
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


def report(items: Sequence[Item], evidence: Any, missing: Sequence[Item], say: Callable[..., None]) -> None:
    """Says which items are missing and which runs diverged."""
    if missing:
        names = ", ".join(item.name for item in missing)
        nouns = " and ".join(dict.fromkeys(FOLDERS[type(item.spec)].noun for item in items))
        say(f"{len(missing)} of {len(items)} {nouns} are missing: {names}", style="bold red")
    frame = getattr(evidence, "frame", None)
    if frame is None or "status" not in frame:
        return
    diverged = frame[frame["status"] == "diverged"]
    if len(diverged):
        names = diverged["label"] + " seed " + diverged["seed"].astype(str)
        why = "loss or weights not finite, or the loss at the end above the first"
        say(f"{len(diverged)} runs diverged ({why}): {', '.join(names)}")
    if frame.empty:
        say("nothing to draw")


def _footer(context: Context, evidence: Any, frame: pd.DataFrame, missing: Sequence[Item]) -> str:
    definition, scale, source = context.definition, context.options.scale, context.source
    named = [definition.name, scale, *([] if source is None else [source.name])]
    parts = [", ".join([*named, definition.replicates(context.seeds, evidence)])]
    if context.arm.name != EPOCHS:
        parts.append(f"arm {context.arm.name}: {context.arm.words}")
    if reductions := definition.reductions(scale):
        parts.append("reduced: " + "; ".join(f"{paper} → {here}" for paper, here, _ in reductions))
    if scale != "paper" and context.regime is not None:
        parts.append(str(context.regime))
    if diverged := sum(map(evidence.diverged, evidence.labels)):
        count = f"{diverged} of {len(frame)} runs diverged"
        parts.append(f"{count} and are left out (* in a legend; hollow, where a point is a cell)")
    if missing:
        parts.append(f"{len(missing)} runs missing")
    return " · ".join(parts)


def measured(items: Sequence[Item]) -> list[str]:
    """Returns the keys of what is measured of runs after their training."""
    return sorted({measurement.key for item in items for measurement in item.measurements})


def _write_provenance(
    file: Path, context: Context, items: Sequence[Item], missing: Sequence[Item], seconds: float
) -> list[int]:
    """Writes where everything comes from; returns the seeds that earlier calls had and this one has not."""
    before, runs, source = read_cache(file), {item.name: item.spec.key for item in items}, context.source
    same = set(runs.values()) & set(before.get("runs", {}).values())  # other settings have times of their own
    known = {int(name.rsplit(" ", 1)[1]) for name in before.get("runs", {})} | set(before.get("other_seeds", []))
    others = sorted(known - {item.seed for item in items})
    content = {} if source is None else {"fingerprint": source.fingerprint, "origin": source.origin}
    told = {
        "hardware": context.hardware,
        "data": {"name": context.data, **content, "own": context.own_data},
        "source": None if source is None else described(source),
        "arm": context.arm.name,
        "precision": context.options.arithmetic if "precision" in context.definition.flags else None,
        "seeds": context.seeds,
        "reductions": list(context.definition.reductions(context.options.scale)),
        "regime": None if context.regime is None else str(context.regime),
        "runs": runs,
        "other_seeds": others,
        "measured": measured(items),
        "missing": [item.name for item in missing],
        "seconds": round((before.get("seconds", 0.0) if same else 0.0) + seconds, 1),
    }
    write_json(file, provenance.environment() | told)
    return others


def _print(judged: list[verdicts.Claim]) -> None:
    """Prints two lines a primary claim: the word, and what it rests on, with the paper's own value beside ours.

    What is only estimated has a line each, below.
    """
    for c in judged:
        if c.primary:
            console.print(f"[bold {COLOURS[c.verdict]}]{c.word or c.verdict:<14}[/] {c.claim}")
            console.print(f"{'':<15}{' · '.join(_facts(c))}", markup=False, style="bright_black")
    others = [c for c in judged if not c.primary]
    if others:
        console.print("estimated, without a word:", style="bright_black")
    for c in others:
        console.print(f"  {interval(c.as_json())}  {c.claim}", markup=False, style="bright_black")


def _facts(claim: verdicts.Claim) -> list[str]:
    level = f" at {100 * (claim.confidence or 0):g} %" if claim.value is not None else ""
    facts = [interval(claim.as_json()) + level, f"n {claim.n}"]
    if claim.look is not None and claim.verdict != "not judged":
        facts.append(f"look {claim.look}")
    if claim.power is not None:
        facts.append(f"power {100 * claim.power[0]:.0f} %")
    return [*facts, *([f"paper: {claim.paper}"] if claim.paper else []), *([claim.note] if claim.note else [])]
