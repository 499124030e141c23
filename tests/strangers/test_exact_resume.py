"""A stranger's training that was killed and goes on from ExactResume's checkpoint ends as it would have."""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision

from tests.ranks import as_torchrun, on_ranks
from tests.strangers.tiny import Net, dataset, planned, trainer
from three_factors.callbacks import ExactResume
from three_factors.datamodules import resumed_at

EPOCHS, BATCHES = 3, 6


class Killed(Exception):
    pass


class Kill(pl.Callback):
    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, run, module, batch, batch_idx):
        if run.fit_loop.total_batch_idx == self.at:
            raise Killed


class Notes(pl.Callback):
    """Notes what was logged, and the learning rate, when an epoch begins; checkpoints have its notes."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, run, module):
        logged = {name: float(value) for name, value in run.callback_metrics.items()}
        self.epochs.append(logged | {"lr": run.optimizers[0].param_groups[0]["lr"]})

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict):
        self.epochs = state_dict["epochs"]


class Planned(Net):
    def train_dataloader(self):
        return planned(8, epoch=self.trainer.current_epoch, start=resumed_at(self.trainer))


def fit(make, path, *callbacks, at=None, **options):
    """Returns what a training in at most two parts ends with, and the batches at which the first part saved."""
    saved, notes = [], Notes()

    class Saving(ExactResume):
        def save(self, run):
            super().save(run)
            saved.append(run.fit_loop.total_batch_idx + 1)

    torch.manual_seed(0)
    exact, module = Saving(path, every=0), make()
    options = {"max_epochs": EPOCHS, "reload_dataloaders_every_n_epochs": 1} | options
    run = trainer(exact, notes, *([] if at is None else [Kill(at)]), *(one() for one in callbacks), **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not resumable.*")
        run.fit(module, **exact.where())
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    return {**module.state_dict()}, notes.epochs, logged, run.global_step, saved


def assert_exact(make, path, *callbacks, at, **options):
    whole = fit(make, path / "whole.ckpt", *callbacks, **options)
    with pytest.raises(Killed):
        fit(make, path / "killed.ckpt", *callbacks, at=at, **options)
    again = fit(make, path / "killed.ckpt", *callbacks, **options)
    assert again[0].keys() == whole[0].keys()
    assert all(torch.equal(again[0][name], value) for name, value in whole[0].items())
    assert again[1:4] == whole[1:4]
    return whole


@pytest.mark.parametrize("at", [7, 8, 9, 10])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_within_the_batches_that_a_step_adds_up_nothing_is_saved(accumulate, at, tmp_path):
    *_, saved = assert_exact(Planned, tmp_path, at=at, accumulate_grad_batches=accumulate)
    ends = {epoch * BATCHES + batch for epoch in range(EPOCHS) for batch in range(accumulate, BATCHES, accumulate)}
    assert set(saved) == ends | {epoch * BATCHES for epoch in range(1, EPOCHS)}


def test_an_epoch_goes_on_with_as_many_batches_a_step_as_it_was_begun_with(tmp_path):
    assert_exact(Planned, tmp_path, lambda: GradientAccumulationScheduler({0: 1, 1: 2}), at=9)


class ByHand(Planned):
    """Steps by hand over `every` batches, across the ends of epochs."""

    every = 4

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.done = 0

    def backward_of(self, loss):
        self.manual_backward(loss)

    def training_step(self, batch, batch_idx):
        self.backward_of(super().training_step(batch, batch_idx))
        self.done += 1
        if self.done % self.every == 0:
            self.optimizers().step()
            self.optimizers().zero_grad()


@pytest.mark.parametrize("at", [9, 10, 11, 13])
def test_by_hand_nothing_is_saved_while_a_gradient_waits_for_a_step(at, tmp_path):
    assert assert_exact(ByHand, tmp_path, at=at)[-1] == [4, 8, 12, 16]


class Unseen(ByHand):
    """Does it so that Lightning does not hear of it, and counts by the batch."""

    def backward_of(self, loss):
        loss.backward()

    def training_step(self, batch, batch_idx):
        self.done = batch_idx
        super().training_step(batch, batch_idx)


class TwoCadences(ByHand):
    """The second optimiser steps at every batch, behind a gradient that waits for the first one's."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.first.parameters(), 1.0), torch.optim.SGD(self.last.parameters(), 0.5)

    def training_step(self, batch, batch_idx):
        first, last = self.optimizers()
        self.manual_backward(Net.training_step(self, batch, batch_idx))
        last.step()
        last.zero_grad()
        if batch_idx % 3 == 2:
            first.step()
            first.zero_grad()


