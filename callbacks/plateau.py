"""NoiseOnPlateau: less noise once a metric stops improving, by a larger batch or a smaller learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from callbacks.noise_schedule import NoiseScheduler
from datamodules.schedules import NoiseSchedule, Schedule, as_schedule


@dataclass
class _Scaled:
    """`of` times a factor that changes in the course of a training."""

    of: Schedule
    factor: float = 1.0

    def __call__(self, epoch: float) -> float:
        return self.factor * self.of(epoch)


class NoiseOnPlateau(NoiseScheduler):
    """Divides eta/S by `factor` when `monitor` has not improved for more than `patience` epochs or validations.

    By `change="batch_size"` S is multiplied by `factor` (past the largest S allowed eta is divided instead); by
    `change="lr"` eta is divided. The rule, and what the other arguments mean, is torch's `ReduceLROnPlateau`. The
    new setting holds from the next epoch on.

        NoiseOnPlateau(NoiseSchedule(lr=.05, batch_size=128), monitor="val/loss", factor=5, patience=3)

    A metric that is there at the end of a validation is judged then, one that the training step logs at the end of
    the epoch; one that the module logs in its own `on_train_epoch_end` comes an epoch late. A `PlannedBatchSampler`
    has to be given `callback.schedule.batch_size` for S to change.

    Unlike the pure schedules this one depends on the run, so it cannot be exchanged beforehand; its state is in the
    Trainer's checkpoints. Logs what NoiseScheduler logs.

    Raises:
        ValueError: `factor` is not above 1; the metric was not logged by the end of the second epoch.
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
    ) -> None:
        super().__init__(schedule)
        if not factor > 1:
            raise ValueError(f"factor: {factor!r} is not above 1")
        if change not in ("batch_size", "lr"):
            raise ValueError(f"change: {change!r} is neither 'batch_size' nor 'lr'")
        self.monitor, self.change, self.factor = monitor, change, factor
        self._lr, self._batch_size = _Scaled(as_schedule(schedule.lr)), _Scaled(as_schedule(schedule.batch_size))
        self.schedule = NoiseSchedule(self._lr, self._batch_size)
        # torch's own rule, on a stand-in whose learning rate is the share of the noise that is left
        self._after: str | None = None  # whether the metric comes with the validation or with the training epoch
        self._share = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._rule = ReduceLROnPlateau(
            self._share,
            mode=mode,
            factor=1 / factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,
            cooldown=cooldown,
            eps=0.0,
        )

    @property
    def reduction(self) -> float:
        """What eta/S has been divided by so far."""
        return 1 / float(self._share.param_groups[0]["lr"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or self._after == "training":
            return
        if self.monitor in trainer.callback_metrics:
            self._after = "validation"
            self._judge(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._after == "validation":
            return
        if self.monitor in trainer.callback_metrics:
            self._after = "training"
            self._judge(trainer)
        elif trainer.current_epoch >= (trainer.check_val_every_n_epoch or 1):  # every hook has had its turn
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"monitor: {self.monitor!r} was not logged; {logged} was")

    def _judge(self, trainer: pl.Trainer) -> None:
        value = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))  # one decision for all ranks
        self._rule.step(value)
        self._apply()

    def _apply(self) -> None:
        if self.change == "batch_size":
            self._batch_size.factor = self.reduction
        else:
            self._lr.factor = 1 / self.reduction

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"rule": self._rule.state_dict(), "share": self._share.param_groups[0]["lr"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._rule.load_state_dict(state_dict["rule"])
        self._share.param_groups[0]["lr"] = state_dict["share"]
        self._apply()
