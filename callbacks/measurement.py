"""What the monitors share: when they measure, on which examples, with which loss, and how it is logged."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from callbacks.functional.inputs import as_batches, stored
from callbacks.functional.state import device_of, measuring, plain

Loss = Callable[[Any, Any], Tensor]
Batches = Iterable[Any] | Callable[[pl.Trainer], Iterable[Any]] | None


class Monitor(pl.Callback):
    """Measures at the end of every `every_n_epochs`-th training epoch, on all ranks, and logs from all ranks alike.

    Training goes on as if it had not measured: the same weights to the bit (unless the data set itself changes when it
    is read). Where weights are no longer finite it logs NaN and says so, once.

    Attributes:
        history: a dictionary a measurement: epoch, step, seconds, and what was logged, in float64.
    """

    prefix = ""

    def __init__(self, *, every_n_epochs: int, loss: Loss | None, batches: Batches) -> None:
        if not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise ValueError(f"every_n_epochs: {every_n_epochs!r} is not a positive whole number")
        self.every_n_epochs, self.loss, self.batches = every_n_epochs, loss, batches
        self.history: list[dict[str, float]] = []
        self._given, self._warned = batches, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.batches = self._given  # what an earlier fit measured on is not this one's
            self.loss_of(plain(pl_module))  # refused before the training, not after it

    def due(self, epoch: int) -> bool:
        """Whether epoch number `epoch` (from 0) ends with a measurement."""
        return (epoch + 1) % self.every_n_epochs == 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.due(trainer.current_epoch):
            return
        start = time.perf_counter()
        finite = all(bool(torch.isfinite(p.detach()).all()) for p in pl_module.parameters())
        found = self.measured(trainer, pl_module) if finite else self._nothing(trainer)
        found[f"{self.prefix}/seconds"] = time.perf_counter() - start
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step} | found)
        for name, value in found.items():
            pl_module.log(name, value, sync_dist=trainer.world_size > 1)

    def _nothing(self, trainer: pl.Trainer) -> dict[str, float]:
        if not self._warned:
            rank_zero_warn(f"{type(self).__name__}: epoch {trainer.current_epoch + 1}: weights are not finite")
        self._warned = True
        last = self.history[-1] if self.history else {}
        return {name: math.nan for name in last if name.startswith(f"{self.prefix}/")}

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
    loader: Any = trainer.train_dataloader
    with measuring(module), _undisturbed(loader):
        return [_as_trained(trainer, module, batch) for batch in islice(iter(loader), number)]


def training_subset(
    trainer: pl.Trainer, module: pl.LightningModule, examples: int, batch_size: int
) -> list[tuple[Tensor, Tensor]]:
    """A fixed subset of the training set in batches, this rank's part of it.

    From a data module with `measurement_batches(examples, batch_size)`, ours among them, without augmentation; else
    the first examples that the training loader yields, as it yields them.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "measurement_batches"):
        with measuring(module):
            return [_as_trained(trainer, module, batch) for batch in data.measurement_batches(examples, batch_size)]
    loader: Any = trainer.train_dataloader
    wanted, found, seen = -(-examples // trainer.world_size), [], 0
    with measuring(module), _undisturbed(loader):
        for batch in loader:
            inputs, targets = _as_trained(trainer, module, batch)
            found.append((inputs[: wanted - seen], targets[: wanted - seen]))
            seen += len(found[-1][1])
            if seen >= wanted:
                break
    inputs, targets = torch.cat([b[0] for b in found]), torch.cat([b[1] for b in found])
    return list(zip(inputs.split(batch_size), targets.split(batch_size)))


def _as_trained(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """A loader's batch after what Lightning does before `training_step`: precision, transfer, and the hooks there."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    return stored(batch, device_of(module), None)


@contextmanager
def _undisturbed(loader: Any) -> Iterator[None]:
    """The generators that a loader draws from are put back; `measuring` does so with the global ones."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    own = {id(g): g for g in (getattr(h, "generator", None) for h in holders) if isinstance(g, torch.Generator)}
    states = [(generator, generator.get_state()) for generator in own.values()]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="PlannedBatchSampler")  # its second pass is ours
            yield
    finally:
        for generator, state in states:
            generator.set_state(state)
