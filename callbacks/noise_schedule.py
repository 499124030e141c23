"""NoiseScheduler: drives the learning rate and the batch size of any Lightning project along one schedule."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from datamodules.schedules import NoiseSchedule, Schedule, as_schedule, round_batch_size


class NoiseScheduler(pl.Callback):
    """Sets eta at the start of every step so that eta/S = n(t), for the S that the batch really has.

        schedule = NoiseSchedule(lr=.005, batch_size=Cyclic(high=640, low=128, period=10))
        pl.Trainer(callbacks=[NoiseScheduler(schedule)]).fit(module, CIFAR10DataModule())

    Works with any LightningModule (every parameter group gets eta) and any loader with an epoch plan: the data
    modules of `datamodules`, which take S from the schedule, and DataLoaders with a `PlannedBatchSampler`. Other
    loaders keep their own batch size; then only a schedule with a constant S can be driven.

    Logs to the Trainer's logger, at its `log_every_n_steps`: `noise/lr`, `noise/batch_size`, `noise/ratio`,
    `noise/t_eta` (the sum of eta over the steps taken) and `noise/epoch` (the epoch progress t).

    Raises:
        ValueError: the data module, or a loader without a plan, has another batch size than the schedule; or
            gradients are accumulated.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(f"schedule: {schedule!r} is not a NoiseSchedule(lr=…, batch_size=…)")
        self.schedule = schedule
        self.t_eta = 0.0
        self.lr = 0.0
        self.progress = 0.0
        self.batch_size = 0
        self._lent: tuple[Any, Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(f"accumulate_grad_batches: {trainer.accumulate_grad_batches} multiplies S; raise S")
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "batch_size") and hasattr(data, "max_batch_size"):
            wanted = as_schedule(self.schedule.batch_size)
            own: float | Schedule | None = data.batch_size
            if own is not None and as_schedule(own) != wanted:
                raise ValueError(f"batch_size: the data module's {own!r} is not the schedule's {wanted!r}")
            self._lent, data.batch_size = (data, own), wanted

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._lent is not None:  # the data module is as it was, for another fit with another schedule
            self._lent[0].batch_size = self._lent[1]
            self._lent = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        plan = getattr(trainer.train_dataloader, "plan", None)
        if plan is None:
            plan = getattr(getattr(trainer.train_dataloader, "batch_sampler", None), "plan", None)
        if plan is None:
            self.progress = trainer.current_epoch + batch_idx / max(1, int(trainer.num_training_batches))
            self.batch_size = self._plain_batch_size(trainer)
        else:
            self.progress = plan.progress(batch_idx)
            self.batch_size = int(plan.edges[batch_idx + 1] - plan.edges[batch_idx])
            self._check(plan, batch_idx)
        self.lr = self.schedule.setting(self.progress, self.batch_size).lr
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr

    def _check(self, plan: Any, batch_idx: int) -> None:
        """That the loader's plan was made from this schedule's S (the last batch of an epoch may be a smaller rest)."""
        asked = as_schedule(self.schedule.batch_size)(self.progress)
        wanted = round_batch_size(asked, plan.smallest, plan.largest)
        if self.batch_size != wanted and batch_idx + 1 < len(plan):
            raise ValueError(
                f"batch_size: the loader's {self.batch_size} at t = {self.progress:g} is not the schedule's {wanted}; "
                "build the PlannedBatchSampler with the scheduler's `schedule.batch_size`"
            )

    def _plain_batch_size(self, trainer: pl.Trainer) -> int:
        """S of a loader without a plan, over all devices; it must be what the schedule says."""
        local = getattr(trainer.train_dataloader, "batch_size", None)
        if not isinstance(local, int):
            raise ValueError("batch_size: the training loader has neither an epoch plan nor a batch size")
        size = local * trainer.world_size
        wanted = as_schedule(self.schedule.batch_size)(self.progress)
        if round(wanted) != size:
            raise ValueError(
                f"batch_size: the loader's {size} cannot follow the schedule's {wanted:g}; see PlannedBatchSampler"
            )
        return size

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.t_eta += self.lr
        if trainer.logger is not None and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            trainer.logger.log_metrics(self.state(), step=trainer.global_step)

    def state(self) -> dict[str, float]:
        """The step just taken, under the names it is logged by."""
        return {
            "noise/lr": self.lr,
            "noise/batch_size": self.batch_size,
            "noise/ratio": self.lr / self.batch_size,
            "noise/t_eta": self.t_eta,
            "noise/epoch": self.progress,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"t_eta": self.t_eta}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.t_eta = state_dict["t_eta"]
