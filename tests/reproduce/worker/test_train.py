"""One run: what it records, that it is a function of its spec, and what happens when it diverges."""

import inspect
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from three_factors import lightning_modules
from three_factors.callbacks import HessianMonitor, KeepWeights
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle
from three_factors.reproduce.engine.contract import provenance
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.job import ROUNDED
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement, Watch
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Keep, RunSpec
from three_factors.reproduce.engine.contract.steps import planned
from three_factors.reproduce.engine.worker.measure import measure
from three_factors.reproduce.engine.worker.stacking import initial_network
from three_factors.reproduce.engine.worker.train import Job, LostWeights, initial_module
from three_factors.reproduce.engine.worker.train import train as train_in

DATA = Data("digits28", "-", train=320, validation=50, test=100)
SPEC = RunSpec(
    MLPNetwork(hidden=(16,)),
    DATA,
    NoiseSchedule(0.1, Cyclic(high=160, low=32, period=2, phase=0.5)),
    epochs=4,
    seed=0,
)


@pytest.fixture
def job():
    return Job(prepare("digits28"))


def train(spec, job, folder):
    return train_in(spec, job, RunFolder(folder))


NETWORKS = {kind: getattr(lightning_modules, kind.module) for kind in (MLPNetwork, ResNet56Network, VGG11Network)}


@pytest.mark.parametrize(
    ("described", "made"),
    [(Curvature, HessianMonitor), (Keep, KeepWeights), *NETWORKS.items()],
    ids=lambda kind: kind.__name__,
)
def test_every_field_of_what_describes_is_a_keyword_of_what_is_made(described, made):
    assert {field.name for field in fields(described)} <= inspect.signature(made).parameters.keys()


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_step_and_epoch_is_recorded(job, tmp_path):
    result = train(SPEC, replace(job, every_step=True), tmp_path)
    assert result["status"] == "ok"
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert [row["step"] for row in found] == [10, 12, 22, 24]
    assert [(row["noise/lr"], row["noise/batch_size"]) for row in found[:2]] == [(0.1, 32), (0.1, 160)]
    assert found[-1]["t_eta"] == pytest.approx(0.1 * 24)
    steps, losses = planned(SPEC), RunFolder(tmp_path).step_losses()
    assert steps.batch_size.tolist() == [*[32] * 10, 160, 160] * 2
    assert len(losses) == 24
    for row in found:
        here = steps.epoch == row["epoch"]
        assert row["train/loss"] == pytest.approx(float(losses[here] @ steps.batch_size[here]) / 320, rel=1e-5)
        line = np.polynomial.Polynomial.fit(np.arange(here.sum()), losses[here], 1)
        left = losses[here] - line(np.arange(here.sum()))
        wanted = left @ left / (here.sum() - 2) if here.sum() > 3 else None
        assert row["train/step_variance"] == (None if wanted is None else pytest.approx(wanted, rel=1e-4))
        assert {"val/accuracy", "test/accuracy", "train_subset/loss"} <= row.keys()


def test_a_run_stops_at_the_first_evaluation_below_its_loss(job, tmp_path):
    whole, stopped = replace(SPEC, epochs=12), replace(SPEC, epochs=12, stop_at_loss=1.5)
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    train(whole, job, tmp_path / "whole")
    result = train(stopped, job, tmp_path / "stopped")
    losses = [row["train_subset/loss"] for row in rows(tmp_path / "whole")]
    first = next(i for i, loss in enumerate(losses) if loss <= 1.5)
    assert 0 < first < 11, "the test needs a level that is crossed on the way"
    assert [row["train_subset/loss"] for row in rows(tmp_path / "stopped")] == losses[: first + 1]
    assert result["final"]["epoch"] == first + 1


def test_evaluations_come_when_the_spec_says(job, tmp_path):
    train(replace(SPEC, evaluate_every=2), job, tmp_path)
    assert ["test/accuracy" in row for row in rows(tmp_path)] == [False, True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {
            "network": VGG11Network(width=1 / 32, dropout=0.3),
            "data": replace(DATA, name="digits", augment=True),
            "schedule": NoiseSchedule(0.05, Triangle(high=64, low=16, period=2)),
        },
    ],
    ids=["plain", "dropout and augmentation"],
)
def test_a_run_is_a_function_of_its_spec(change, tmp_path):
    spec = replace(SPEC, **change)
    job = Job(prepare(spec.data.name))
    for name in "ab":
        (tmp_path / name).mkdir()
        train(spec, job, tmp_path / name)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    (tmp_path / "c").mkdir()
    train(replace(spec, seed=1), job, tmp_path / "c")
    assert rows(tmp_path / "c") != rows(tmp_path / "a")


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_run_that_diverges_is_a_result_with_that_status(lr, job, tmp_path):
    result = train(replace(SPEC, schedule=NoiseSchedule(lr, 32)), job, tmp_path)
    assert result["status"] == "diverged"
    json.dumps(result, allow_nan=False)


