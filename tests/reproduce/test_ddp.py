"""One rank and several follow the same trajectory: the same examples at every step, the same losses in float64."""

import json
from dataclasses import replace

import pytest

from datamodules.schedules import Cyclic, NoiseSchedule, Triangle
from datamodules.sources import prepare
from reproduce.engine.results import RunFolder, job_data
from reproduce.engine.runner import Runner, Server, Task
from reproduce.engine.spec import Data, GaussianNoise, HalfBatchNoise, RunSpec, VGG11Network

SPEC = RunSpec(
    VGG11Network(width=1 / 32),
    Data("digits", "-", train=240, validation=51, test=101, augment=True),
    NoiseSchedule(0.02, Cyclic(high=81, low=21, period=2, phase=0.5)),
    epochs=2,
    seed=0,
    precision="float64",
    momentum=0.5,
)


class Silent:
    def started(self, *_): ...
    def polled(self, *_): ...
    def finished(self, *_): ...
    def failed(self, *_): ...


def rows(spec, devices, out):
    """metrics.jsonl of the spec trained on `devices` ranks."""
    folder = RunFolder(out / str(devices) / spec.key)
    job = job_data(prepare("digits"), "cpu", devices, threads=1)
    task = Task("run", folder, lambda: folder.prepare(spec, job))
    failed = Runner(Server(), jobs=1, devices=devices).run([task], Silent())
    assert not failed, folder.log.read_text()
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.ddp
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"schedule": NoiseSchedule(0.02, Triangle(high=61, low=23, period=2))},
        {"schedule": NoiseSchedule(0.02, 26), "noise": HalfBatchNoise(3**0.5)},
        {"schedule": NoiseSchedule(0.02, 26), "noise": GaussianNoise(3**0.5, "covariance")},
        {"schedule": NoiseSchedule(0.02, 26), "noise": GaussianNoise(3**0.5, "isotropic")},
    ],
    ids=["cyclic", "triangle", "half batches", "Gaussian of C's shape", "isotropic"],
)
def test_two_ranks_follow_the_same_trajectory_as_one(change, tmp_path):
    spec = replace(SPEC, **change)
    one, two = rows(spec, 1, tmp_path), rows(spec, 2, tmp_path)
    assert len(one) == len(two) == 2
    for a, b in zip(one, two):
        assert a["steps"]["batch_size"] == b["steps"]["batch_size"]
        assert a["steps"]["loss"] == pytest.approx(b["steps"]["loss"], abs=1e-9)
        for metric in (
            "train/loss",
            "train/accuracy",
            "val/loss",
            "val/accuracy",
            "test/loss",
            "test/accuracy",
        ):
            assert a[metric] == pytest.approx(b[metric], abs=1e-6), metric  # callback_metrics are float32
