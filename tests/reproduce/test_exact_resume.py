"""A run that is killed at any moment and started again ends as one that was not, to the bit."""

import os
import pkgutil
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from callbacks import ExactResume
from datamodules.label_noise import LabelNoise
from datamodules.schedules import Cyclic, NoiseSchedule, Triangle
from datamodules.sources import prepare
from reproduce.engine import interrupts
from reproduce.engine import train as training
from reproduce.engine.results import RunFolder, job_data
from reproduce.engine.runner import Server
from reproduce.engine.spec import (
    Curvature,
    Data,
    GaussianNoise,
    HalfBatchNoise,
    Keep,
    Measurement,
    MLPNetwork,
    RunSpec,
    VGG11Network,
    Watch,
)
from tests.reproduce.leavings import assert_equal, assert_same, left
from tests.reproduce.script import ROOT, until
from tests.reproduce.soak import Soak

SMALL = Curvature(examples=32, batch_size=32, measures=("top_eigenvalue",))
MLP = RunSpec(
    MLPNetwork(hidden=(16,), in_features=784), Data("digits28", "-", train=240, validation=50, test=100, subset=100),
    NoiseSchedule(0.1, Cyclic(high=80, low=24, period=2)), epochs=3, seed=0, momentum=0.9,
    keep=Keep(initial=True, best=True, loss_levels=(2.0,)),
)  # fmt: skip
EVERYTHING = replace(
    MLP, network=VGG11Network(width=1 / 32, dropout=0.3), schedule=NoiseSchedule(0.05, Triangle(64, 16, 2)),
    data=replace(MLP.data, name="digits", augment=True, label_noise=LabelNoise(0.25)), watch=Watch(SMALL),
)  # fmt: skip
SPECS = {
    "cyclic": MLP,
    "everything": EVERYTHING,
    "replacement": replace(MLP, sampling="replacement", schedule=NoiseSchedule(0.05, 24), evaluate_every=3),
    "half batches": replace(MLP, noise=HalfBatchNoise(3**0.5), schedule=NoiseSchedule(0.05, 24)),
    "Gaussian noise": replace(MLP, noise=GaussianNoise(1.0, "isotropic"), schedule=NoiseSchedule(0.05, 24)),
    "ghost batches": replace(MLP, network=replace(MLP.network, batch_norm=True, ghost_batch_size=8)),
    "stopped": replace(MLP, epochs=9, stop_at_loss=1.5),
}


class Killed(Exception):
    pass


def job(spec, **options):
    return training.Job(prepare(spec.data.name), checkpoint_every=0, **options)


def train(spec, folder):
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    return training.train(spec, job(spec), run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """name -> the folder of the uninterrupted run, its result and the number of its checkpoints."""
    made = {}

    def of(name):
        if name not in made:
            folder, count = tmp_path_factory.mktemp("whole"), [0]
            save = ExactResume.save

            def counting(self, trainer):
                save(self, trainer)
                count[0] += 1

            ExactResume.save = counting
            try:
                made[name] = folder, train(SPECS[name], folder), count[0]
            finally:
                ExactResume.save = save
        return made[name]

    return of


def broken_off(spec, folder, monkeypatch, after, moment):
    """Trains until a moment of the `after`-th checkpoint."""
    save, count = ExactResume.save, [0]

    def saving(self, trainer):
        count[0] += 1
        if count[0] == after and moment == "in it":  # the draft is written, the old one stands
            with monkeypatch.context() as patch:
                patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(Killed))
                save(self, trainer)
        save(self, trainer)
        if count[0] == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ExactResume, "save", saving)
        with pytest.raises(Killed):
            train(spec, folder)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["after it", "in it"])
