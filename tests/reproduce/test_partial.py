"""Every figure judges and draws what is there when nearly all of its runs are missing, or all of them diverged."""

import json
from dataclasses import replace

import pytest

from tests.reproduce.figures import SCRIPTS, figure, source
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import OF_STEPS
from three_factors.reproduce.engine.evidence import table_of
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.engine.publish.picture import save

METRICS = [
    f"{part}/{what}"
    for part in ("train", "val", "test", "train_subset", "train_clean", "train_wrong")
    for what in ("loss", "accuracy")
]


def leave(results, run, status):
    """The files of a run of three epochs that measured nothing."""
    folder = results.folder(run.spec).path
    folder.mkdir(parents=True)
    steps = {"train/step_variance": 0.1, "noise/lr": 0.1, "noise/batch_size": 8}
    metrics = dict.fromkeys(METRICS, 0.5 if status == "ok" else None)
    rows = [{"epoch": i, "step": 2 * i, "t_eta": 0.2 * i, **steps} | metrics for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = {k: v for k, v in rows[-1].items() if k not in OF_STEPS}
    result = {"key": run.spec.key, "status": status, "final": final, "milestones": {}, "provenance": {"seconds": 1.0}}
    (folder / "result.json").write_text(json.dumps(result))


class Underived:
    """An experiment without further columns: its rows are made up."""

    def derive(self, rows, spec):
        return {}


def collected(name, kind, folder):
    """The figure, and the table of what is there."""
    defined, results = figure(name), Results(folder)
    settings = defined.experiment.runs("smoke", source(defined.data[0]))
    planned = [
        Item(label, seed, setting.of_seed(seed), setting.measurements, setting.factors)
        for seed in (0, 1)
        for label, setting in settings.items()
    ]
    if kind == "one run":
        planned = [replace(item, measurements=()) for item in planned]
    for item in planned[:1] if kind == "one run" else planned:
        leave(results, item, "ok" if kind == "one run" else "diverged")
    table = table_of(Underived(), planned, results, print)
    missing = results.missing(planned, print)
    assert len(missing) == (len(planned) - 1 if kind == "one run" else 0)
    return defined, table


each = pytest.mark.parametrize("name", SCRIPTS)
kinds = pytest.mark.parametrize("kind", ["one run", "all diverged"])


@each
@kinds
def test_a_figure_is_judged_with_what_is_there(name, kind, tmp_path):
    defined, table = collected(name, kind, tmp_path)
    verdicts = {claim.verdict for claim in judge(defined.check(table), look(2, 2), defined.primary)}
    assert verdicts
    assert "supported" not in verdicts


@pytest.mark.slow
@each
@kinds
def test_a_figure_is_drawn_with_what_is_there(name, kind, tmp_path):
    defined, table = collected(name, kind, tmp_path)
    for draw in filter(None, (defined.draw, defined.beside)):
        save(draw, table, tmp_path, name, footer="", watermark=None)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
