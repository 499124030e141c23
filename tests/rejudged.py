"""Judges the first edition's quick runs, which the archive keeps, by today's rules: exploratory, for HISTORY.md.

    python tests/rejudged.py [--out DIR]

Their seeds, 0 to 3, are pilots': nothing here is a verdict. With --out each figure's table.csv and claims.json are
written to DIR/NAME/.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]

FIGURES = {  # figure -> the blocks that have its runs
    **{f"fig{i}": (f"fig{i}",) for i in (1, 5, 6, 7, 8, 9, 16)},
    "fig4": ("fig4", "fig13"),
    "fig13": ("fig13", "fig4"),
    "fig14": ("fig14", "fig5"),
    "fig15": ("fig15", "fig5"),
    "table1": ("table1", "fig16"),
    "fig2": ("fig2",),
    "fig3": ("fig3", "fig3-2"),
    "fig10": ("fig10",),
    "fig11": ("fig11", "fig10"),
    "fig12": ("fig12", "fig10"),
}


def table_of(name: str) -> Any:
    """Returns the table of a figure's archived runs, with the columns that its claims ask for today."""
    import pandas as pd

    from tests.reproduce.figures import figure, source
    from three_factors.reproduce.engine import evidence
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.block import ArchivedRun
    from three_factors.reproduce.engine.contract.steps import BATCH_SIZE, LR, planned
    from three_factors.reproduce.engine.judge.table import ACCURACIES, NOISE, Table

    archive, experiment = Archive(), figure(name).experiment
    settings = experiment.runs("quick", source(figure(name).data[0]))
    rows, curves, steps, seen = list[dict[str, Any]](), {}, {}, set()
    for block in (archive.block(f"quick-9c2365e-{part}") for part in FIGURES[name]):
        for place, key in block.told["labels"].items():
            label, _, seed = place.rpartition(" seed ")
            if key not in block.place or (label, seed) in seen:
                continue
            seen.add((label, seed))
            run, spec = ArchivedRun(archive.folder / key, blocks=(block,)), block.spec(key)
            result = run.result()
            row = {"label": label, "seed": int(seed), "status": result["status"]}
            row |= {k: v for k, v in result["final"].items() if v is not None}
            reached = zip(block.told["reached"], block.reached[block.place[key]].tolist())
            row |= {f"{at} {metric}": value for (_, at, metric), value in reached if value == value}
            if result["status"] == "diverged":
                row |= dict.fromkeys(result["final"].keys() & set(ACCURACIES), 1 / spec.network.num_classes)
            else:
                frame = pd.DataFrame(run.rows()).set_index("epoch")
                frame[NOISE] = frame.pop(LR) / frame.pop(BATCH_SIZE)
                curves[label, int(seed)] = frame
                plan = planned(spec)
                steps[label, int(seed)] = pd.DataFrame({"epoch": plan.epoch, "batch_size": plan.batch_size})
                row |= evidence.endpoint(frame, spec) | experiment.derive(frame, spec)
            rows.append(row)
    rows += lines_of(name)
    factors = {label: dict(settings[label].factors) for label in {row["label"] for row in rows} if label in settings}
    rows = [row | factors.get(row["label"], {}) for row in rows]
    return Table(pd.DataFrame(rows), curves, steps, factors=factors)


def lines_of(name: str) -> list[dict[str, Any]]:
    """Returns a row a line between two of a figure's archived runs; the archive keeps them by their keys alone."""
    from dataclasses import replace

    from tests.reproduce.figures import figure
    from three_factors.reproduce.engine.contract.archive import Archive

    archive, experiment = Archive(), figure(name).experiment
    blocks = [archive.block(f"quick-9c2365e-{part}") for part in FIGURES[name]]
    labels = {place: key for block in blocks for place, key in block.told["labels"].items()}
    specs = {key: block.spec(key) for block in blocks for key in block.place}
    lines = {key: line for block in blocks for key, line in block.told["lines"].items()}
    rows = []
    for label, line in experiment.lines.items():
        for seed in sorted({int(place.rpartition(" ")[2]) for place in labels}):
            ends = [specs.get(labels.get(f"{end} seed {seed}", "")) for end in (line.start, line.end)]
            if None in ends:
                continue
            # As the first edition followed them: no further than a fixed distance, radial parts included.
            path = replace(experiment.path("quick", *ends), until=None, tangential=False)
            if path.key in lines:
                found = lines[path.key]
                rows.append({"label": label, "seed": seed, "status": found["status"], **found["final"]})
    return rows


def judged(name: str) -> tuple[Any, list[Any]]:
    """Returns the table and the claims, as at a first look."""
    from tests.reproduce.figures import figure
    from three_factors.reproduce.engine.judge.looks import look
    from three_factors.reproduce.engine.judge.verdicts import judge

    table = table_of(name)
    seeds = len(set(table.frame["seed"][table.frame["seed"] < 100]))  # Table 1's tuning has seeds of its own
    return table, judge(figure(name).check(table), look(seeds, seeds), figure(name).primary)


def main(arguments: Sequence[str] | None = None) -> None:
    from three_factors.reproduce.engine.judge.rules import BELOW
    from three_factors.reproduce.engine.judge.stored_claims import interval

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write table.csv and claims.json of each figure below this folder")
    options = parser.parse_args(arguments)
    for name in FIGURES:
        table, claims = judged(name)
        if options.out is not None:
            folder = options.out / name
            folder.mkdir(parents=True, exist_ok=True)
            table.frame.to_csv(folder / "table.csv", index=False)
            (folder / "claims.json").write_text(json.dumps([claim.as_json() for claim in claims], indent=1))
        for claim in claims:
            if claim.primary:
                word = BELOW.get(claim.verdict, claim.verdict)
                print(f"{name:<7} {word:<12} {claim.id:<22} {interval(claim.as_json()):<28} n {claim.n}  {claim.note}")


if __name__ == "__main__":
    main()
