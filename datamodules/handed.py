"""A batch sampler in a DataLoader that was handed to `trainer.fit`, where Lightning asks nobody for another loader."""

from __future__ import annotations

from typing import Any

from datamodules.batches import PlannedBatchSampler, PlannedLoader


def handed_loader(trainer: Any) -> Any:
    """What was handed to `fit` in place of a module or data module, alone in a list or dictionary or by itself."""
    # Lightning has no public name for it before it has taken its length, which is too late.
    source = trainer.fit_loop._data_source.instance
    while isinstance(source, dict | list | tuple) and len(source) == 1:
        source = next(iter(source.values() if isinstance(source, dict) else source))
    return source


def handed_sampler(trainer: Any) -> PlannedBatchSampler | None:
    sampler = getattr(handed_loader(trainer), "batch_sampler", None)
    return sampler if isinstance(sampler, PlannedBatchSampler) else None


def handed_is_planned(trainer: Any) -> bool:
    """Whether a loader with an epoch plan was handed to `fit`."""
    return isinstance(handed_loader(trainer), PlannedLoader) or handed_sampler(trainer) is not None


def go_on(sampler: PlannedBatchSampler, checkpoint: dict[str, Any], *, by_steps: bool) -> None:
    """Places the sampler where Lightning will go on from a checkpoint, before it is asked for a batch.

    `by_steps`: under `max_steps`, where Lightning begins a resumed training within an epoch even if that had ended.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
    within = any(epoch[count] != epoch["processed"] for count in ("ready", "started"))
    sampler.set_epoch(epoch["completed"])
    sampler.start = batch["processed"] if within or by_steps else 0
