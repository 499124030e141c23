"""ProgressFile: how far a training is, for whoever watches it from another process."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from three_factors.callbacks.written_file import check_file, check_seconds, make_folder_of


class ProgressFile(pl.Callback):
    """Keeps `path` at {"fraction", "epoch", "step", "loss"} of the training, renewed at most every `interval` seconds.

    `fraction` is in [0, 1]: of `max_epochs`, right also where epochs differ in length; of `max_steps`; or of
    `max_time`: the furthest of those that are set, None if none is. In an epoch of unknown length `epoch` counts those
    that are over. `loss` is None where the training step gives none, or one that is not finite. The file is replaced,
    never rewritten, so a reader sees a whole one. Its folder is made when a fit begins. With `fast_dev_run` nothing is
    written.
    """

    def __init__(self, path: str | Path, interval: float = 0.25) -> None:
        check_seconds("interval", interval)
        self.path, self.interval = check_file(path), interval
        self._due = 0.0
        self._last: Any = None  # what the latest training step gave
        self._epoch = 0.0  # after it

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            make_folder_of(self.path)
            self._due = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if not self._writes(trainer):
            return
        self._last = outputs
        self._epoch = trainer.current_epoch + min(1.0, (batch_idx + 1) / max(1, trainer.num_training_batches))
        if now < self._due:
            return
        self._due = now + self.interval
        self._write(trainer, self._epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells what the last interval has kept back; and the number of epochs, where their length is not known."""
        if self._writes(trainer):
            unknown = math.isinf(trainer.num_training_batches)
            self._write(trainer, float(trainer.current_epoch) if unknown else self._epoch)
        self._last = None

    def _writes(self, trainer: pl.Trainer) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _write(self, trainer: pl.Trainer, epoch: float) -> None:
        outputs = self._last
        loss = float(outputs["loss"]) if isinstance(outputs, dict) and "loss" in outputs else math.nan
        row = {
            "fraction": _fraction(trainer, epoch),
            "epoch": epoch,
            "step": trainer.global_step,
            "loss": loss if math.isfinite(loss) else None,
        }
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(row))
        draft.replace(self.path)


def _fraction(trainer: pl.Trainer, epoch: float) -> float | None:
    shares = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:  # -1: without end
        shares.append(epoch / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    for timer in (one for one in trainer.callbacks if isinstance(one, Timer)):  # type: ignore[attr-defined]
        left, spent = timer.time_remaining(), timer.time_elapsed()
        if left is not None and spent + left > 0:
            shares.append(spent / (spent + left))
    return min(1.0, max(shares)) if shares else None
