"""What the monitors share: when they measure, on which examples, with which loss, and how it is logged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.functional.inputs import as_batches, stored
from callbacks.functional.state import device_of, measuring

Loss = Callable[[Any, Any], Tensor]
Batches = Iterable[Any] | Callable[[pl.Trainer], Iterable[Any]] | None


class Monitor(pl.Callback):
    """Measures at the end of every `every_n_epochs`-th training epoch, on all ranks, and logs from all ranks alike.

    Training goes on as if it had not measured: the same weights to the bit.

    Attributes:
        history: a dictionary a measurement: epoch, step, seconds, and what was logged, in float64.
    """

    prefix = ""

    def __init__(self, *, every_n_epochs: int, loss: Loss | None, batches: Batches) -> None:
        if not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise ValueError(f"every_n_epochs: {every_n_epochs!r} is not a positive whole number")
        self.every_n_epochs, self.loss, self.batches = every_n_epochs, loss, batches
        self.history: list[dict[str, float]] = []

    def due(self, epoch: int) -> bool:
        """Whether epoch number `epoch` (from 0) ends with a measurement."""
        return (epoch + 1) % self.every_n_epochs == 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.due(trainer.current_epoch):
            return
        start = time.perf_counter()
        found = self.measured(trainer, pl_module)
        found[f"{self.prefix}/seconds"] = time.perf_counter() - start
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step} | found)
        for name, value in found.items():
            pl_module.log(name, value, sync_dist=trainer.world_size > 1)

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        """The values to log, under their full names; every rank comes here."""
        raise NotImplementedError

    def loss_of(self, module: Any) -> Loss:
        """The loss given, or the module's own `loss(output, target)`."""
        loss = self.loss or getattr(module, "loss", None)
        if not callable(loss):
            raise ValueError(f"loss: {type(module).__name__} has no loss(output, target); give one to the monitor")
        return loss

    def given_batches(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[Any] | None:
        """What the user gave, read once and kept on the device; None if nothing was given."""
        if self.batches is None:
            return None
        if not isinstance(self.batches, list):
            with measuring(module):
                given = self.batches(trainer) if callable(self.batches) else self.batches
                device = device_of(module)
                self.batches = [stored(batch, device, None) for batch in as_batches(given)]
        return self.batches


def training_batches(trainer: pl.Trainer, module: pl.LightningModule, number: int) -> list[Any]:
    """The first batches of this epoch's training loader as training sees them; this rank's parts of them."""
    with measuring(module):  # a loader that shuffles draws from torch's global generator
        loader: Any = trainer.train_dataloader
        return [stored(batch, device_of(module), None) for batch in islice(iter(loader), number)]


def training_subset(
    trainer: pl.Trainer, module: pl.LightningModule, examples: int, batch_size: int
) -> list[tuple[Tensor, Tensor]]:
    """A fixed subset of the training set in batches, this rank's part of it.

    From a data module with `measurement_batches(examples, batch_size)`, ours among them, without augmentation; else
    the first examples that the training loader yields, as it yields them.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "measurement_batches"):
        return data.measurement_batches(examples, batch_size)
    wanted, found, seen = -(-examples // trainer.world_size), [], 0
    with measuring(module):
        for batch in trainer.train_dataloader:  # type: ignore[union-attr]
            inputs, targets = stored(batch, device_of(module), None)
            found.append((inputs[: wanted - seen], targets[: wanted - seen]))
            seen += len(found[-1][1])
            if seen >= wanted:
                break
    inputs, targets = torch.cat([b[0] for b in found]), torch.cat([b[1] for b in found])
    return list(zip(inputs.split(batch_size), targets.split(batch_size)))
