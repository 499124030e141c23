"""Monitors that measure on the same examples at every measurement of a fit."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import BatchSampler

from three_factors.callbacks.drawn import stored_in_checkpoint
from three_factors.callbacks.functional.fields import positive_whole
from three_factors.callbacks.functional.inputs import stored
from three_factors.callbacks.functional.nests import cut, joined, size_of
from three_factors.callbacks.functional.state import device_of, measuring
from three_factors.callbacks.measurement import Monitor


class SubsetMonitor(Monitor):
    """A monitor that measures on a fixed subset of the training set.

    Args:
        examples, batch_size: of the subset that is taken where no `batches` are given, over all ranks: from a data
            module with `measurement_batches(examples, batch_size)`, ours among them, without augmentation; else the
            first examples that training draws, as it draws them; they are in the checkpoints, so that a fit that is
            resumed goes on with them (up to 64 MiB, on one device; else it says that it takes others). Fewer at a time
            need less memory.
    """

    def __init__(self, *, examples: int, batch_size: int, **options: Any) -> None:
        super().__init__(**options)
        positive_whole("examples", examples)
        positive_whole("batch_size", batch_size)
        self.examples, self.batch_size = examples, batch_size

    def _anew(self) -> None:
        super()._anew()
        self._taken = False  # whether `batches` are those that training drew

    def keeps(self, trainer: pl.Trainer) -> bool:
        return not hasattr(getattr(trainer, "datamodule", None), "measurement_batches")

    def wanted(self, trainer: pl.Trainer) -> int:
        return -(-self.examples // trainer.world_size)

    def counted(self, batch: Any) -> int:
        return size_of(batch)

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        if self._taken:
            assert isinstance(self.batches, list)
            found["subset"] = stored_in_checkpoint(self.batches)
        return found

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        if self._given is None and "subset" in state:
            self.batches = state["subset"]
            self._taken, self._lost = self.batches is not None, self.batches is None

    def subset_sizes(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> list[int] | None:
        """Returns the sizes that this rank's batches have, or will have once training has drawn them.

        None where they are not known: of batches that are given, or measured as they are drawn. `batch` is the first.
        """
        if self._given is not None:
            return None
        if self.batches is not None or not self.keeps(trainer):
            return [size_of(batch) for batch in self.subset(trainer, module)]
        if self.reduction == "batch":
            return None
        own = int(min(self.wanted(trainer), _drawn_examples(trainer, batch)))
        return [min(self.batch_size, own - start) for start in range(0, own, self.batch_size)]

    def subset(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[Any]:
        """Returns this rank's batches, the same at every measurement of a fit."""
        if self.batches is None and self._drawn.batches is None:
            data: Any = getattr(trainer, "datamodule", None)
            with measuring(module):
                found = data.measurement_batches(self.examples, self.batch_size)
                self.batches = [_as_trained(trainer, module, batch) for batch in found]
        elif self.batches is None:
            drawn = self._drawn.take()
            if not drawn:
                raise ValueError("batches: there is none left of this epoch")
            whole = self.reduction == "batch"
            self.batches = drawn if whole else _resized(drawn, self.wanted(trainer), self.batch_size)
            self._taken = True
        return self.given_batches(trainer, module) or []


def _resized(batches: list[Any], examples: int, batch_size: int) -> list[Any]:
    """Returns the first `examples` of these batches in batches of `batch_size`.

    As they are where they cannot be joined.
    """
    try:
        together = joined(batches)
        total = min(examples, size_of(together))
        return [cut(together, i, min(i + batch_size, total)) for i in range(0, total, batch_size)]
    except ValueError:
        return batches


def _drawn_examples(trainer: pl.Trainer, batch: Any) -> float:
    """Returns how many examples training draws in an epoch on this rank; infinity where its loader does not say.

    Nor does it where the first `batch` has more than the loader's sampler knows of: several views of each, say.
    """
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    if type(batches) is not BatchSampler:
        return math.inf
    there = min(len(batches.sampler), trainer.num_training_batches * batches.batch_size)  # type: ignore[arg-type]
    return there if size_of(batch) == min(there, batches.batch_size) else math.inf


def _as_trained(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """Returns a loader's batch after what Lightning does before `training_step`: precision, transfer, and the hooks
    there.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    return stored(batch, device_of(module), None)