@pytest.mark.parametrize("name", SPECS)
def test_a_run_resumed_from_any_checkpoint_is_the_uninterrupted_one(name, moment, whole, tmp_path, monkeypatch):
    folder, result, checkpoints = whole(name)
    expected = left(folder)
    for after in sorted({1, 2, checkpoints // 2, checkpoints}) if moment == "after it" else [2]:
        again = tmp_path / str(after)
        broken_off(SPECS[name], again, monkeypatch, after, moment)
        found = train(SPECS[name], again)
        assert_equal(left(again), expected)
        assert found["status"] == result["status"]
        assert found["final"].keys() == result["final"].keys()


MOMENTS = {
    "in a training step": ("lightning_modules.classifier.SGDClassifier.training_step", 8),
    "in an epoch's last step": ("lightning_modules.classifier.SGDClassifier.training_step", None),
    "in the validation": ("lightning_modules.classifier.SGDClassifier.validation_step", 4),
    "in a measurement": ("callbacks.hessian.HessianMonitor.measure", 2),
    "before a row is written": ("reproduce.engine.recorder.Recorder._write", 2),
    "after the last row": ("reproduce.engine.recorder.Recorder.on_train_end", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_broken_off_at_any_moment_is_the_uninterrupted_one(moment, whole, tmp_path, monkeypatch):
    folder, _, _ = whole("everything")
    name, number = MOMENTS[moment]
    if number is None:  # the first epoch's
        number = len(left(folder)[0][0]["steps"]["loss"])
    place, _, attribute = name.rpartition(".")
    owner = pkgutil.resolve_name(place)
    usual, calls = getattr(owner, attribute), [0]

    def breaking(*arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            raise Killed
        return usual(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, breaking)
        with pytest.raises(Killed):
            train(SPECS["everything"], tmp_path)
    train(SPECS["everything"], tmp_path)
    assert_equal(left(tmp_path), left(folder))


def test_a_run_resumes_at_every_epochs_end_and_in_every_epoch(whole, tmp_path, monkeypatch):
    folder, _, checkpoints = whole("cyclic")
    for after in range(1, checkpoints + 1):
        again = tmp_path / str(after)
        broken_off(SPECS["cyclic"], again, monkeypatch, after, "after it")
        train(SPECS["cyclic"], again)
        assert_equal(left(again), left(folder))


# -- kill -9, through the fork server


SOAK = replace(EVERYTHING, epochs=10, keep=Keep(best=True))
MEASURED = Measurement(SMALL, at=("best", "end"))


@pytest.fixture(scope="module")
def server():
    return Server()


def once(server, folder, data, devices=1):
    """Starts a run, or goes on with it."""
    folder.prepare(SOAK, data, (MEASURED,))
    return server.start("serve_run", str(folder.path), None)


def complete(folder):
    return folder.complete((MEASURED,)) is not None


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(server, tmp_path, request):
    data = job_data(prepare("digits"), "cpu", 1, threads=1)
    soak = Soak(server, SOAK, (MEASURED,), data, tmp_path)
    assert soak.kill(request.config.getoption("--kills")) >= 1


@pytest.mark.slow
@pytest.mark.ddp
def test_a_run_on_two_ranks_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path, request):
    kills = max(5, request.config.getoption("--kills") // 4)
    data = job_data(prepare("digits"), "cpu", 2, threads=1) | {"checkpoint_every": 0.0}
    whole, soaked = RunFolder(tmp_path / "whole" / SOAK.key), RunFolder(tmp_path / "soaked" / SOAK.key)

    def started(folder):
        folder.prepare(SOAK, data, (MEASURED,))
        command = [sys.executable, "-m", "reproduce.engine.worker", str(folder.path)]
        with folder.log.open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    assert started(whole).wait() == 0, whole.log.read_text()
    moments = random.Random(1)
    for kill in range(kills):
        process, steps = started(soaked), moments.randint(0, 12)
        before = soaked.checkpoint.stat().st_mtime_ns if soaked.checkpoint.exists() else 0
        for _ in range(steps):  # so many checkpoints later, and a moment
            while process.poll() is None and (
                not soaked.checkpoint.exists() or soaked.checkpoint.stat().st_mtime_ns == before
            ):
                time.sleep(0.002)
            before = soaked.checkpoint.stat().st_mtime_ns if soaked.checkpoint.exists() else before
        time.sleep(moments.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if complete(soaked):
            assert_same(soaked.path, whole.path)
            soaked = RunFolder(tmp_path / f"soaked {kill}" / SOAK.key)
    assert started(soaked).wait() == 0, soaked.log.read_text()
    assert_same(soaked.path, whole.path)
    assert soaked.log.read_text().count("goes on from epoch") >= 1


@pytest.mark.slow
def test_a_run_that_is_asked_to_leave_saves_itself_and_goes_on_later(server, tmp_path):
    data = job_data(prepare("digits"), "cpu", 1, threads=1) | {"checkpoint_every": 1000.0}
    whole, asked = RunFolder(tmp_path / "whole" / SOAK.key), RunFolder(tmp_path / "asked" / SOAK.key)
    once(server, whole, data).join()
    process = once(server, asked, data)
    until(lambda: len(asked.rows()) >= 4)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == interrupts.PREEMPTED
    assert asked.checkpoint.is_file()
    assert 4 <= len(asked.rows()) < 10
    process = once(server, asked, data)
    process.join()
    assert process.exitcode == 0
    assert "goes on from epoch" in asked.log.read_text()
    assert not asked.checkpoint.exists()
    assert_same(asked.path, whole.path)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_run_starts_again(server, tmp_path):
    data = job_data(prepare("digits"), "cpu", 1, threads=1) | {"checkpoint_every": 0.0}
    whole, damaged = RunFolder(tmp_path / "whole" / SOAK.key), RunFolder(tmp_path / "damaged" / SOAK.key)
    once(server, whole, data).join()
    process = once(server, damaged, data)
    until(lambda: len(damaged.rows()) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    content = damaged.checkpoint.read_bytes()
    damaged.checkpoint.write_bytes(content[: len(content) // 2])
    once(server, damaged, data).join()
    assert "cannot be read" in damaged.log.read_text()
    assert_same(damaged.path, whole.path)


def test_a_checkpoint_of_another_environment_is_told_and_not_used(tmp_path):
    folder, said = RunFolder(tmp_path), []
    data = job_data(prepare("digits28"), "cpu", 1, threads=1, made={"libraries": "torch 2.14"})
    folder.prepare(MLP, data)
    folder.checkpoint.write_bytes(b"-")
    (folder.path / "metrics.jsonl").write_text("{}\n")
    folder.prepare(MLP, data, say=said.append)
    assert folder.checkpoint.exists()
    assert not said
    folder.prepare(MLP, data | {"threads": 2}, say=said.append)
    assert not folder.checkpoint.exists()
    assert not (folder.path / "metrics.jsonl").exists()
    (line,) = said
    assert "threads 1 then, 2 now" in line
