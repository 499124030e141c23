"""Where within an epoch a training may be saved, and whether it goes on there."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl

from three_factors.callbacks.handed import check_began, handed_loader, handed_sampler
from three_factors.callbacks.noise_schedule import NoiseScheduler


def _beginning(loader: Any) -> Any:
    """Returns what can begin within an epoch and says where it `began`: a loader, or its batch sampler; or None."""
    for part in (loader, getattr(loader, "batch_sampler", None)):
        if hasattr(part, "start") and hasattr(part, "began"):
            return part
    return None


def _has_state(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def begins_anywhere(trainer: pl.Trainer) -> bool:
    """Tells whether a resumed epoch gets the batches that it lacks.

    Another loader would begin with the epoch's first.
    """
    loader: Any = trainer.train_dataloader
    if _has_state(loader):
        return True
    if _beginning(loader) is None:
        return False
    if isinstance(handed_loader(trainer), pl.LightningModule | pl.LightningDataModule):  # they make it anew
        return True
    leads = any(isinstance(one, NoiseScheduler) for one in trainer.callbacks)  # type: ignore[attr-defined]
    return leads and handed_sampler(trainer) is not None


def never_saves(trainer: pl.Trainer) -> str:
    """Says why the training may have no moment between two epochs, as far as it is known before the first step."""
    batches, steps = trainer.num_training_batches, trainer.max_steps
    if math.isinf(batches):
        return "the loader has no length, and perhaps no end"
    if trainer.max_epochs == 1:
        return "there is one epoch alone"
    if 0 < steps * trainer.accumulate_grad_batches <= batches:
        return f"max_steps={steps} are over within the first"
    return ""


def validates_after(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Tells whether a validation may follow a batch; Lightning resumes behind it, as if it had been made."""
    if not trainer.enable_validation or trainer.val_check_batch is None:  # None: by the clock
        return False
    made = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return bool((made + 1) % trainer.val_check_batch == 0)


def check_goes_on(trainer: pl.Trainer, batch_idx: int) -> None:
    """Raises ValueError if the loader has begun elsewhere than at this batch, the first after a resume."""
    loader: Any = trainer.train_dataloader
    if not _has_state(loader):
        check_began(_beginning(loader), batch_idx)
