"""What a figure leaves behind: picture, table, claims and provenance on disk, and the verdicts on the console."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from three_factors.reproduce.engine import claims as judging
from three_factors.reproduce.engine import plots, provenance
from three_factors.reproduce.engine.definition import BESIDE, Context, Figure, PlannedPath, PlannedRun
from three_factors.reproduce.engine.display import console
from three_factors.reproduce.engine.files import lock, read_cache, write_json, write_text
from three_factors.reproduce.engine.options import EPOCHS
from three_factors.reproduce.engine.planning import described, measured
from three_factors.reproduce.engine.power import Planned
from three_factors.reproduce.engine.results import Results
from three_factors.reproduce.engine.table import EIGENVALUE, NOISE, STABILITY, STEP_VARIANCE, Table

FILES = ("table.csv", "claims.json", "provenance.json")
COLOURS = {
    "supported": "green",
    "not supported": "red",
    "inconclusive": "yellow",
    "not judged": "bright_black",
}


def collect(
    figure: Figure,
    planned: list[PlannedRun],
    results: Results,
    say: Callable[[str], None],
    paths: Sequence[PlannedPath] = (),
) -> tuple[Table, list[str]]:
    """The table of what is there, and the names of the runs that are not."""
    rows: list[dict[str, Any]] = []
    curves, steps, profiles, missing = {}, {}, {}, []
    for run in planned:
        folder = results.folder(run.spec)
        result = results.finished(run.spec, run.measurements, say)
        if result is None:
            missing.append(run.name)
            continue
        epochs, reached = folder.rows(), folder.milestones(run.measurements, result)
        rows.append(
            {"label": run.label, "seed": run.seed, "status": result["status"]}
            | {k: v for k, v in result["final"].items() if v is not None}
            | reached
            | _stability_at(reached, epochs)
            | {"seconds": result["provenance"]["seconds"], "key": run.spec.key}
        )
        if result["status"] == "ok":
            curves[run.label, run.seed] = pd.DataFrame(
                [{k: v for k, v in row.items() if k != "steps"} | _of_steps(row["steps"]) for row in epochs]
            ).set_index("epoch")
            rows[-1] |= figure.derive(curves[run.label, run.seed])
            steps[run.label, run.seed] = pd.concat(
                [pd.DataFrame(row["steps"]).assign(epoch=row["epoch"]) for row in epochs], ignore_index=True
            )
    for path in paths:
        found = results.finished(path.spec, (), say)
        if found is None:
            missing.append(path.name)
            continue
        rows.append({"label": path.label, "seed": path.seed, "status": found["status"], "key": path.spec.key}
                    | {k: v for k, v in found["final"].items() if v is not None})  # fmt: skip
        profiles[path.label, path.seed] = found["profiles"]
    order = list(dict.fromkeys([*(run.label for run in planned), *(path.label for path in paths)]))
    frame = pd.DataFrame(rows, columns=None if rows else ["label", "seed", "status"])
    frame = frame.sort_values(["label", "seed"], key=lambda c: c.map(order.index) if c.name == "label" else c)
    return Table(frame.reset_index(drop=True), curves, steps, profiles), missing


def _of_steps(steps: dict[str, list[Any]]) -> dict[str, float]:
    return {STEP_VARIANCE: _variance(steps["loss"]), NOISE: steps["lr"][-1] / steps["batch_size"][-1]}


def _stability_at(reached: dict[str, float], epochs: list[dict[str, Any]]) -> dict[str, float]:
    """eta·lambda_max at the milestones where lambda_max was measured, with eta of the last step before them."""
    found = {}
    for name, top in reached.items():
        milestone = name.removesuffix(f" {EIGENVALUE}")
        if milestone != name:
            epoch = round(reached[f"{milestone} epoch"])
            lr = epochs[epoch - 1]["steps"]["lr"][-1] if epoch else epochs[0]["steps"]["lr"][0]
            found[f"{milestone} {STABILITY}"] = lr * top
    return found


def _variance(losses: list[float]) -> float:
    """Variance of an epoch's step losses about their trend, a straight line; NaN for fewer than 4 steps."""
    if len(losses) < 4:
        return math.nan
    at = np.arange(len(losses)) - (len(losses) - 1) / 2
    left = np.asarray(losses) - np.mean(losses)
    left = left - at * (at @ left) / (at @ at)
    return float(left @ left) / (len(losses) - 2)


def judge(context: Context, table: Table, plans: list[Planned], why_not: str | None) -> list[judging.Claim]:
    """All claims, after Holm; where nothing may be judged, the values stay and the verdict says why."""
    found = judging.holm(context.check(table))
    judged, diverged = [], sum(table.diverged(label) for label in table.labels)
    for claim, plan in zip(found, plans or [Planned()] * len(found), strict=True):
        notes = [claim.note] if claim.note else []
        if why_not:
            claim, notes = replace(claim, verdict="not judged"), [why_not]
        elif plan.needs_n is not None and claim.verdict == "inconclusive":
            notes.append(f"cannot confirm at this n (needs n {plan.needs_n})")
        quoted = [label for label in table.labels if f"'{label}'" in claim.statistic]
        for label in quoted:
            if lost := table.diverged(label):
                notes.append(f"{lost} diverged run{'s' if lost > 1 else ''} of '{label}' left out")
        if not quoted and diverged:
            notes.append(f"{diverged} run{'s' if diverged > 1 else ''} of the figure diverged")
        note = "; ".join(notes)
        data, arm = context.source.name, context.options.arm
        judged.append(replace(claim, power=plan.power, needs_n=plan.needs_n, data=data, arm=arm, note=note))
    return judged


