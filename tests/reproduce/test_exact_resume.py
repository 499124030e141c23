"""A run that is killed at any moment and started again ends as one that was not, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ExactResume
from datamodules.label_noise import LabelNoise
from datamodules.schedules import Cyclic, NoiseSchedule, Triangle
from datamodules.sources import prepare
from reproduce.engine import interrupts
from reproduce.engine import train as training
from reproduce.engine.results import PathFolder, RunFolder, job_data
from reproduce.engine.runner import Server
from reproduce.engine.spec import (
    Curvature,
    Data,
    GaussianNoise,
    HalfBatchNoise,
    Keep,
    Measurement,
    MLPNetwork,
    PathSpec,
    RunSpec,
    VGG11Network,
    Watch,
)
from tests.reproduce.killing import killed, on_ranks
from tests.reproduce.leavings import assert_equal, assert_same, left, repeated
from tests.reproduce.script import ROOT, descendants, until
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
    "watched now and then": replace(MLP, watch=Watch(SMALL, every=2)),
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
        assert repeated(found) == repeated(result)


def test_a_run_resumes_at_every_epochs_end_and_in_every_epoch(whole, tmp_path, monkeypatch):
    folder, _, checkpoints = whole("cyclic")
    for after in range(1, checkpoints + 1):
        again = tmp_path / str(after)
        broken_off(SPECS["cyclic"], again, monkeypatch, after, "after it")
        train(SPECS["cyclic"], again)
        assert_equal(left(again), left(folder))


class Linear(pl.LightningModule):
    """A module of somebody's own, over a plain DataLoader."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = torch.nn.Linear(3, 1), []

    def train_dataloader(self):
        values = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(values), batch_size=8)

    def training_step(self, batch, batch_idx):
        self.seen.append(float(batch[0][0, 0]))
        if len(self.seen) == self.break_at:
            raise Killed
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("break_at", [3, 8, 10])
def test_with_a_loader_that_begins_at_the_first_batch_alone_it_saves_at_the_ends_of_epochs(break_at, tmp_path):
    def fit(path, break_at):
        module, resume = Linear(), ExactResume(path, every=0)
        module.break_at = break_at
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[resume],
        )  # fmt: skip
        trainer.fit(module, **resume.where())
        return module

    whole = fit(tmp_path / "whole.ckpt", None)
    with pytest.raises(Killed):
        fit(tmp_path / "broken.ckpt", break_at)
    again = fit(tmp_path / "broken.ckpt", None)
    assert again.seen == whole.seen[(break_at - 1) // 5 * 5 :]
    assert torch.equal(again.layer.weight, whole.layer.weight)


# -- kill -9, through the fork server


SOAK = replace(EVERYTHING, epochs=10, keep=Keep(best=True))
MEASURED = Measurement(SMALL, at=("best", "end"))


@pytest.fixture(scope="module")
def server():
    return Server()


def once(server, folder, data):
    """Starts SOAK, or goes on with it."""
    folder.prepare(SOAK, data, (MEASURED,))
    return server.start("serve_run", str(folder.path), None)


def complete(folder):
    return folder.complete((MEASURED,)) is not None


STEP = "lightning_modules.classifier.SGDClassifier.training_step"
RESULT = "reproduce.engine.worker.write_json"  # the run's result, then what is measured
MOMENTS = {
    "in a training step": (STEP, 8, "before"),
    "in an epoch's last step": (STEP, None, "before"),
    "after an epoch's last step": (STEP, None, "after"),
    "in the validation": ("lightning_modules.classifier.SGDClassifier.validation_step", 4, "before"),
    "while curvature is watched": ("callbacks.hessian.HessianMonitor.measure", 2, "before"),
    "before a row is written": ("reproduce.engine.recorder.Recorder._write", 2, "before"),
    "after a row is written": ("reproduce.engine.recorder.Recorder._write", 2, "after"),
    "after the last row": ("reproduce.engine.recorder.Recorder.on_train_end", 1, "before"),
    "in a checkpoint's writing": ("callbacks.exact_resume.torch.save", 7, "before"),
    "between a checkpoint's writing and its renaming": ("callbacks.exact_resume.torch.save", 7, "after"),
    "between a file's writing and its renaming": ("pathlib.Path.replace", 19, "before"),
    "after a file's renaming": ("pathlib.Path.replace", 19, "after"),
    "before the result": (RESULT, 1, "before"),
    "between the result and the end of the checkpoint": (RESULT, 1, "after"),
    "in the measurement of the trained": ("reproduce.engine.measure.measure", 1, "before"),
    "before what is measured is written": (RESULT, 2, "before"),
}


@pytest.fixture(scope="module")
def measured(server, tmp_path_factory):
    """The folder of a run of everything that nobody has killed."""
    folder = RunFolder(tmp_path_factory.mktemp("measured") / EVERYTHING.key)
    begin(server, EVERYTHING, folder).join()
    assert complete(folder)
    return folder.path


def begin(server, spec, folder):
    folder.prepare(spec, one_device("digits"), (MEASURED,))
    return server.start("serve_run", str(folder.path), None)


def one_device(name, every=0.0):
    return job_data(prepare(name), "cpu", 1, threads=1) | {"checkpoint_every": every}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_as_the_uninterrupted_one(moment, server, measured, tmp_path):
    name, number, when = MOMENTS[moment]
    if number is None:  # the first epoch's
        number = len(left(measured)[0][0]["steps"]["loss"])
    folder = RunFolder(tmp_path / EVERYTHING.key)
    folder.prepare(EVERYTHING, one_device("digits"), (MEASURED,))
    killed(server, folder, name, number, when)
    assert not complete(folder)
    begin(server, EVERYTHING, folder).join()
    assert_same(folder.path, measured)
    assert not folder.checkpoint.exists()
    assert not [file for file in folder.path.rglob(".*") if file.is_file()]  # drafts


@pytest.mark.slow
def test_a_line_killed_between_its_points_ends_as_the_uninterrupted_one(server, tmp_path):
    path = PathSpec(
        replace(MLP, keep=Keep()), replace(MLP, seed=1, keep=Keep()), (-0.5, 0.0, 0.5, 1.0, 1.5), 100, 50, 1, (0.2, 0.5)
    )
    for spec in (path.start, path.end):
        folder = RunFolder(tmp_path / "runs" / spec.key)
        folder.prepare(spec, one_device("digits28"))
        server.start("serve_run", str(folder.path), None).join()
    line = PathFolder(tmp_path / "paths" / path.key)
    line.prepare(path, one_device("digits28"))
    killed(server, line, "callbacks.functional.resumed.Resumed.add", 3)
    assert len(line.points("train").read_text().splitlines()) == 3  # with the header
    line.prepare(path, one_device("digits28"))
    server.start("serve_run", str(line.path), None).join()
    found = line.result()
    (line.path / "result.json").unlink()
    header, *points = line.points("train").read_text().splitlines()
    other = json.loads(header) | {"start": "of a run that was made again"}
    line.points("train").write_text("\n".join([json.dumps(other), *points]) + "\n")
    line.prepare(path, one_device("digits28"))
    server.start("serve_run", str(line.path), None).join()
    assert "not the same: start; they are computed again" in line.log.read_text()
    assert repeated(line.result()) == repeated(found)
    line.path.rename(tmp_path / "paths" / "killed")
    line.prepare(path, one_device("digits28"))
    server.start("serve_run", str(line.path), None).join()
    assert repeated(line.result()) == repeated(found)


@pytest.mark.slow
def test_lost_weights_are_told_and_made_again(server, measured, tmp_path):
    folder = RunFolder(tmp_path / EVERYTHING.key)
    begin(server, EVERYTHING, folder).join()
    folder.weights("end").write_bytes(folder.weights("end").read_bytes()[:1000])
    (folder.path / f"measured-{MEASURED.key}.json").unlink()
    process = begin(server, EVERYTHING, folder)
    process.join()
    assert process.exitcode == 1
    assert "end.pt is damaged" in folder.log.read_text()
    begin(server, EVERYTHING, folder).join()
    assert_same(folder.path, measured)


@pytest.mark.slow
def test_rows_that_are_lost_are_told_and_the_run_starts_again(server, measured, tmp_path):
    folder = RunFolder(tmp_path / EVERYTHING.key)
    folder.prepare(EVERYTHING, one_device("digits"), (MEASURED,))
    killed(server, folder, "reproduce.engine.recorder.Recorder._write", 3)
    rows = (folder.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(rows) == 2
    (folder.path / "metrics.jsonl").write_text(rows[0])
    begin(server, EVERYTHING, folder).join()
    assert "it counts 2 rows of metrics.jsonl, where 1 are" in folder.log.read_text()
    assert_same(folder.path, measured)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(server, tmp_path, request):
    data = job_data(prepare("digits"), "cpu", 1, threads=1)
    soak = Soak(server, SOAK, (MEASURED,), data, tmp_path)
    assert soak.kill(request.config.getoption("--kills")) >= 1


def two_devices(every=0.0):
    return job_data(prepare("digits"), "cpu", 2, threads=1) | {"checkpoint_every": every}


def by_lightning(folder, every=0.0):
    """Starts SOAK on two ranks, or goes on with it, as the figures do."""
    folder.prepare(SOAK, two_devices(every), (MEASURED,))
    command = [sys.executable, "-m", "reproduce.engine.worker", str(folder.path)]
    with folder.log.open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def by_forks(server, folder):
    """The same without the imports of every rank."""
    folder.prepare(SOAK, two_devices(), (MEASURED,))
    return on_ranks(server, folder, 2)


@pytest.fixture(scope="module")
def of_two(server, tmp_path_factory):
    """The folder of an uninterrupted run on two ranks."""
    folder = RunFolder(tmp_path_factory.mktemp("two") / SOAK.key)
    for rank in by_forks(server, folder):
        rank.join()
    assert complete(folder), folder.log.read_text()
    return folder.path


def written(checkpoint):
    """When the checkpoint was last written; 0 if there is none."""
    try:
        return checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.ddp
def test_a_run_on_two_ranks_killed_at_random_moments_ends_as_an_uninterrupted_one(server, of_two, tmp_path, request):
    moments, resumed, ended = random.Random(1), 0, 0
    folder = RunFolder(tmp_path / "0" / SOAK.key)
    for _ in range(max(5, request.config.getoption("--kills") // 4)):
        ranks, before = by_forks(server, folder), written(folder.checkpoint)
        for _ in range(moments.randint(0, 25)):  # so many checkpoints later, and a moment
            while ranks[0].is_alive() and written(folder.checkpoint) == before:
                time.sleep(0.002)
            before = written(folder.checkpoint)
        time.sleep(moments.uniform(0, 0.05))
        for rank in moments.sample(ranks, 2):
            rank.kill()
        for rank in ranks:
            rank.join()
        if complete(folder):
            assert_same(folder.path, of_two)
            resumed += folder.log.read_text().count("goes on from epoch")
            ended += 1
            folder = RunFolder(tmp_path / str(ended) / SOAK.key)
    for rank in by_forks(server, folder):
        rank.join()
    assert_same(folder.path, of_two)
    assert resumed + folder.log.read_text().count("goes on from epoch") >= 1


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_asked_to_leave_save_themselves_and_go_on_after_one_was_killed(server, of_two, tmp_path):
    folder = RunFolder(tmp_path / SOAK.key)
    process = by_lightning(folder, every=1000.0)
    until(lambda: len(folder.rows()) >= 2)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == interrupts.PREEMPTED
    assert folder.checkpoint.is_file()
    process = by_lightning(folder)
    before = written(folder.checkpoint)
    until(lambda: written(folder.checkpoint) != before)
    (other,) = [p for p in descendants(process.pid) if "reproduce.engine.worker" in " ".join(p.cmdline())]
    other.kill()
    assert process.wait(timeout=60) != 0
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert not complete(folder)
    for rank in by_forks(server, folder):  # whoever starts them
        rank.join()
    assert folder.log.read_text().count("goes on from epoch") == 2
    assert_same(folder.path, of_two)


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


def test_points_of_a_line_of_another_environment_are_told_and_not_used(tmp_path):
    path = PathSpec(replace(MLP, keep=Keep()), replace(MLP, seed=1, keep=Keep()))
    line, said = PathFolder(tmp_path / path.key), []
    line.prepare(path, one_device("digits28"))
    line.points("train").write_text("{}\n[0.0, 1.0, 1.0, 0.5]\n")
    line.prepare(path, one_device("digits28"), say=said.append)
    assert line.points("train").exists()
    assert not said
    line.prepare(path, one_device("digits28") | {"threads": 2}, say=said.append)
    assert not line.points("train").exists()
    assert "threads 1 then, 2 now" in said[0]


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
