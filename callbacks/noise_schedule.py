"""NoiseScheduler: drives the learning rate and the batch size of any Lightning project along one schedule."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch.optim import Optimizer

import three_factors.datamodules.safe_globals  # noqa: F401  # schedules among a checkpoint's hyperparameters can be read
from three_factors.callbacks.optimizer_steps import Rates, Rule, Steps, moved
from three_factors.callbacks.scheduled_loaders import ScheduledLoaders, accumulated
from three_factors.callbacks.step_window import StepWindow
from three_factors.callbacks.training_batches import Count, CountedBatches, PlannedBatches, Size, Taken, batches_of
from three_factors.datamodules.schedules import NoiseSchedule, as_schedule


class NoiseScheduler(pl.Callback):
    """Sets eta right before every step of an optimiser so that eta/S = n(t), for the S examples that the step saw.

        schedule = NoiseSchedule(lr=.005, batch_size=Cyclic(high=640, low=128, period=10))
        pl.Trainer(callbacks=[NoiseScheduler(schedule)]).fit(module, CIFAR10DataModule())

    Works with any LightningModule, whatever steps it takes (automatic or manual, with accumulated gradients or
    skipped steps), and any loader with an epoch plan: the data modules of `datamodules`, which take S from the
    schedule, and DataLoaders with a `PlannedBatchSampler`. Other loaders keep their own batch size; then a schedule
    with that S can be driven, or with S times `accumulate_grad_batches`. An epoch's last step may see fewer examples
    and gets eta for those (Lightning's mean over accumulated batches still divides by all of them).

    Runs before the other callbacks, so that what they read of the learning rate is what the step will use. Logs to
    all of the Trainer's loggers, at its `log_every_n_steps`: `noise/lr`, `noise/batch_size`, `noise/ratio`,
    `noise/t_eta` (the sum of eta over the first optimiser's steps) and `noise/epoch` (the epoch progress t).

    Args:
        groups: where parameter groups, of all optimisers, have different learning rates: "proportional" lets the
            largest be eta(t) and keeps the ratios of the others to it, "same" gives eta(t) to all.
        examples: N, for t = examples seen / N, where the loader does not know its length.
        size: examples in a batch of this rank; by default the length of the first tensor in it.

    Attributes:
        lr, batch_size, progress: eta, S and t of the step that this batch makes, after it of the last one made.
        t_eta, steps: sum of eta, and number, of the first optimiser's steps.

    Raises:
        ValueError: the data module, or a loader without a plan, has another batch size than the schedule; gradients
            of planned batches are accumulated; learning rates differ and `groups` does not say what to do; the loader
            has no length and t is not defined; another NoiseScheduler is there; or, at a step, eta is no finite
            number, or negative.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        groups: Rule = None,
        examples: int | None = None,
        size: Size | None = None,
    ) -> None:
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(f"schedule: {schedule!r} is not a NoiseSchedule(lr=…, batch_size=…)")
        if groups not in (None, "proportional", "same"):
            raise ValueError(f"groups: {groups!r} is neither 'proportional' nor 'same'")
        if examples is not None and not (isinstance(examples, int) and examples > 0):
            raise ValueError(f"examples: {examples!r} is not a positive whole number")
        self.schedule, self.groups, self.examples, self.size = schedule, groups, examples, size
        self._evaluates = False  # then a checkpoint's state is not this training's
        self._trains: Callable[[], pl.Trainer | None] | None = None  # the Trainer whose fit is under way
        self._loaders, self._hooks = ScheduledLoaders(), Steps(self._before_step, self._after_step)
        self._begin()

    def _begin(self) -> None:
        """Forgets an earlier training."""
        self.t_eta, self.lr, self.progress = 0.0, 0.0, 0.0
        self.batch_size, self.steps = 0, 0
        self._count, self._rates, self._window = Count(), Rates(self.groups), StepWindow()
        self._batches: PlannedBatches | CountedBatches | None = None
        self._given: list[Optimizer] = []  # the Trainer's own list
        self._optimizers: list[Optimizer] = []
        self._checked = False
        self._epoch = -1
        self._taken: Taken | None = None  # of a checkpoint: what its epoch had used up
        self._goes_on = False  # from it
        self._made = 0.0, 0, 0.0  # lr, batch_size and progress of the last step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._trains is not None and self._trains() not in (None, trainer):
            raise ValueError(
                "callbacks: a NoiseScheduler is in use by another Trainer; give each Trainer one of its own"
            )
        self._evaluates = stage != "fit"
        if self._evaluates:
            return
        self._trains = weakref.ref(trainer)
        self._begin()
        others = [one for one in trainer.callbacks if one is not self]  # type: ignore[attr-defined]
        for other in others:
            if isinstance(other, NoiseScheduler):
                names = f"{type(self).__name__} and {type(other).__name__}"
                raise ValueError(f"callbacks: {names}; one Trainer follows one schedule, pass one of them")
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]  # Lightning is going through the old list
        self._loaders.begin(trainer, as_schedule(self.schedule.batch_size))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loaders.resume(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            raise ValueError("training_step: with dataloader_iter it draws batches itself; take (batch, batch_idx)")
        if trainer.fit_loop.restarting or trainer.fit_loop._loaded_from_state_dict:
            self.steps = self.steps or trainer.global_step  # of a checkpoint that has not counted them
        self._take_over(trainer)
        self._loaders.start(trainer)

    def _take_over(self, trainer: pl.Trainer) -> None:
        self._given = trainer.optimizers
        self._optimizers = [one.optimizer if isinstance(one, LightningOptimizer) else one for one in self._given]
        self._rates.begin(self._optimizers)
        self._hooks.watch(self._optimizers)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._hooks.leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave(trainer)  # there is no teardown then

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave(trainer)

    def _leave(self, trainer: pl.Trainer) -> None:
        if self._trains is not None and self._trains() not in (None, trainer):
            return
        self._trains = None
        self._evaluates = False
        self._hooks.leave()
        self._loaders.leave()
        self._rates.release()
        if isinstance(self._batches, PlannedBatches):
            self._taken = self._batches.taken()  # for a checkpoint that is written afterwards
        self._given, self._optimizers, self._batches, self._window = [], [], None, StepWindow()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loaders.start_epoch(trainer)
        progress, size = self._look(trainer).first()
        if math.isfinite(size):  # for whoever looks at the learning rate before the first batch
            self._rates.set(self.schedule.noise_ratio(progress) * size)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)

    def _end_epoch(self, trainer: pl.Trainer) -> None:
        if self._goes_on:  # and the loader has nothing left of the epoch
            self._go_on(self._look(trainer))
        self._loaders.end_epoch(trainer)

    def _go_on(self, batches: PlannedBatches | CountedBatches) -> None:
        self._goes_on = False
        if isinstance(batches, PlannedBatches):
            batches.go_on(self._taken)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.optimizers is not self._given:  # somebody has put others in their place
            self._rates.own = []
            self._take_over(trainer)
        batches = self._batches
        if batches is None or trainer.current_epoch != self._epoch:
            batches = self._look(trainer)
        if not self._checked:
            self._check(trainer, batches)
            self._checked = True
        if self._goes_on:
            self._go_on(batches)
        self._hooks.new_batch()
        here = batches.next(trainer, batch, batch_idx)
        window, ahead = self._window, 0
        self._automatic = pl_module.automatic_optimization
        self._stepped = self._asked = self._backward = False
        if self._automatic:  # Lightning zeroes the gradients, and knows when it will step
            every = trainer.accumulate_grad_batches
            place = batch_idx % every
            window.begin(here, first=place == 0, cut=place > 0)
            if every > 1 and (place == 0 or window.batches > 1):
                ahead = max(0, int(min(every - 1 - place, trainer.num_training_batches - 1 - batch_idx)))
        else:
            window.begin(here, first=False)
        self._use(window.examples + ahead * here.size)

    def _look(self, trainer: pl.Trainer) -> PlannedBatches | CountedBatches:
        """Takes the loader of an epoch that begins or, after a resume, goes on."""
        if isinstance(self._batches, CountedBatches):
            self._batches.end()
        self._batches = batches_of(trainer, self.schedule, self._count, examples=self.examples, size=self.size)
        self._epoch = trainer.current_epoch
        return self._batches

    def _check(self, trainer: pl.Trainer, batches: PlannedBatches | CountedBatches) -> None:
        batches.check(trainer)

    def _use(self, examples: int) -> None:
        """Sets eta for a step that sees `examples`."""
        progress = self._window.progress
        if examples != self.batch_size or progress != self.progress:
            lr, _ = self.schedule.setting(progress, examples)
            if not (math.isfinite(lr) and lr >= 0):  # of a function: our own schedules are checked
                raise ValueError(f"lr: {lr} at t = {progress:g}")
            self.lr, self.batch_size, self.progress = lr, examples, progress
        self._rates.set(self.lr)

    def _before_step(self, optimizer: Optimizer) -> None:
        window, batches = self._window, self._batches
        if batches is None:  # the training has not begun
            return
        if window.closed:  # another step of the same batch, or of another optimiser
            self._rates.set(self.lr)
            return
        if not self._automatic:
            window.forget_thrown_away(optimizer)
        if isinstance(batches, PlannedBatches) and window.batches > 1:
            raise accumulated(f"a step over {window.batches} planned batches")
        if not window.fits:
            raise batches.refusal(window.examples, window.wanted, window.progress)
        self._use(window.examples)

    def _after_step(self, optimizer: Optimizer) -> None:
        if self._batches is None or not moved(optimizer):
            return
        self._window.close()
        self._stepped = True
        self._made = self.lr, self.batch_size, self.progress
        if optimizer is self._optimizers[0]:
            self.t_eta += self.lr
            self.steps += 1

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._backward = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self._asked = True
        if self._automatic and trainer.accumulate_grad_batches == 1 and self._window.still_waits(optimizer):
            raise ValueError("optimizer_zero_grad: it adds batches up unseen; say accumulate_grad_batches instead")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._stepped:
            if self._asked:  # and a gradient scaler has refused
                self._window.close()
            self._window.end(added=self._backward or not self._automatic)
            if not self._automatic or trainer.accumulate_grad_batches == 1:
                self._window.remember(self._optimizers)
            self.lr, self.batch_size, self.progress = self._made
            return
        self._window.end(added=False)
        if trainer._logger_connector.should_update_logs:
            for logger in trainer.loggers:  # beside what the module logs in this step
                logger.log_metrics(self.state(), step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def state(self) -> dict[str, float]:
        """Returns the step just taken, under the names it is logged by."""
        lr, batch_size, progress = self._made
        return {
            "noise/lr": lr,
            "noise/batch_size": batch_size,
            "noise/ratio": lr / batch_size if batch_size else 0.0,
            "noise/t_eta": self.t_eta,
            "noise/epoch": progress,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "t_eta": self.t_eta,
            "steps": self.steps,
            "made": list(self._made),
            "count": self._count.state_dict(),
            "taken": self._batches.taken() if isinstance(self._batches, PlannedBatches) else self._taken,
            "rates": {"own": self._rates.own, "largest": self._rates.largest},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._evaluates:
            return
        self.t_eta, self.steps = state_dict["t_eta"], state_dict.get("steps", 0)
        self._made = self.lr, self.batch_size, self.progress = tuple(state_dict.get("made", (0.0, 0, 0.0)))
        self._count = Count(**state_dict.get("count", {}))
        self._taken, self._goes_on = state_dict.get("taken"), True
        rates = state_dict.get("rates", {"own": [], "largest": 0.0})
        self._rates.own, self._rates.largest = rates["own"], rates["largest"]
