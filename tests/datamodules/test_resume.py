"""A training resumed from a checkpoint sees the examples, S and eta that an uninterrupted one sees."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from three_factors.callbacks import NoiseScheduler
from three_factors.datamodules import Cyclic, DigitsDataModule, NoiseSchedule, PlannedBatchSampler, Triangle, resumed_at
from three_factors.lightning_modules import MLP


class Trace(pl.Callback):
    """(step, epoch, S, eta, labels) of every step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.steps.append((trainer.global_step, trainer.current_epoch, len(batch[1]), lr, tuple(batch[1].tolist())))


class OwnLoader(pl.LightningDataModule):
    """A user's own data set and DataLoader."""

    def __init__(self, schedule):
        super().__init__()
        data = DigitsDataModule(gray=True, train=240)
        data.setup()
        self.dataset, self.schedule = TensorDataset(*data.splits["train"]), schedule

    def train_dataloader(self):
        sampler = PlannedBatchSampler(
            240, self.schedule.batch_size, epoch=self.trainer.current_epoch, start=resumed_at(self.trainer)
        )
        return DataLoader(self.dataset, batch_sampler=sampler)


def fit(folder, schedule, make, *, resume=None, every=None):
    torch.manual_seed(0)
    module, trace, noise = MLP(hidden=(8,), momentum=0.9), Trace(), NoiseScheduler(schedule)
    callbacks = [noise, trace]
    if every:
        callbacks.append(
            pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
        )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=4,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=bool(every),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=make(schedule), ckpt_path=resume)
    return trace.steps, torch.cat([p.detach().flatten() for p in module.parameters()]), noise.t_eta


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda s: DigitsDataModule(gray=True, train=240), OwnLoader], ids=["ours", "own"])
@pytest.mark.parametrize(
    "schedule",
    [NoiseSchedule(0.05, Cyclic(high=80, low=24, period=2)), NoiseSchedule(0.05, Triangle(high=60, low=12, period=2))],
    ids=["cyclic", "triangle"],
)
def test_a_training_resumed_in_mid_epoch_is_the_uninterrupted_one(schedule, make, tmp_path):
    whole, weights, t_eta = fit(tmp_path, schedule, make, every=1)
    epoch_ends = {
        step for step, epoch, *_ in whole if step == len(whole) or whole[step][1] != epoch
    }  # see `resumed_at`
    for checkpoint in sorted(tmp_path.glob("*.ckpt"), key=lambda p: p.stat().st_mtime)[1:-1:4]:
        step = int(checkpoint.stem.split("=")[1])
        if step in epoch_ends:
            continue
        rest, again, total = fit(tmp_path, schedule, make, resume=checkpoint)
        assert rest == whole[step:], step
        assert torch.equal(again, weights)
        assert total == pytest.approx(t_eta, rel=1e-12)
