"""What a script publishes: picture, table, claims and provenance on disk, and the verdicts on the console."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.console import console
from three_factors.reproduce.engine.contract import provenance
from three_factors.reproduce.engine.contract.files import lock, read_cache, write_json, write_text
from three_factors.reproduce.engine.contract.folders import FOLDERS
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.definition import BESIDE, Context
from three_factors.reproduce.engine.judge.stored_claims import interval, why_undecided
from three_factors.reproduce.engine.judge.verdicts import Claim
from three_factors.reproduce.engine.options import EPOCHS
from three_factors.reproduce.engine.publish.picture import KINDS, save
from three_factors.reproduce.engine.source import described

if TYPE_CHECKING:
    import pandas as pd

FILES = ("table.csv", "claims.json", "provenance.json")
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
    judged: Sequence[Claim],
    seconds: float = 0.0,
) -> Published:
    """Writes OUT/NAME/SCALE[-DATA][-ARM][-PRECISION]/ and prints the verdicts.

    `seconds` that this call has spent on runs are added to those of earlier calls.
    """
    definition, smoke = context.definition, context.options.scale == "smoke"
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


def _print(judged: Sequence[Claim]) -> None:
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


def _facts(claim: Claim) -> list[str]:
    level = f" at {100 * (claim.confidence or 0):g} %" if claim.value is not None else ""
    facts = [interval(claim.as_json()) + level, f"n {claim.n}"]
    if claim.look is not None and claim.verdict != "not judged":
        facts.append(f"look {claim.look}")
    if lacking := why_undecided(claim.as_json()):
        facts.append(lacking)
    if claim.power is not None:
        facts.append(f"power {100 * claim.power[0]:.0f} %")
    return [*facts, *([f"paper: {claim.paper}"] if claim.paper else []), *([claim.note] if claim.note else [])]