def test_a_run_that_diverges_before_it_is_evaluated_is_one_too(job, tmp_path):
    keep = Keep(end=True, loss_levels=(0.3, 0.1))
    spec = replace(SPEC, schedule=NoiseSchedule(1e30, 32), keep=keep, evaluate_every=SPEC.epochs)
    assert train(spec, job, tmp_path)["status"] == "diverged"


def test_a_run_that_starts_one_rounding_away_has_the_key_and_other_bits(job, tmp_path, monkeypatch):
    plain = initial_module(SPEC)
    monkeypatch.setenv(ROUNDED, "1")
    rounded, alone = initial_module(SPEC), initial_network(SPEC)
    for one, other, stacked in zip(plain.parameters(), rounded.parameters(), alone.parameters()):
        torch.testing.assert_close(one, other, rtol=2e-7, atol=0)
        assert torch.equal(other, stacked)
        assert not torch.equal(one, other) or not one.any()  # 0 has no neighbour of its size
    assert "initial weights" in provenance.bits("-")  # a half-done run goes on with its own kind


def test_weights_do_not_depend_on_the_stream_of_the_data(job, tmp_path):
    first = train(replace(SPEC, schedule=NoiseSchedule(1e-9, 320), epochs=1), job, tmp_path)
    other = train(replace(SPEC, schedule=NoiseSchedule(1e-9, 320), epochs=1, sampling="replacement"), job, tmp_path)
    assert first["final"]["val/loss"] == pytest.approx(other["final"]["val/loss"], abs=1e-5)


SMALL = Curvature(examples=64, batch_size=32, measures=("top_eigenvalue", "trace"), trace_tol=0.5)


def finished(spec, job, out):
    """The folder of a run that is done, and its result."""
    folder = RunFolder(out / spec.key)
    folder.path.mkdir()
    result = train(spec, job, folder.path)
    write_json(folder.path / "result.json", {"key": spec.key} | result)
    return folder, result


def test_a_measurement_whose_weights_are_gone_fails(job, tmp_path):
    folder, _ = finished(replace(SPEC, keep=Keep()), job, tmp_path)
    folder.weights("end").unlink()
    with pytest.raises(LostWeights, match=r"end\.pt is not there"):
        measure(SPEC, Measurement(SMALL), job, folder)


def test_a_damaged_result_is_cleared_for_the_next_attempt(job, tmp_path):
    folder, _ = finished(SPEC, job, tmp_path)
    (folder.path / "result.json").write_text("{")
    for name in (".metrics.jsonl.123", ".result.json.7", ".training.ckpt.draft", "measured-0.json", "wandb.json"):
        (folder.path / name).write_text("{}")
    folder.prepare(SPEC, job)
    assert folder.result() is None
    assert {file.name for file in folder.path.rglob("*")} <= {"spec.json", "measurements.json", "job.json", "weights"}
    assert not (folder.path / "metrics.jsonl").exists()


def test_weights_are_kept_at_milestones_and_measured_afterwards(job, tmp_path):
    keep = Keep(initial=True, best=True, loss_levels=(2.0, 1e-6))
    spec = replace(SPEC, keep=keep)
    folder, result = finished(spec, job, tmp_path)
    assert set(result["milestones"]) == {"initial", "best", "end", "loss 2"}  # 1e-6 was not reached
    found = rows(folder.path)
    best = result["milestones"]["best"]
    assert best["val/accuracy"] == max(row["val/accuracy"] for row in found)
    crossed = result["milestones"]["loss 2"]
    first = next(row for row in found if row["train_subset/loss"] <= 2)
    assert (crossed["epoch"], crossed["train_subset/loss"]) == (first["epoch"], first["train_subset/loss"])
    measured = measure(spec, Measurement(SMALL, ("initial", "end", "loss 1e-06")), job, folder)
    assert set(measured) == {"initial", "end"}
    assert measured["end"]["hessian/weight_norm"] > 0
    assert measured["end"]["hessian/trace"] != measured["initial"]["hessian/trace"]


def test_curvature_is_measured_while_it_trains_and_changes_no_weight(job, tmp_path):
    watched = replace(SPEC, watch=Watch(SMALL, every=2), keep=Keep())
    folders = [finished(spec, job, tmp_path)[0] for spec in (watched, replace(watched, watch=None))]
    a, b = (rows(folder.path) for folder in folders)
    assert ["hessian/trace" in row for row in a] == [False, True, False, True]
    assert [row["train/step_variance"] for row in a] == [row["train/step_variance"] for row in b]
    ends = [torch.load(folder.weights("end"), weights_only=True) for folder in folders]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    assert a[-1]["hessian/top_eigenvalue"] == pytest.approx(
        measure(watched, Measurement(SMALL), job, folders[0])["end"]["hessian/top_eigenvalue"], rel=1e-5
    )
