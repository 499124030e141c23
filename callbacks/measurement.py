"""What the monitors share: when they measure, on which examples, with which loss, and how it is logged."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from three_factors.callbacks.drawn import UNLESS, DrawnBatches
from three_factors.callbacks.functional.fields import positive_whole
from three_factors.callbacks.functional.inputs import FailedElsewhere, alone, as_batches, finite, of_all_ranks, stored
from three_factors.callbacks.functional.nests import cut
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction, Weights
from three_factors.callbacks.functional.state import device_of, measuring, plain
from three_factors.callbacks.made_steps import FollowsSteps
from three_factors.callbacks.readers import check_readers

Batches = Iterable[Any] | Callable[[pl.Trainer], Iterable[Any]] | None
OnError = Literal["warn", "raise"]
FEW = 4  # examples of the trial
SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


class Monitor(FollowsSteps, ABC):
    """Measures at the end of every `every_n_epochs`-th training epoch, on all ranks, and logs from all ranks alike.

    Training goes on as if it had not measured: the same weights to the bit, and nothing is read from its loaders. A
    **trial** before the first step measures once on a few examples of the first batch, so that what cannot be measured
    ends the fit before anything has been paid for. Where weights are no longer finite it logs NaN and says so, once.

    These arguments mean the same in every monitor; callbacks/README.md says what they cost.

    Args:
        every_n_epochs: measured at the ends of epochs whose number (from 1) it divides; a warning says where a fit
            has none. What reads a value at other times (a `ModelCheckpoint`, say) is refused.
        loss: loss(output, target), a scalar, with output = module(input) for batches (input, target), or
            module(inputs…) for (inputs…, target); by default the module's own `loss`.
        batch_loss: f(module, batch), in place of `loss`, for any other batch or output; `lambda module, batch:
            module.training_step(batch, 0)` will do (what it logs is not logged).
        reduction: what the loss does with the examples of a batch: "mean", "sum", or "batch" (it belongs to the batch
            as a whole, and batches are measured as training draws them). It is tried: a loss that does something else
            is refused, one with weights of its own (class weights, ignored targets) is followed.
        weights: weights(batch), what a batch weighs in the mean, where that cannot be found by trying.
        batches: what to measure on, of this rank, or a function of the Trainer that gives it; read once. By default
            the first batches that training draws.
        params: names of the parameters to measure; by default all that require grad.
        name: the first part of the names that are logged, and of the key in checkpoints: two monitors of one kind
            need two names.
        on_error: what a measurement that fails later on does: "warn" logs NaN and goes on, "raise" ends the training.

    Attributes:
        history: a dictionary a measurement: epoch, step, seconds, and what was logged, in float64. It begins anew with
            every fit, and goes on where a checkpoint is resumed.
    """

    kind: ClassVar[str] = ""  # the default name

    def __init__(
        self,
        *,
        every_n_epochs: int,
        loss: Loss | None,
        batch_loss: BatchLoss | None,
        reduction: Reduction,
        weights: Weights | None,
        batches: Batches,
        params: Iterable[str] | None,
        name: str | None,
        on_error: OnError,
    ) -> None:
        positive_whole("every_n_epochs", every_n_epochs)
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error: {on_error!r} is neither 'warn' nor 'raise'")
        if name is not None and not name.strip("/"):
            raise ValueError(f"name: {name!r} names nothing")
        if name is not None and name.endswith("/"):
            raise ValueError(f"name: {name!r} ends in the '/' that stands between it and what is logged")
        if loss is not None and batch_loss is not None:
            raise ValueError("loss, batch_loss: both are given; one of them says what is measured")
        Objective(loss or _unknown, None, reduction, weights)  # refused here, not when it is first needed
        self.every_n_epochs, self.loss, self.batch_loss = int(every_n_epochs), loss, batch_loss
        self.reduction, self.weights, self.on_error = reduction, weights, on_error
        self.params = None if params is None else list(params)
        self.prefix = name or self.kind
        self._given, self._evaluates = batches, False
        super().__init__()
        self._anew()

    def _anew(self) -> None:
        """Forgets everything of an earlier fit."""
        self._forget_steps()
        self.batches = self._given
        self.history: list[dict[str, float]] = []
        self._told: set[str] = set()
        self._tried = False
        self._drawn = DrawnBatches()
        self._keeps = False  # whether the batch under way is measured on
        self._lost = False  # whether a checkpoint lacks the examples that were measured on before it

    @property
    def state_key(self) -> str:
        own = type(self).__qualname__
        return own if self.prefix == self.kind else f"{own}[{self.prefix}]"

    # -- hooks

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._evaluates = stage != "fit"  # then a checkpoint's state is not this training's
        if self._evaluates:
            return
        self._anew()  # a checkpoint that is resumed brings back what it had
        others: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, Monitor) and c is not self and c.prefix == self.prefix for c in others):
            raise ValueError(f"name: two monitors log under {self.prefix!r}; give one of them another name=")
        if type(trainer.strategy).__name__ in SHARDING:
            kind = type(trainer.strategy).__name__
            raise ValueError(
                f"strategy: {kind} keeps a part of the parameters on each device; monitors measure whole ones (ddp)"
            )
        self.objective(plain(pl_module))  # refused before the training, not after it

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        check_readers(trainer, self)
        if self._lost:
            self._tell(trainer, f"resumed, measures on other examples than before {UNLESS}")
        last = trainer.max_epochs or -1  # -1: nobody knows
        left = range(trainer.current_epoch, last)
        if left and not self.history and not any(map(self.due, left)):
            rank_zero_warn(
                f"{type(self).__name__}: every_n_epochs={self.every_n_epochs}, and none of the epochs up to "
                f"max_epochs={last} is due: nothing will be measured"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch is None:
            return
        if not self._tried:
            self._tried = True
            self._try(trainer, pl_module, batch)
        if trainer.current_epoch != self._drawn.epoch:  # not at the epoch's start: one that is resumed has none
            self._begin_epoch(trainer, goes_on=batch_idx > 0)
        self._keeps = self._drawn.wants(self.wanted(trainer))
        if self._keeps:
            self._drawn.add(batch, self.counted(batch))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.due(trainer.current_epoch):
            self._forget_steps()
            return
        if trainer.current_epoch != self._drawn.epoch:  # resumed after its last batch
            self._begin_epoch(trainer, goes_on=True)
        start = time.perf_counter()
        found = self._measured(trainer, pl_module)
        found[f"{self.prefix}/seconds"] = time.perf_counter() - start
        self._forget_steps()  # no checkpoint needs them any more
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step} | found)
        for name, value in found.items():
            pl_module.log(name, value, sync_dist=trainer.world_size > 1)

    def _begin_epoch(self, trainer: pl.Trainer, *, goes_on: bool) -> None:
        epoch = trainer.current_epoch
        keep = self.batches is None and self.due(epoch) and self.keeps(trainer)
        if not self._drawn.begin(epoch, keep=keep, goes_on=goes_on):
            self._tell(trainer, f"resumed within an epoch, measures on the examples that are left of it {UNLESS}")

    def logs(self, name: str) -> bool:
        """Tells whether the value of this name is one of this monitor's."""
        return name.startswith(f"{self.prefix}/")

    def due(self, epoch: int) -> bool:
        """Tells whether epoch number `epoch` (from 0) ends with a measurement."""
        return (epoch + 1) % self.every_n_epochs == 0

    def state_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"history": [dict(row) for row in self.history]}
        drawn = self._drawn.state()
        return found | self.steps_state() | ({} if drawn is None else {"drawn": drawn})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._evaluates:
            self.restore(state_dict)

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what a training had when its checkpoint was written."""
        self.history = [dict(row) for row in state.get("history", [])]
        self._drawn.restore(state.get("drawn"))
        self.restore_steps(state)

    # -- what a monitor says of itself

    @abstractmethod
    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        """Measures, on every rank; returns the values to log under their full names."""

    @abstractmethod
    def names(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
        """Returns the full names of the values that a measurement would log now, had it not failed."""

    @abstractmethod
    def tried(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        """Measures on a few examples, on this rank alone, and keeps nothing. Raises what measuring would raise."""

    @abstractmethod
    def keeps(self, trainer: pl.Trainer) -> bool:
        """Tells whether batches that training draws are to be kept for a measurement."""

    @abstractmethod
    def wanted(self, trainer: pl.Trainer) -> int:
        """Says how much of them, in units of `counted`."""

    @abstractmethod
    def counted(self, batch: Any) -> int:
        """Returns what a batch is of what is wanted."""

    # -- measuring

    def objective(self, module: nn.Module) -> Objective:
        """Returns what is measured: the loss given, or the module's own `loss(output, target)`."""
        loss = self.loss or (None if self.batch_loss else getattr(module, "loss", None))
        if self.batch_loss is None and not callable(loss):
            raise ValueError(
                f"loss: {type(module).__name__} has no loss(output, target); give loss= or "
                f"batch_loss=f(module, batch) to {type(self).__name__}"
            )
        return Objective(None if self.batch_loss else loss, self.batch_loss, self.reduction, self.weights)

    def _try(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        """Makes the trial; every rank ends alike, and says of which it is."""
        if not all(finite(p) for p in module.parameters()):
            return  # nothing can be told from it; the measurements say so
        error: Exception | None = None
        try:
            with alone():
                # a loss that belongs to its batch as a whole may have no value for a part of it
                self.tried(trainer, module, batch if self.reduction == "batch" else _few(batch))
        except Exception as failed:
            error = failed
        said = None if error is None else _line(error)
        failures = [(rank, text) for rank, text in enumerate(of_all_ranks(said)) if text is not None]
        if isinstance(error, ValueError):
            raise error
        if error is not None:
            raise ValueError(f"{type(self).__name__}: this cannot be measured: {said}") from error
        if failures:
            rank, text = failures[0]
            raise ValueError(f"{type(self).__name__}: this cannot be measured on rank {rank}: {text}")

    def _measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        """Returns the values to log.

        NaN where weights are not finite or, by `on_error`, where the measurement failed.
        """
        if not all(finite(p) for p in module.parameters()):
            self._tell(trainer, "weights are not finite")
            return self._nothing(trainer, module)
        error: Exception | None = None
        found: dict[str, float] = {}
        try:
            found = self.measured(trainer, module)
        except Exception as failed:
            error = failed
        ranks = [text for text in of_all_ranks(None if error is None else _line(error)) if text is not None]
        if not ranks:
            return found
        if self.on_error == "raise":
            raise error or FailedElsewhere(f"{type(self).__name__}: on another rank: {ranks[0]}")
        self._tell(trainer, f"not measured: {ranks[0]}")
        return self._nothing(trainer, module)

    def _tell(self, trainer: pl.Trainer, what: str) -> None:
        """Warns of it, the first time."""
        if what not in self._told:
            rank_zero_warn(f"{type(self).__name__}: epoch {trainer.current_epoch + 1}: {what}")
        self._told.add(what)

    def _nothing(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        """Returns NaN for what the last measurement has logged, and for what this one was to: readers look for it."""
        last = filter(self.logs, self.history[-1] if self.history else ())
        return dict.fromkeys((*last, *self.names(trainer, module)), math.nan)

    def given_batches(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[Any] | None:
        """Returns what the user gave, read once and kept on the device; None if nothing was given."""
        if self.batches is None:
            return None
        if self.batches is self._given:
            with measuring(module):
                given = self.batches(trainer) if callable(self.batches) else self.batches
                self.batches = list(as_batches(given))
        assert isinstance(self.batches, list)
        return [stored(batch, device_of(module), None) for batch in self.batches]


def _unknown(output: Any, target: Any) -> Any:
    """Stands for the module's own loss while the module is not known."""
    raise NotImplementedError


def _few(batch: Any) -> Any:
    """Returns a few examples of a batch; all of it where it cannot be cut."""
    try:
        return cut(batch, 0, FEW)
    except Exception:  # a batch of any kind, whose parts do not go by examples
        return batch


def _line(error: Exception) -> str:
    """Returns an error in one line."""
    text = str(error).strip().splitlines()
    kind = type(error).__name__
    return f"{kind}: {text[0][:300]}" if text else kind
