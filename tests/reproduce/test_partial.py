"""Every figure judges and draws what is there when nearly all of its runs are missing, or all of them diverged."""

import json
from dataclasses import replace

import pytest

from tests.reproduce.figures import SCRIPTS, figure, source
from three_factors.reproduce.engine import outputs, plots
from three_factors.reproduce.engine.definition import PlannedRun
from three_factors.reproduce.engine.results import Results

METRICS = [
    f"{part}/{what}"
    for part in ("train", "val", "test", "train_subset", "train_clean", "train_wrong")
    for what in ("loss", "accuracy")
]


def leave(results, run, status):
    """The files of a run of three epochs that measured nothing."""
    folder = results.folder(run.spec).path
    folder.mkdir(parents=True)
    steps = {"loss": [1.0, 0.9], "lr": [0.1] * 2, "batch_size": [8] * 2}
    metrics = dict.fromkeys(METRICS, 0.5 if status == "ok" else None)
    rows = [{"epoch": i, "step": 2 * i, "t_eta": 0.2 * i, "steps": steps} | metrics for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = {k: v for k, v in rows[-1].items() if k != "steps"}
    result = {"key": run.spec.key, "status": status, "final": final, "milestones": {}, "provenance": {"seconds": 1.0}}
    (folder / "result.json").write_text(json.dumps(result))


def collected(name, kind, folder):
    """The figure without its derived columns, and the table of what is there."""
    defined, results = figure(name), Results(folder)
    specs = defined.experiment.runs("smoke", source(defined.data))
    planned = [PlannedRun(label, seed, replace(s, seed=seed)) for seed in (0, 1) for label, s in specs.items()]
    for run in planned[:1] if kind == "one run" else planned:
        leave(results, run, "ok" if kind == "one run" else "diverged")
    defined = replace(defined, derive=lambda rows: {})
    table, missing = outputs.collect(defined, planned, results, print)
    assert len(missing) == (len(planned) - 1 if kind == "one run" else 0)
    return defined, table


each = pytest.mark.parametrize("name", SCRIPTS)
kinds = pytest.mark.parametrize("kind", ["one run", "all diverged"])


@each
@kinds
def test_a_figure_is_judged_with_what_is_there(name, kind, tmp_path):
    defined, table = collected(name, kind, tmp_path)
    verdicts = {claim.verdict for claim in defined.check(table)}
    assert verdicts
    assert "supported" not in verdicts


@pytest.mark.slow
@each
@kinds
def test_a_figure_is_drawn_with_what_is_there(name, kind, tmp_path):
    defined, table = collected(name, kind, tmp_path)
    for draw in filter(None, (defined.draw, defined.beside)):
        plots.save(draw, table, tmp_path, name, footer="", watermark=None)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
