"""NoiseOnPlateau: less noise once a metric stops improving, by a larger batch or a smaller learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from three_factors.callbacks.measurement import Monitor
from three_factors.callbacks.noise_schedule import NoiseScheduler
from three_factors.callbacks.optimizer_steps import Rule
from three_factors.callbacks.training_batches import CountedBatches, PlannedBatches, Size
from three_factors.datamodules.schedules import NoiseSchedule, Schedule, as_schedule


@dataclass
class _Scaled:
    """`of` times a factor that changes in the course of a training."""

    of: Schedule
    factor: float = 1.0

    def __call__(self, epoch: float) -> float:
        return self.factor * self.of(epoch)


class _EpochEnd(pl.Callback):
    """Stands where NoiseOnPlateau was among the callbacks, so that it judges what those before it log there."""

    def __init__(self, plateau: NoiseOnPlateau) -> None:
        self.plateau = plateau

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.plateau.end_epoch(trainer)


class NoiseOnPlateau(NoiseScheduler):
    """Divides eta/S by `factor` when `monitor` has not improved for more than `patience` epochs or validations.

    By `change="batch_size"` S is multiplied by `factor` (past the largest S allowed eta is divided instead); by
    `change="lr"` eta is divided. The rule, and what the other arguments mean, is torch's `ReduceLROnPlateau`. The
    new setting holds from the next epoch on, also where it was decided at a validation within one.

        NoiseOnPlateau(NoiseSchedule(lr=.05, batch_size=128), monitor="val/loss", factor=5, patience=3)

    A metric that is there at the end of a validation is judged then, one that the training step logs at the end of
    the epoch; one that the module logs in its own `on_train_epoch_end` comes an epoch late. One that is not logged in
    every epoch is judged when it is. A `PlannedBatchSampler` has to be given `callback.schedule.batch_size` for S to
    change.

    Unlike the pure schedules this one depends on the run, so it cannot be exchanged beforehand; its state is in the
    Trainer's checkpoints. Logs what NoiseScheduler logs, and takes its `groups`, `examples` and `size`.

    Attributes:
        reduction: what eta/S has been divided by so far. pending: what it will be divided by in the next epoch.

    Raises:
        ValueError: `factor` is not above 1; the metric was not logged by the end of the second epoch; S is to change
            in a loader without an epoch plan.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        monitor: str,
        *,
        change: Literal["batch_size", "lr"] = "batch_size",
        factor: float = 2.0,
        mode: Literal["min", "max"] = "min",
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        groups: Rule = None,
        examples: int | None = None,
        size: Size | None = None,
    ) -> None:
        if not factor > 1:
            raise ValueError(f"factor: {factor!r} is not above 1")
        if change not in ("batch_size", "lr"):
            raise ValueError(f"change: {change!r} is neither 'batch_size' nor 'lr'")
        self.monitor, self.change, self.factor = monitor, change, factor
        self._options: dict[str, Any] = {
            "mode": mode,
            "factor": 1 / factor,
            "patience": patience,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "eps": 0.0,
        }
        lr, batch_size = as_schedule(schedule.lr), as_schedule(schedule.batch_size)
        self._changing = _Scaled(lr if change == "lr" else batch_size)
        scaled = NoiseSchedule(self._changing, batch_size) if change == "lr" else NoiseSchedule(lr, self._changing)
        super().__init__(scaled, groups=groups, examples=examples, size=size)

    def _begin(self) -> None:
        super()._begin()
        self._after: str | None = None  # whether the metric comes with the validation or with the training epoch
        self._first_epoch = self._wait = 0  # epochs until a monitor of ours logs the metric
        self._old: Any = None  # the metric at the epoch's start; Lightning shows the same until it is logged again
        self._judged = self._late = False  # in this epoch; since the last one was judged
        # torch's own rule, on a stand-in whose learning rate is the share of the noise that is left
        self._share = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._rule = ReduceLROnPlateau(self._share, **self._options)
        self._apply(1.0)

    @property
    def pending(self) -> float:
        return 1 / float(self._share.param_groups[0]["lr"])

    def _apply(self, reduction: float) -> None:
        self.reduction = reduction
        self._changing.factor = 1 / reduction if self.change == "lr" else reduction

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            there = list(trainer.callbacks)  # type: ignore[attr-defined]
            there.insert(there.index(self), _EpochEnd(self))
            trainer.callbacks = there  # type: ignore[attr-defined]
        super().setup(trainer, pl_module, stage)

    def _leave(self, trainer: pl.Trainer) -> None:
        super()._leave(trainer)
        there = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(one, _EpochEnd) for one in there):  # back to its own place
            there = [one for one in there if one is not self]
            trainer.callbacks = [self if isinstance(one, _EpochEnd) else one for one in there]  # type: ignore[attr-defined]

    def _check(self, trainer: pl.Trainer, batches: PlannedBatches | CountedBatches) -> None:
        if isinstance(batches, CountedBatches) and self.change == "batch_size":
            raise ValueError(
                "change: a loader without an epoch plan keeps its S; say change='lr', or PlannedBatchSampler"
            )
        super()._check(trainer, batches)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._first_epoch = trainer.current_epoch
        monitors = [one for one in trainer.callbacks if isinstance(one, Monitor)]  # type: ignore[attr-defined]
        self._wait = max((one.every_n_epochs for one in monitors if one.logs(self.monitor)), default=0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        logged = trainer.callback_metrics.get(self.monitor)
        self._late = logged is not self._old and not self._judged
        self._old, self._judged = logged, False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or self._after == "training":
            return
        if self.monitor in trainer.callback_metrics:
            self._after = "validation"
            self._judge(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Waits for the stand-in's turn."""

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Judges a metric of the training epoch, and lets the setting that was decided hold from now on."""
        if self._after != "validation":
            logged = trainer.callback_metrics.get(self.monitor)
            if logged is not None:
                self._after = "training"
                if self._late or logged is not self._old:
                    self._judge(trainer)
            elif trainer.current_epoch - self._first_epoch >= max(trainer.check_val_every_n_epoch or 1, self._wait):
                others = ", ".join(sorted(trainer.callback_metrics)) or "nothing"  # every hook has had its turn
                raise ValueError(f"monitor: {self.monitor!r} was not logged; {others} was")
        self._apply(self.pending)
        self._end_epoch(trainer)

    def _judge(self, trainer: pl.Trainer) -> None:
        value = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))  # one decision for all ranks
        self._rule.step(value)
        self._judged = True

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "rule": self._rule.state_dict(),
            "share": self._share.param_groups[0]["lr"],
            "reduction": self.reduction,
            "after": self._after,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._evaluates:
            return
        self._rule.load_state_dict(state_dict["rule"])
        self._share.param_groups[0]["lr"] = state_dict["share"]
        self._after = state_dict.get("after")
        self._apply(state_dict.get("reduction", self.pending))
