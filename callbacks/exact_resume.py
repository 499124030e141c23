"""ExactResume: a training that was killed goes on as if it had not been, to the bit."""

from __future__ import annotations

import math
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

import three_factors.datamodules.safe_globals  # noqa: F401  # schedules among a checkpoint's hyperparameters can be read
from three_factors.callbacks.handed import handed_loader, handed_sampler
from three_factors.callbacks.noise_schedule import NoiseScheduler
from three_factors.callbacks.written_file import check_file, make_folder_of
from three_factors.datamodules.resuming import put_right

SHARE = 0.02  # of the training's time that checkpoints may take
AGREE = 16  # steps between the moments at which several ranks agree whether to save


TRUST = (
    "reading that runs its code: where(trusted=True) does, for a file of your own; or name the class in "
    "torch.serialization.add_safe_globals"
)


class Preempted(Exception):
    """Is raised out of `trainer.fit` once a training that was asked to leave has saved itself."""


class _Replacing(TorchCheckpointIO):
    """Writes beside the file and renames. Lightning's own leaves files in the system's temporary folder when killed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        draft = path.with_name(f".{path.name}.draft")
        try:
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)  # of a full disk it is the largest part


def _unknown(path: Path) -> str:
    """Returns a class in a checkpoint that `weights_only=True` refuses, found without reading it.

    "" if there is none.
    """
    try:
        return next(iter(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))), "")
    except Exception:  # a damaged file: reading it says so
        return ""


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

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.resume.between_epochs(trainer)


def _begins_anywhere(trainer: pl.Trainer) -> bool:
    """Tells whether a resumed epoch gets the batches that it lacks.

    Another loader would begin with the epoch's first.
    """
    loader: Any = trainer.train_dataloader
    if hasattr(loader, "state_dict"):
        return True
    if not any(hasattr(part, "start") for part in (loader, getattr(loader, "batch_sampler", None))):
        return False
    if isinstance(handed_loader(trainer), pl.LightningModule | pl.LightningDataModule):  # they make it anew
        return True
    leads = any(isinstance(one, NoiseScheduler) for one in trainer.callbacks)  # type: ignore[attr-defined]
    return leads and handed_sampler(trainer) is not None


def _never_saves(trainer: pl.Trainer) -> str:
    """Says why the training may have no moment between two epochs, as far as it is known before the first step."""
    batches, steps = trainer.num_training_batches, trainer.max_steps
    if math.isinf(batches):
        return "the loader has no length, and perhaps no end"
    if trainer.max_epochs == 1:
        return "there is one epoch alone"
    if 0 < steps * trainer.accumulate_grad_batches <= batches:
        return f"max_steps={steps} are over within the first"
    return ""


class ExactResume(pl.Callback):
    """Keeps one checkpoint of the training at `path`, replaced as a whole now and then.

        resume = ExactResume("run/training.ckpt")
        trainer = pl.Trainer(max_epochs=50, callbacks=[NoiseScheduler(schedule), resume])
        trainer.fit(module, data, **resume.where())

    With a loader that can begin in mid-epoch (this project's data modules; `PlannedBatchSampler` with
    `start=resumed_at(trainer)`, or handed to `fit` beside a NoiseScheduler; one with `state_dict`) it saves within
    epochs too, with any other between two of them alone; where there may be no such moment it warns at the start.
    A checkpoint is written after a batch that neither an epoch's end nor a validation follows, or between two epochs,
    after all other callbacks: from there Lightning resumes right also where epochs differ in length. The rest is up to
    what draws at random: data modules and networks of this project are functions of (seed, step), so nothing else has
    to be saved. On a GPU arithmetic repeats itself only under `Trainer(deterministic=True)`.

    Under `fast_dev_run` nothing is written, as by Lightning's own: a trial leaves a real training's checkpoint alone.

    It is none of Lightning's checkpoint callbacks: `ckpt_path="best"` and `trainer.checkpoint_callback` mean a
    ModelCheckpoint, by default the Trainer's own. Wherever it stands in `callbacks`, it comes last.

    Args:
        path: of the checkpoint. Its folder is made when a fit begins.
        every: seconds between two of them; 0 saves at every step.
        share: longer, where they would take more than this share of the time.
        leave_on: a signal after which it saves at the next step and raises `Preempted` out of `fit`. With several
            ranks any one's will do, and it takes up to 16 steps.

    Attributes:
        seconds: that the training took so far, over all its parts. spent: seconds of them on checkpoints.
    """

    def __init__(
        self, path: str | Path, *, every: float = 15.0, share: float = SHARE, leave_on: signal.Signals | None = None
    ) -> None:
        if every < 0:
            raise ValueError(f"every: {every!r} seconds is negative")
        if not 0 < share <= 1:
            raise ValueError(f"share: {share!r} is not in (0, 1]")
        self.path, self.every, self.share, self.leave_on = check_file(path), every, share, leave_on
        self._evaluates = False
        self._leave = False
        self.spent = 0.0
        self._before = self._cost = 0.0  # seconds of earlier parts; of the last checkpoint
        self._started = self._saved = time.monotonic()
        self._first = -1  # batch before those of this part
        self._between = False  # two epochs: where a checkpoint is being written, or was
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
        if not trusted and (unknown := _unknown(self.path)):
            raise ValueError(f"resume: {str(self.path)!r} holds an object of {unknown}, and {TRUST}")
        return {"ckpt_path": self.path, "weights_only": not trusted}

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._evaluates = stage != "fit"  # then a checkpoint's state is not this training's
        if self._evaluates:
            return
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            make_folder_of(self.path)
        self._leave = self._between = False
        self.spent = self._before = self._cost = 0.0
        _arrange(trainer, [self._front, *_others(trainer, self, self._front), self])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        _arrange(trainer, _others(trainer, self._front))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._saved = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first = trainer.fit_loop.total_batch_idx
        if self._between:  # which Lightning takes for the middle of an epoch if there is a `max_steps`
            put_right(trainer)
            self._between = False
        if trainer.world_size > 1:  # a file system may show the checkpoint to one node and not yet to another
            step = torch.tensor([trainer.global_step, -trainer.global_step], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(step, torch.distributed.ReduceOp.MAX)
            if step[0] != -step[1]:
                raise RuntimeError(f"ranks begin at steps {-int(step[1])} to {int(step[0])}: not all read {self.path}")
        if _begins_anywhere(trainer):  # which Lightning does not know
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        elif not trainer.fast_dev_run and (why := _never_saves(trainer)):  # type: ignore[attr-defined]
            rank_zero_warn(
                f"ExactResume: with this loader it saves between two epochs alone, and {why}: nothing may be saved at "
                "all; give the loader a state_dict, or set limit_train_batches to shorter epochs"
            )
        if self.leave_on is not None:  # in place of Lightning's handler, which would end the training without saving
            signal.signal(self.leave_on, self._asked)  # and which puts back what was there before

    def _asked(self, number: int, frame: Any) -> None:
        self._leave = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not _begins_anywhere(trainer):
            return
        if not trainer.is_last_batch and not self._validates(trainer, batch_idx):
            self._save_if_due(trainer, agreed=self.every == 0 or trainer.global_step % AGREE == 0)

    def _validates(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Tells whether a validation may follow a batch; Lightning resumes behind it, as if it had been made."""
        if not trainer.enable_validation or trainer.val_check_batch is None:  # None: by the clock
            return False
        made = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        return bool((made + 1) % trainer.val_check_batch == 0)

    def between_epochs(self, trainer: pl.Trainer) -> None:
        """Saves, if it is time to, before anything of a new epoch has happened."""
        if trainer.fit_loop.total_batch_idx == self._first:  # it is where this part has begun
            return
        progress = trainer.fit_loop.epoch_progress
        counts = (progress.total, progress.current)
        for count in counts:  # Lightning counts the new epoch already: that of the checkpoint is the one that is over
            count.ready -= 1
        self._between = True
        try:
            self._save_if_due(trainer, agreed=True)
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
        if trainer.world_size > 1:
            if not agreed:
                return
            wishes = torch.tensor([leave, due], dtype=torch.int, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)
            leave, due = (bool(wish) for wish in wishes.tolist())
        if leave or due:
            self.save(trainer)
        if leave:
            saved = "nothing is saved under fast_dev_run, left" if trainer.fast_dev_run else "saved"  # type: ignore[attr-defined]
            raise Preempted(f"{saved} after step {trainer.global_step}")

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the checkpoint; every rank comes here. A reader sees the one before or this one, never a part."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        start = time.monotonic()
        usual, trainer.strategy.checkpoint_io = trainer.strategy.checkpoint_io, _Replacing()
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            trainer.strategy.checkpoint_io = usual
        self._saved = time.monotonic()
        if self._cost == 0 and trainer.is_global_zero and (unknown := _unknown(self.path)):
            rank_zero_warn(f"ExactResume: the checkpoint holds an object of {unknown}, and {TRUST}")
        self._cost = self._saved - start
        self.spent += self._cost

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "spent": self.spent, "between": self._between}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._evaluates:
            return
        self._before, self.spent = state_dict["seconds"], state_dict["spent"]
        self._between = state_dict.get("between", False)
