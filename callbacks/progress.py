"""ProgressFile: how far a training is, for whoever watches it from another process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl


class ProgressFile(pl.Callback):
    """Keeps `path` at {"fraction", "epoch", "step", "loss"} of the training, renewed at most every `interval` seconds.

    `fraction` is the epoch progress over `max_epochs`, in [0, 1], right also where epochs differ in length. The
    file is replaced, never rewritten, so a reader sees a whole one.
    """

    def __init__(self, path: str | Path, interval: float = 0.25) -> None:
        self.path, self.interval = Path(path), interval
        self._due = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now < self._due or not trainer.is_global_zero:
            return
        self._due = now + self.interval
        epoch = trainer.current_epoch + (batch_idx + 1) / max(1, int(trainer.num_training_batches))
        loss = float(outputs["loss"]) if isinstance(outputs, dict) and "loss" in outputs else None
        row = {
            "fraction": epoch / max(1, trainer.max_epochs or 1),
            "epoch": epoch,
            "step": trainer.global_step,
            "loss": loss if loss is not None and loss == loss and abs(loss) != float("inf") else None,
        }
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(row))
        draft.replace(self.path)
