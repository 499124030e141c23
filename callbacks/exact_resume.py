"""ExactResume: a training that was killed goes on as if it had not been, to the bit."""

from __future__ import annotations

import contextlib
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.utilities import rank_zero_warn

import three_factors.datamodules.safe_globals  # noqa: F401  # schedules among a checkpoint's hyperparameters can be read
from three_factors.callbacks.checkpoint_file import TRUST, Replacing, unknown_class
from three_factors.callbacks.mid_epoch import begins_anywhere, check_goes_on, never_saves, validates_after
from three_factors.callbacks.scheduled_loaders import accumulating
from three_factors.callbacks.under_way import Kept, keep, put_back, why_not_kept
from three_factors.callbacks.written_file import check_file, check_seconds, make_folder_of
from three_factors.datamodules.resuming import put_right

SHARE = 0.02  # of the training's time that checkpoints may take
AGREE = 16  # steps between the moments at which several ranks agree whether to save


class Preempted(Exception):
    """Is raised out of `trainer.fit` once a training that was asked to leave has saved itself."""


def _others(trainer: Any, *these: pl.Callback) -> list[pl.Callback]:
    return [callback for callback in trainer.callbacks if all(callback is not one for one in these)]


def _arrange(trainer: Any, callbacks: list[pl.Callback]) -> None:
    trainer.callbacks = callbacks  # a new list: Lightning is going through the old one at this moment


