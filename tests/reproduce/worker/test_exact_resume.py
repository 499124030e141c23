"""A run that is broken off in this process, and started again, ends as one that was not, to the bit."""

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.reproduce.killing import job
from tests.reproduce.leavings import assert_equal, left, repeated
from tests.reproduce.specs import EVERYTHING, MLP, SMALL
from three_factors.callbacks import ExactResume
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.folders import PathFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import Curvature, Watch
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise, Renewal
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Evaluations, Keep, PathSpec
from three_factors.reproduce.engine.worker import train as training

SPECS = {
    "cyclic": MLP,
    "everything": EVERYTHING,
    "replacement": replace(MLP, sampling="replacement", schedule=NoiseSchedule(0.05, 24), evaluate_every=3),
    "half batches": replace(MLP, noise=HalfBatchNoise(3**0.5), schedule=NoiseSchedule(0.05, 24)),
    "Gaussian noise": replace(MLP, noise=GaussianNoise(1.0, "isotropic"), schedule=NoiseSchedule(0.05, 24)),
    "projected noise": replace(
        MLP,
        noise=HalfBatchNoise(3**0.5, "rest", Renewal(24, 24, until=1, every=2, eigenvectors=3)),
        schedule=NoiseSchedule(0.05, 24),
    ),
    "noise of equal curvature": replace(
        MLP,
        noise=GaussianNoise(1.0, "isotropic", equal="curvature", renewal=Renewal(48, 24, until=1, every=2)),
        momentum=0.0,
        schedule=NoiseSchedule(0.02, 24),
    ),
    "ghost batches": replace(MLP, network=replace(MLP.network, batch_norm=True, ghost_batch_size=8)),
    "stopped": replace(MLP, epochs=9, stop_at_loss=1.5),
    "watched now and then": replace(MLP, watch=Watch(SMALL, every=2)),
    "watched in train mode": replace(
        MLP,
        network=replace(MLP.network, batch_norm=True),
        schedule=NoiseSchedule(0.05, 24),
        watch=Watch(Curvature(72, 24, measures=("batch_sharpness",), training=True)),
        evaluations=Evaluations(early=5, until=1, last=3),
        loss="square",
    ),
}


class Killed(Exception):
    pass


def train(spec, folder):
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    return training.train(spec, Job(prepare(spec.data.name), checkpoint_every=0), run)


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


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*not resumable.*")
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
            accelerator="cpu",
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[resume],
        )
        trainer.fit(module, **resume.where())
        return module

    whole = fit(tmp_path / "whole.ckpt", None)
    with pytest.raises(Killed):
        fit(tmp_path / "broken.ckpt", break_at)
    again = fit(tmp_path / "broken.ckpt", None)
    assert again.seen == whole.seen[(break_at - 1) // 5 * 5 :]
    assert torch.equal(again.layer.weight, whole.layer.weight)


def test_points_of_a_line_of_another_environment_are_told_and_not_used(tmp_path):
    path = PathSpec(replace(MLP, keep=Keep()), replace(MLP, seed=1, keep=Keep()))
    line, said = PathFolder(tmp_path / path.key), []
    line.prepare(path, job("digits28"))
    line.points("train").write_text("{}\n[0.0, 1.0, 1.0, 0.5]\n")
    line.prepare(path, job("digits28"), say=said.append)
    assert line.points("train").exists()
    assert not said
    line.prepare(path, replace(job("digits28"), threads=2), say=said.append)
    assert not line.points("train").exists()
    assert "threads 1 then, 2 now" in said[0]


def test_a_checkpoint_of_another_environment_is_told_and_not_used(tmp_path):
    folder, said = RunFolder(tmp_path), []
    data = job("digits28", made={"libraries": "torch 2.14"})
    folder.prepare(MLP, data)
    folder.checkpoint.write_bytes(b"-")
    (folder.path / "metrics.jsonl").write_text("{}\n")
    folder.prepare(MLP, data, say=said.append)
    assert folder.checkpoint.exists()
    assert not said
    folder.prepare(MLP, replace(data, threads=2), say=said.append)
    assert not folder.checkpoint.exists()
    assert not (folder.path / "metrics.jsonl").exists()
    (line,) = said
    assert "threads 1 then, 2 now" in line
