"""Results of other settings, networks or measurements than the code has now are not taken for current ones."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.figures import figure as named
from tests.reproduce.figures import source
from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.engine.experiment import PAPERS, Experiment
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.table import Table
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.planning import FigurePlan
from three_factors.reproduce.engine.publish.current import is_current
from three_factors.reproduce.engine.publish.outputs import measured
from three_factors.reproduce.engine.source import described
from three_factors.reproduce.experiments import memorisation

MNIST, CIFAR = source("mnist"), source("cifar10")


def left(folder, figure, source, frame=None, precision=None):
    """What a call of the figure at smoke scale would have left."""
    plan = FigurePlan(figure, Options(scale="smoke", seeds=2, precision=precision), source, PAPERS)
    runs = plan.runs()
    frame = pd.DataFrame({"label": ["-"], "seed": [0], "status": ["ok"]}) if frame is None else frame(runs)
    factors = {run.label: run.factors for run in runs}
    runs += plan.final(runs, Table(frame, {}, factors=factors))
    frame.to_csv(folder / "table.csv", index=False)
    found = figure.check(figure.experiment.imagined("smoke", 2, np.random.default_rng(1)))
    imagined = judge(found, look(2, 2), figure.primary)
    (folder / "claims.json").write_text(json.dumps([claim.as_json() for claim in imagined]))
    told = {
        "source": described(source),
        "seeds": 2,
        "arm": "epochs",
        "measured": measured(runs),
        "runs": {run.name: run.spec.key for run in runs},
    }
    return written(folder, told)


def written(folder, told):
    (folder / "provenance.json").write_text(json.dumps(told))
    return told


def test_results_on_a_second_data_set_are_current_with_claims_of_their_own(tmp_path):
    figure = named("noise_only")

    def frame(runs):
        return pd.DataFrame([{"label": run.label, "seed": run.seed, "status": "ok"} for run in runs])

    left(tmp_path, figure, CIFAR, frame)
    runs = FigurePlan(figure, Options(scale="smoke", seeds=2), CIFAR, PAPERS).runs()
    table = Table(frame(runs), {}, factors={run.label: run.factors for run in runs})
    assert not is_current(figure, tmp_path, "smoke", tmp_path)  # the claims are of the first one's networks
    found = [claim.as_json() for claim in judge(figure.check(table), look(2, 2), figure.primary)]
    (tmp_path / "claims.json").write_text(json.dumps(found))
    assert is_current(figure, tmp_path, "smoke", tmp_path)


def test_results_are_current_until_a_setting_a_measurement_or_the_data_change(tmp_path, monkeypatch):
    figure = named("fig15")
    told = left(tmp_path, figure, MNIST)
    assert is_current(figure, tmp_path, "smoke", tmp_path)
    assert not is_current(figure, tmp_path, "quick", tmp_path)
    for change in (
        {"source": told["source"] | {"fingerprint": "other"}},
        {"seeds": 3},
        {"measured": []},
        {"runs": {}},
    ):
        written(tmp_path, told | change)
        assert not is_current(figure, tmp_path, "smoke", tmp_path), change
    written(tmp_path, {key: value for key, value in told.items() if key != "source"})  # as older versions wrote it
    assert not is_current(figure, tmp_path, "smoke", tmp_path)
    written(tmp_path, told)
    claims = json.loads((tmp_path / "claims.json").read_text())
    (tmp_path / "claims.json").write_text(json.dumps([claims[0] | {"statistic": "in other words"}, *claims[1:]]))
    assert is_current(figure, tmp_path, "smoke", tmp_path)
    other = claims[0]["rule"] | {"smallest": 0.29}
    (tmp_path / "claims.json").write_text(json.dumps([claims[0] | {"rule": other}, *claims[1:]]))
    assert not is_current(figure, tmp_path, "smoke", tmp_path)
    (tmp_path / "claims.json").write_text(json.dumps([claims[0] | {"primary": False}, *claims[1:]]))
    assert not is_current(figure, tmp_path, "smoke", tmp_path)  # another family
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    assert is_current(figure, tmp_path, "smoke", tmp_path)
    longer = replace(memorisation.SMOKE, epochs=4)
    monkeypatch.setitem(memorisation.MEMORISATION.scales, "smoke", longer)
    assert not is_current(figure, tmp_path, "smoke", tmp_path)


def test_results_in_another_precision_than_the_scales_are_current_where_they_say_so(tmp_path):
    figure = named("fig15")
    told = left(tmp_path, figure, MNIST, precision="tf32")
    assert not is_current(figure, tmp_path, "smoke", tmp_path)  # the scale's own, where nothing is said
    for precision, current in (("tf32", True), ("bf16", False), ("float32", False), ("float16", False)):
        written(tmp_path, told | {"precision": precision})
        assert is_current(figure, tmp_path, "smoke", tmp_path) is current, precision
    written(tmp_path, left(tmp_path, figure, MNIST) | {"precision": "float32"})
    assert is_current(figure, tmp_path, "smoke", tmp_path)


def test_results_of_a_figure_that_imagines_no_world_are_current_by_their_keys(tmp_path, monkeypatch):
    figure = named("fig15")
    told = left(tmp_path, figure, MNIST)
    monkeypatch.setattr(type(figure.experiment), "imagined", Experiment.imagined)
    assert is_current(figure, tmp_path, "smoke", tmp_path)
    for change in ({"measured": []}, {"runs": {}}):
        written(tmp_path, told | change)
        assert not is_current(figure, tmp_path, "smoke", tmp_path), change


def test_of_a_tuned_figure_the_runs_that_its_table_chooses_count_too(tmp_path):
    figure = named("table1")

    def frame(runs):
        scores = [0.5 + run.spec.schedule.lr(2.0) for run in runs]
        return pd.DataFrame(
            {
                "label": [run.label for run in runs],
                "seed": [run.seed for run in runs],
                "status": "ok",
                "val/accuracy": scores,
                "val/loss": 1.0,
            }
        )

    told = left(tmp_path, figure, CIFAR, frame)
    final = {name for name in told["runs"] if not name.startswith("tuning")}
    assert len(final) == 2 * 5
    assert is_current(figure, tmp_path, "smoke", tmp_path)
    written(tmp_path, told | {"runs": {k: v for k, v in told["runs"].items() if k != min(final)}})
    assert not is_current(figure, tmp_path, "smoke", tmp_path)


@pytest.mark.parametrize("name", ["theorem2", "sampling"])
def test_of_a_theory_script_every_simulation_counts(tmp_path, name):
    theory = import_module(f"three_factors.reproduce.{name}").THEORY
    runs = {
        f"{label}, seed {seed}": replace(spec, seed=seed).key
        for seed in range(2)
        for label, spec in theory.simulations("smoke").items()
    }
    told = written(tmp_path, {"source": None, "seeds": 2, "runs": runs})
    assert is_current(theory, tmp_path, "smoke", tmp_path)
    written(tmp_path, told | {"runs": dict(list(runs.items())[1:])})
    assert not is_current(theory, tmp_path, "smoke", tmp_path)
    written(tmp_path, told)
    for claims, current in (([{"id": "a", "primary": True}], True), ([{"id": "a", "verdict": "supported"}], False)):
        (tmp_path / "claims.json").write_text(json.dumps(claims))
        assert is_current(theory, tmp_path, "smoke", tmp_path) is current  # the latter by the first edition's rules


def test_of_a_theory_on_data_the_data_themselves_count(tmp_path, monkeypatch):
    theory = import_module("three_factors.reproduce.bridge").THEORY
    source = prepare("digits28")
    specs = theory.simulations("smoke", source)
    runs = {f"{label}, seed {seed}": replace(spec, seed=seed).key for seed in range(2) for label, spec in specs.items()}
    told = written(tmp_path, {"source": described(source), "seeds": 2, "runs": runs})
    assert is_current(theory, tmp_path, "smoke", tmp_path)
    written(tmp_path, told | {"source": told["source"] | {"fingerprint": "other"}})
    assert not is_current(theory, tmp_path, "smoke", tmp_path)
    written(tmp_path, told)
    monkeypatch.setattr("three_factors.reproduce.engine.publish.current.cached", lambda *_: None)
    assert not is_current(theory, tmp_path, "smoke", tmp_path)