def report(planned: list[PlannedRun], table: Table, missing: list[str], say: Callable[..., None]) -> None:
    """Says which runs are missing and which diverged."""
    if missing:
        say(f"{len(missing)} of {len(planned)} runs are missing: {', '.join(missing)}", style="bold red")
    diverged = table.frame[table.frame["status"] == "diverged"]
    if len(diverged):
        names = diverged["label"] + " seed " + diverged["seed"].astype(str)
        why = "loss or weights not finite, or the loss at the end above the first"
        say(f"{len(diverged)} runs diverged ({why}): {', '.join(names)}")
    if table.frame.empty:
        say("nothing to draw")


def write(
    context: Context,
    planned: list[PlannedRun],
    table: Table,
    missing: list[str],
    plans: list[Planned],
    seconds: float = 0.0,
) -> tuple[Path, list[dict[str, Any]], bytes]:
    """Writes OUT/FIGURE/SCALE[-DATA][-ARM]/ and prints the verdicts. Returns the folder, the claims and the PNG.

    `seconds` that this call has spent on runs are added to those of earlier calls.
    """
    figure, options, source = context.figure, context.options, context.source
    watermark = None if context.own_data else f"{source.name}, not {' or '.join(figure.own)}"
    beside = figure.beside if context.arm.draw is None else None
    leaving = Leaving(
        folder=options.out / figure.name / context.folder,
        name=figure.name,
        drawings={figure.name: context.draw} | ({f"{figure.name}-{BESIDE}": beside} if beside is not None else {}),
        footer=_footer(context, table, missing),
        watermark="smoke scale: no result" if options.scale == "smoke" else watermark,
        provenance=_provenance(context, planned, missing),
    )
    judged = judge(context, table, plans, _why_not(context, missing))
    return leaving.folder, *leave(leaving, table, table.frame, judged, seconds)


@dataclass(frozen=True)
class Leaving:
    """Where a figure's files go, and what stands on them. drawings: file name -> panels."""

    folder: Path
    name: str
    drawings: dict[str, Callable[[Any, Any], None]]
    footer: str
    watermark: str | None
    provenance: dict[str, Any]


def leave(
    leaving: Leaving, evidence: Any, frame: pd.DataFrame, judged: list[judging.Claim], seconds: float
) -> tuple[list[dict[str, Any]], bytes]:
    """Writes pictures, table.csv, claims.json and provenance.json, prints the verdicts. Returns claims and PNG."""
    folder = leaving.folder
    folder.mkdir(parents=True, exist_ok=True)
    found = [claim.as_json() for claim in judged]
    with lock(folder, "lock"):  # another call may have other seeds: its table must not stand beside our picture
        for left in folder.glob(".*"):  # by a call that was killed
            left.unlink()
        drawn = {
            name: plots.save(draw, evidence, folder, name, footer=leaving.footer, watermark=leaving.watermark)
            for name, draw in leaving.drawings.items()
        }
        write_text(folder / "table.csv", frame.to_csv(index=False))
        write_json(folder / "claims.json", found)
        file = folder / "provenance.json"
        before, runs = read_cache(file), set(leaving.provenance["runs"].values())
        same = runs & set(before.get("runs", {}).values())  # other settings have times of their own
        spent = {"seconds": round((before.get("seconds", 0.0) if same else 0.0) + seconds, 1)}
        write_json(file, provenance.environment() | leaving.provenance | spent)
    _print(judged)
    return found, drawn[leaving.name]


def _why_not(context: Context, missing: list[str]) -> str | None:
    if context.options.scale == "smoke":
        return "smoke scale"
    if not context.own_data:
        return f"on {context.source.name}, not {' or '.join(context.figure.own)}"
    return "runs are missing" if missing else None


def _footer(context: Context, table: Table, missing: list[str]) -> str:
    scale, reductions = context.options.scale, context.figure.experiment.REDUCTIONS
    seeds = f"{context.seeds} seeds, {context.figure.spread}" if context.seeds > 1 else "1 seed"
    parts = [f"{context.figure.name}, {scale}, {context.source.name}, {seeds}"]
    if context.options.arm != EPOCHS:
        parts.append(f"arm {context.options.arm}: {context.arm.words}")
    if scale == "quick":
        parts.append("reduced: " + "; ".join(f"{paper} → {quick}" for paper, quick, _ in reductions))
    if diverged := sum(table.diverged(label) for label in table.labels):
        count = f"{diverged} of {len(table.frame)} runs diverged"
        parts.append(f"{count} and are left out (* in a legend; hollow, where a point is a cell)")
    if missing:
        parts.append(f"{len(missing)} runs missing")
    return " · ".join(parts)


def _provenance(context: Context, planned: list[PlannedRun], missing: list[str]) -> dict[str, Any]:
    return {
        "hardware": context.hardware,
        "data": {
            "name": context.source.name,
            "fingerprint": context.source.fingerprint,
            "origin": context.source.origin,
            "own": context.own_data,
        },
        "source": described(context.source),
        "arm": context.options.arm,
        "seeds": context.seeds,
        "reductions": context.figure.experiment.REDUCTIONS if context.options.scale == "quick" else [],
        "runs": {run.name: run.spec.key for run in planned},
        "measured": measured(planned),
        "missing": missing,
    }


def _print(judged: list[judging.Claim]) -> None:
    """Two lines a claim: the verdict, and what it rests on, with the paper's own value beside ours."""
    for c in judged:
        console.print(f"[bold {COLOURS[c.verdict]}]{c.verdict:<14}[/] {c.claim}")
        facts = [judging.interval(c.as_json()), f"n {c.n}"]
        if c.power is not None:
            facts.append(f"power {100 * c.power:.0f} %")
        if c.paper:
            facts.append(f"paper: {c.paper}")
        if c.note:
            facts.append(c.note)
        console.print(f"{'':<15}{' · '.join(facts)}", markup=False, style="bright_black")