class OwnZero(Planned):
    """Adds gradients up by itself under automatic optimisation."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer_closure()
        if batch_idx % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass


@pytest.mark.parametrize("at", [7, 8, 9])
@pytest.mark.parametrize("make", [Unseen, TwoCadences, OwnZero])
def test_gradients_that_a_step_to_come_will_find_are_in_the_checkpoint(make, at, tmp_path):
    assert at in assert_exact(make, tmp_path, at=at)[-1]


class NeverSteps(ByHand):
    every = math.inf


def test_a_training_whose_gradients_always_wait_is_told_that_nothing_is_saved(tmp_path):
    with pytest.warns(UserWarning, match=r"^ExactResume: gradients wait for a step whenever .* nothing is saved"):
        fit(NeverSteps, tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


class Logs(Planned):
    """Logs in every way that counts over an epoch, and steps by what was logged."""

    def __init__(self):
        super().__init__()
        self.seen = MeanMetric()
        self.scores = MetricCollection([MulticlassAccuracy(3), MulticlassPrecision(3)])

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=False, on_epoch=True)
        self.log("both", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx=max)
        self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        if batch_idx % 4 == 0:
            self.log("now and then", loss, on_step=True)
        self.seen(loss)
        self.log("metric", self.seen, on_step=False, on_epoch=True)
        self.scores.update(self(batch[0]), batch[1])
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("behind", outputs["loss"], on_step=False, on_epoch=True)

    def on_train_epoch_end(self):
        self.log_dict(self.scores.compute())
        self.scores.reset()

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "loss"}}


@pytest.mark.parametrize("at", [1, 10, 11])
def test_what_is_logged_over_an_epoch_is_that_of_the_whole_epoch(at, tmp_path):
    _, epochs, logged, *_ = assert_exact(Logs, tmp_path, at=at)
    assert len({epoch["lr"] for epoch in epochs}) > 1  # the plateau has stepped
    assert {"loss", "both_epoch", "largest", "sum", "metric", "behind", "MulticlassAccuracy"} <= logged.keys()


class Averages(Planned):
    """Keeps an average of its weights in a hook of its own, which comes behind those of all callbacks."""

    def __init__(self):
        super().__init__()
        self.average = torch.nn.Buffer(torch.zeros(4))

    def on_train_batch_end(self, *batch):
        self.average.lerp_(self.first.bias.detach(), 0.1)


def test_the_modules_own_hook_at_a_batchs_end_is_in_the_checkpoint(tmp_path):
    assert_exact(Averages, tmp_path, at=9)


class Forgets(Net):
    def train_dataloader(self):
        return planned(8, epoch=self.trainer.current_epoch)


def test_a_loader_that_begins_anew_in_a_resumed_epoch_is_refused(tmp_path):
    with pytest.raises(Killed):
        fit(Forgets, tmp_path / "a.ckpt", at=9)
    with pytest.raises(
        ValueError, match=r"^start: the training goes on at batch 3, the loader began at 0; .*resumed_at"
    ):
        fit(Forgets, tmp_path / "a.ckpt")


class Blocks:
    """A stranger's batch sampler, whose `start` is no batch."""

    def __init__(self, start):
        self.start = start

    def __len__(self):
        return BATCHES

    def __iter__(self):
        return iter(torch.arange(self.start, self.start + 48).view(BATCHES, 8).tolist())


class WithBlocks(Net):
    def train_dataloader(self):
        return DataLoader(dataset(), batch_sampler=Blocks(0))


def test_a_strangers_loader_with_a_start_of_its_own_is_saved_between_epochs_alone(tmp_path):
    assert assert_exact(WithBlocks, tmp_path, at=9)[-1] == [6, 12]


class OnRanks(OwnZero):
    """Adds gradients of its own rank up, and means and a metric of both."""

    def __init__(self):
        super().__init__()
        self.seen = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("both ranks'", loss, on_step=False, on_epoch=True, sync_dist=True)
        self.log("own", loss, on_step=False, on_epoch=True, reduce_fx="max", rank_zero_only=True)
        self.seen(loss)
        self.log("metric", self.seen, on_step=False, on_epoch=True)
        return loss

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        with self.trainer.model.no_sync():
            optimizer_closure()
        if batch_idx % 3 == 2:
            for p in self.parameters():
                torch.distributed.all_reduce(p.grad)
            optimizer.step()
            optimizer.zero_grad()


def rank_goes_on(rank, ranks, folder, at):
    as_torchrun(rank, ranks)
    options = {"strategy": "ddp", "devices": ranks, "use_distributed_sampler": False}
    whole = fit(OnRanks, folder / "whole.ckpt", **options)
    with pytest.raises(Killed):
        fit(OnRanks, folder / "killed.ckpt", at=at, **options)
    return whole, fit(OnRanks, folder / "killed.ckpt", **options)


@pytest.mark.ddp
def test_every_rank_goes_on_with_what_it_has_added_up(tmp_path):
    for whole, again in on_ranks(2, rank_goes_on, tmp_path, 8):
        assert 8 in whole[4]
        assert all(torch.equal(again[0][name], value) for name, value in whole[0].items())
        assert (again[1][-1], *again[2:4]) == (whole[1][-1], *whole[2:4])  # what was noted before is rank 0's
