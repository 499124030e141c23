"""One run: what it records, that it is a function of its spec, and what happens when it diverges."""

import json
from dataclasses import replace

import pytest

from datamodules.schedules import Cyclic, NoiseSchedule, Triangle
from datamodules.sources import prepare
from reproduce.engine.spec import Data, MLPNetwork, RunSpec, VGG11Network
from reproduce.engine.train import Job, train

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


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_step_and_epoch_is_recorded(job, tmp_path):
    result = train(SPEC, job, tmp_path)
    assert result["status"] == "ok"
    found = rows(tmp_path)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert [row["step"] for row in found] == [10, 12, 22, 24]
    assert [row["steps"]["batch_size"] for row in found[:2]] == [[32] * 10, [160] * 2]
    assert [len(row["steps"]["loss"]) for row in found] == [10, 2, 10, 2]
    assert found[-1]["t_eta"] == pytest.approx(0.1 * 24)
    for row in found:
        assert row["train/loss"] == pytest.approx(
            sum(loss * size for loss, size in zip(row["steps"]["loss"], row["steps"]["batch_size"])) / 320,
            rel=1e-5,
        )
        assert {"val/accuracy", "test/accuracy", "train_subset/loss"} <= row.keys()


def test_evaluations_come_when_the_spec_says(job, tmp_path):
    train(replace(SPEC, evaluate_every=2), job, tmp_path)
    assert ["test/accuracy" in row for row in rows(tmp_path)] == [False, True, False, True]


@pytest.mark.parametrize("change", [{}, {"network": VGG11Network(width=1 / 32, dropout=0.3), "data": replace(
    DATA, name="digits", augment=True), "schedule": NoiseSchedule(0.05, Triangle(high=64, low=16, period=2))}],
    ids=["plain", "dropout and augmentation"])  # fmt: skip
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


def test_weights_do_not_depend_on_the_stream_of_the_data(job, tmp_path):
    first = train(replace(SPEC, schedule=NoiseSchedule(1e-9, 320), epochs=1), job, tmp_path)
    other = train(replace(SPEC, schedule=NoiseSchedule(1e-9, 320), epochs=1, sampling="replacement"), job, tmp_path)
    assert first["final"]["val/loss"] == pytest.approx(other["final"]["val/loss"], abs=1e-5)
