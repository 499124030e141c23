"""Strangers' projects in a few lines: modules that step in their own ways, and what their optimisers really did."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from three_factors.datamodules import PlannedBatchSampler
from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.vision import ImageDataModule


def dataset(examples=48, seed=0):
    """(inputs, targets, index) triples, so that a step can tell which examples it saw."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 4, generator=generator)
    targets = torch.randint(0, 3, (examples,), generator=generator)
    return TensorDataset(inputs, targets, torch.arange(examples))


def loader(batch_size=16, examples=48, **options):
    return DataLoader(dataset(examples), batch_size, **options)


def planned(batch_size, examples=48, *, epoch=0, start=0, largest=None, sampler=None, **options):
    sampler = sampler or PlannedBatchSampler(examples, batch_size, epoch=epoch, start=start, max_batch_size=largest)
    return DataLoader(dataset(examples), batch_sampler=sampler, **options)


FOLDERS = []  # removed when the tests are over


@cache
def _noise(train, test, size):
    """Images of noise, in three classes in turn, as a data set that has been prepared."""
    FOLDERS.append(TemporaryDirectory())
    folder, random = Path(FOLDERS[-1].name), np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        np.save(folder / f"{part}_images.npy", random.integers(0, 255, (count, 1, size, size), dtype=np.uint8))
        np.save(folder / f"{part}_labels.npy", np.arange(count) % 3)
    return Prepared("noise", str(folder), "0", train=train, test=test, channels=1, size=size, classes=3, origin="drawn")


def images(*, train=64, test=16, size=4, **options):
    """One of our data modules over images of noise: 16 of the `train` are for validation."""
    return ImageDataModule(_noise(train, test, size), **{"validation": 16, "eval_batch_size": 16} | options)


class Stream(IterableDataset):
    """Examples one by one, from nobody knows how many."""

    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        yield from dataset(self.examples)


class Net(pl.LightningModule):
    """A linear classifier, which notes the epoch and the examples of every batch."""

    def __init__(self, lr=1.0, width=4):
        super().__init__()
        self.first, self.last, self.lr = torch.nn.Linear(4, width), torch.nn.Linear(width, 3), lr
        self.batches = []

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def training_step(self, batch, batch_idx):
        self.batches.append((self.current_epoch, batch_idx, tuple(batch[2].tolist())))
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Real:
    """Every step that an optimiser of torch took, as torch itself tells: the optimiser and its groups' rates."""

    def __init__(self):
        self.steps = []

    def __call__(self, optimizer, args, options):
        self.steps.append((optimizer, [float(group["lr"]) for group in optimizer.param_groups]))

    @property
    def rates(self):
        return [rates[0] for _, rates in self.steps]


@contextmanager
def really():
    real = Real()
    handle = register_optimizer_step_post_hook(real)
    try:
        yield real
    finally:
        handle.remove()


def trainer(*callbacks, **options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    if "max_steps" in options:
        quiet["max_epochs"] = -1
    return pl.Trainer(callbacks=list(callbacks), **quiet | options)
