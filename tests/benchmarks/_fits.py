"""Fits to be timed: batches in memory, and the seconds of a step in the last epoch of a Trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import _code  # noqa: F401
import pytorch_lightning as pl
import torch
from _timing import now
from pytorch_lightning.callbacks import Checkpoint

from three_factors.datamodules import PlannedLoader, plan_epoch

BATCH = 128


class InMemory(pl.LightningDataModule):
    """Gives training batches of 128 by the plan, and nothing to validate."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__()
        self.inputs, self.targets = inputs, targets

    def train_dataloader(self) -> PlannedLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        return PlannedLoader(self.inputs, self.targets, plan_epoch(len(self.targets), BATCH, epoch))


class LastEpoch(pl.Callback):
    """Takes the seconds of a step of the last epoch, with what all callbacks do at its end."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = (now() - self.start) / int(trainer.num_training_batches)


def random_data(shape: tuple[int, ...], steps: int) -> InMemory:
    """Returns an epoch of `steps` batches of random inputs of this shape in ten classes."""
    return InMemory(torch.randn(steps * BATCH, *shape), torch.randint(0, 10, (steps * BATCH,)))


def fit(
    make: Callable[[], pl.LightningModule],
    data: InMemory,
    *callbacks: pl.Callback,
    epochs: int = 2,
    steps: int = -1,
    logger: Any = False,
) -> None:
    """Trains a new module, at most `steps` steps if that is not -1, and shows nothing."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        max_steps=steps,
        reload_dataloaders_every_n_epochs=1,  # a plan is of one epoch
        logger=logger,
        # Lightning refuses a callback that counts as one of its checkpoints where they are off, and adds none to it
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        limit_val_batches=0,
    )
    trainer.fit(make(), datamodule=data)


def trainer_step(
    make: Callable[[], pl.LightningModule], data: InMemory, *callbacks: pl.Callback, logger: Any = False
) -> float:
    """Returns the seconds of a step, in the second epoch of two, with these callbacks."""
    clock = LastEpoch()
    fit(make, data, *callbacks, clock, logger=logger)
    return clock.seconds


def quiet() -> None:
    """Keeps Lightning's lines and warnings out of the table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
