"""A batch sampler in a DataLoader that was handed to `trainer.fit`, where Lightning asks nobody for another loader."""

from __future__ import annotations

from typing import Any

from datamodules.batches import PlannedBatchSampler, holder_of_plan


def handed_loader(trainer: Any) -> Any:
    """What was handed to `fit` in place of a module or data module, alone in a list or dictionary or by itself."""
    # Lightning has no public name for it before it has taken its length, which is too late.
    source = trainer.fit_loop._data_source.instance
    while isinstance(source, dict | list | tuple) and len(source) == 1:
        source = next(iter(source.values() if isinstance(source, dict) else source))
    return source


def handed_sampler(trainer: Any) -> PlannedBatchSampler | None:
    holder = holder_of_plan(handed_loader(trainer))
    return holder if isinstance(holder, PlannedBatchSampler) else None


def go_on(sampler: PlannedBatchSampler, checkpoint: dict[str, Any], *, by_steps: bool) -> None:
    """Places the sampler where Lightning will go on from a checkpoint, before it is asked for a batch.

    `by_steps`: under `max_steps`, where Lightning begins a resumed training within an epoch even if that had ended.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
    within = any(epoch[count] != epoch["processed"] for count in ("ready", "started"))
    sampler.set_epoch(epoch["completed"])
    sampler.start = batch["processed"] if within or by_steps else 0