class _Front(pl.Callback):
    """Stands before all other callbacks, for ExactResume stands behind them.

    An epoch is over when every hook at its end has run, those of Lightning's checkpoint callbacks too, which come after
    the module's; the next thing that is told is the next epoch's start.
    """

    def __init__(self, resume: ExactResume) -> None:
        self.resume = resume

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.resume.put_back(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.resume.between_epochs(trainer, pl_module)


class ExactResume(pl.Callback):
    """Keeps one checkpoint of the training at `path`, replaced as a whole now and then.

        resume = ExactResume("run/training.ckpt")
        trainer = pl.Trainer(max_epochs=50, callbacks=[NoiseScheduler(schedule), resume])
        trainer.fit(module, data, **resume.where())

    With a loader that can begin in mid-epoch (this project's data modules; `PlannedBatchSampler` with
    `start=resumed_at(trainer)`, or handed to `fit` beside a NoiseScheduler; one with `state_dict`) it saves within
    epochs too, with any other between two of them alone; where there may be no such moment it warns at the start.
    A checkpoint is written after a batch that neither an epoch's end nor a validation follows, or between two epochs,
    after all other callbacks and the module's own hook: from there Lightning resumes right also where epochs differ in
    length. While gradients wait for a step it is not written: between the batches that a step adds up, and under manual
    optimisation after a backward pass without a step. It holds what Lightning's own checkpoints lack: what `self.log`
    has added up over the epoch so far, the states of torchmetrics, the latest logged values, and gradients that a step
    to come may find. The rest is up to what draws at random: data modules and networks of this project are functions of
    (seed, step), so nothing else has to be saved; and to what a module keeps in attributes of its own, which belong in
    its `on_save_checkpoint`. On a GPU arithmetic repeats itself only under `Trainer(deterministic=True)`.

    Under `fast_dev_run` nothing is written, as by Lightning's own: a trial leaves a real training's checkpoint alone.

    It is none of Lightning's checkpoint callbacks: `ckpt_path="best"` and `trainer.checkpoint_callback` mean a
    ModelCheckpoint, by default the Trainer's own. Wherever it stands in `callbacks`, it comes last.

    Args:
        path: of the checkpoint. Its folder is made when a fit begins.
        every: seconds between two of them; 0 saves at every step.
        share: longer, where they would take more than this share of the time.
        leave_on: a signal after which it saves at the next step and raises `Preempted` out of `fit`. With several
            ranks any one's will do, and it takes up to 16 steps.

    Raises:
        ValueError: a loader goes on at another batch than the training, at its first batch: in `train_dataloader` a
            `start=resumed_at(trainer)` was forgotten.

    Attributes:
        seconds: that the training took so far, over all its parts. spent: seconds of them on checkpoints.
    """

    def __init__(
        self, path: str | Path, *, every: float = 15.0, share: float = SHARE, leave_on: signal.Signals | None = None
    ) -> None:
        check_seconds("every", every)
        if not 0 < share <= 1:
            raise ValueError(f"share: {share!r} is not in (0, 1]")
        self.path, self.every, self.share, self.leave_on = check_file(path), every, share, leave_on
        self._evaluates = False
        self._leave = False
        self.spent = 0.0
        self._before = self._cost = 0.0  # seconds of earlier parts; of the last checkpoint
        self._started = self._saved = time.monotonic()
        self._first = -1  # batch before those of this part
        self._unchecked = False  # where the loader began
        self._between = False  # two epochs: where a checkpoint is being written, or was
        self._kept: Kept | None = None  # what else of the training a checkpoint has to hold, or has brought
        self._goes_on = False  # with what a checkpoint has brought, until an epoch's end
        self._ended = False  # a batch, and it may be saved behind it
        self._waits = False  # a gradient, for a step
        self._held_back = 0  # ends of epochs at which one did
        self._told: set[str] = set()
        self._hooks: list[Any] = []  # of optimisers
        self._front = _Front(self)

    def where(self, *, trusted: bool = False) -> dict[str, Any]:
        """Returns what `trainer.fit` needs to go on from the checkpoint; nothing if there is none.

        Args:
            trusted: lets reading the file build objects of any class, and so run code that somebody has put into it.

        Raises:
            ValueError: it holds an object of a class that torch does not know to be harmless, and is not trusted.
        """
        if not self.path.is_file():
            return {}
        if not trusted and (unknown := unknown_class(self.path)):
            raise ValueError(f"resume: {str(self.path)!r} holds an object of {unknown}, and {TRUST}")
        return {"ckpt_path": self.path, "weights_only": not trusted}

    @property
    def seconds(self) -> float:
        """Returns the seconds that the training took so far, over all its parts."""
        return self._before + time.monotonic() - self._started

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._evaluates = stage != "fit"  # then a checkpoint's state is not this training's
        if self._evaluates:
            return
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            make_folder_of(self.path)
        self._leave = self._between = self._waits = self._ended = self._goes_on = False
        self._kept, self._held_back, self._told = None, 0, set()
        self.spent = self._before = self._cost = 0.0
        _arrange(trainer, [self._front, *_others(trainer, self, self._front), self])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        _arrange(trainer, _others(trainer, self._front))
        self._let_go(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._let_go(trainer)  # there is no teardown then

    def _let_go(self, trainer: pl.Trainer) -> None:
        vars(trainer._logger_connector).pop("on_batch_end", None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def put_back(self, trainer: pl.Trainer) -> None:
        """Puts back what the checkpoint has held beside weights and counts, before any other callback looks for it."""
        if self._kept is not None:
            put_back(trainer, self._kept)
            self._kept, self._goes_on = None, True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._saved = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first, self._unchecked = trainer.fit_loop.total_batch_idx, True
        if (scheduler := accumulating(trainer)) is not None:  # it acts at the start of an epoch, which may be over
            trainer.accumulate_grad_batches = scheduler.get_accumulate_grad_batches(trainer.current_epoch)
        if self._between:  # which Lightning takes for the middle of an epoch if there is a `max_steps`
            put_right(trainer)
            self._between = False
        if trainer.world_size > 1:  # a file system may show the checkpoint to one node and not yet to another
            step = torch.tensor([trainer.global_step, -trainer.global_step], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(step, torch.distributed.ReduceOp.MAX)
            if step[0] != -step[1]:
                raise RuntimeError(f"ranks begin at steps {-int(step[1])} to {int(step[0])}: not all read {self.path}")
        if begins_anywhere(trainer):  # which Lightning does not know
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        elif not trainer.fast_dev_run and (why := never_saves(trainer)):  # type: ignore[attr-defined]
            rank_zero_warn(
                f"ExactResume: with this loader it saves between two epochs alone, and {why}: nothing may be saved at "
                "all; give the loader a state_dict, or set limit_train_batches to shorter epochs"
            )
        if self.leave_on is not None:  # in place of Lightning's handler, which would end the training without saving
            signal.signal(self.leave_on, self._asked)  # and which puts back what was there before
        self._watch(trainer)

    def _watch(self, trainer: pl.Trainer) -> None:
        """Has a batch's end told behind the module's own hook, which comes after all callbacks', and every step."""
        connector = trainer._logger_connector

        def ends() -> None:
            type(connector).on_batch_end(connector)
            if self._ended:
                self._ended = False
                self._save_if_due(trainer, agreed=self.every == 0 or trainer.global_step % AGREE == 0)

        connector.on_batch_end = ends  # type: ignore[method-assign]  # of this instance alone, until the fit is over
        for optimizer in trainer.optimizers:
            with contextlib.suppress(AttributeError):  # none of torch's: Lightning tells of those that it steps
                self._hooks.append(optimizer.register_step_post_hook(self._stepped))

    def _asked(self, number: int, frame: Any) -> None:
        self._leave = True

    def _stepped(self, *step: Any) -> None:
        self._waits = False

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._waits = False

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waits = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._unchecked:
            return
        self._unchecked = False
        if trainer.fit_loop.total_batch_idx == self._first + 1:  # else a batch of None was passed over
            check_goes_on(trainer, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._ended = False
        if not begins_anywhere(trainer):
            return
        if pl_module.automatic_optimization:  # by whose count Lightning zeroes the gradients before the next one
            self._waits = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        self._ended = not trainer.is_last_batch and not validates_after(trainer, batch_idx)

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            rank_zero_warn(f"ExactResume: {what}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._goes_on:
            # Lightning's schedulers that go by a metric leave this epoch's end out, for its checkpoints have no
            # metrics; ours have.
            trainer.fit_loop._restarting = False
            self._goes_on = False

    def between_epochs(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, if it is time to, before anything of a new epoch has happened."""
        if trainer.fit_loop.total_batch_idx == self._first:  # it is where this part has begun
            return
        if pl_module.automatic_optimization:
            self._waits = False  # an epoch's last batch makes a step
        progress = trainer.fit_loop.epoch_progress
        counts = (progress.total, progress.current)
        for count in counts:  # Lightning counts the new epoch already: that of the checkpoint is the one that is over
            count.ready -= 1
        self._between = True
        try:
            self._save_if_due(trainer, agreed=True)
            self._held_back += self._waits
            if self._held_back > 1 and self._cost == 0:
                self._tell("gradients wait for a step whenever it might save, so nothing is saved; step more often")
        finally:
            self._between = False
            for count in counts:
                count.ready += 1

    def _save_if_due(self, trainer: pl.Trainer, *, agreed: bool) -> None:
        if trainer.should_stop:  # Lightning forgets it: the resumed training would go on
            return
        leave, due = self._leave, time.monotonic() - self._saved >= max(self.every, self._cost / self.share)
        if self.every == 0:
            due = True
        waits = self._waits
        if trainer.world_size > 1:
            if not agreed:
                return
            wishes = torch.tensor([leave, due, waits], dtype=torch.int, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
            leave, due, waits = (bool(wish) for wish in wishes.tolist())
        if waits or not (leave or due):
            return
        if not self._between and (why := why_not_kept(trainer)):
            self._tell(f"{why}, which no checkpoint has: it saves between two epochs alone")
            return
        self.save(trainer)
        if leave:
            saved = "nothing is saved under fast_dev_run, left" if trainer.fast_dev_run else "saved"  # type: ignore[attr-defined]
            raise Preempted(f"{saved} after step {trainer.global_step}")

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the checkpoint; every rank comes here. A reader sees the one before or this one, never a part."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        start = time.monotonic()
        usual, trainer.strategy.checkpoint_io = trainer.strategy.checkpoint_io, Replacing()
        self._kept = keep(trainer)
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            trainer.strategy.checkpoint_io, self._kept = usual, None
        self._saved = time.monotonic()
        if self._cost == 0 and trainer.is_global_zero and (unknown := unknown_class(self.path)):
            rank_zero_warn(f"ExactResume: the checkpoint holds an object of {unknown}, and {TRUST}")
        self._cost = self._saved - start
        self.spent += self._cost

    def state_dict(self) -> dict[str, Any]:
        state = {"seconds": self.seconds, "spent": self.spent, "between": self._between}
        return state if self._kept is None else state | {"kept": self._kept}  # None in another callback's checkpoint

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._evaluates:
            return
        self._before, self.spent = state_dict["seconds"], state_dict["spent"]
        self._between, self._kept = state_dict.get("between", False), state_dict.get("kept")
