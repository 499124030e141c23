"""Loaders with an epoch plan: where the plan is, and samplers in a DataLoader that was handed to `trainer.fit`."""

from __future__ import annotations

from typing import Any, Protocol

BUILD = "build it in train_dataloader with epoch=trainer.current_epoch, start=resumed_at(trainer)"


class Sampler(Protocol):
    """What is asked of a `PlannedBatchSampler`."""

    plan: Any
    start: int

    def set_epoch(self, epoch: int) -> None: ...


def holder_of_plan(loader: object) -> Any:
    """What holds the plan that a loader follows: a loader of ours, or a DataLoader's sampler; None without a plan."""
    for holder in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if hasattr(getattr(holder, "plan", None), "edges"):
            return holder
    return None


def handed_loader(trainer: Any) -> Any:
    """What was handed to `fit` in place of a module or data module, alone in a list or dictionary or by itself."""
    # Lightning has no public name for it before it has taken its length, which is too late.
    source = trainer.fit_loop._data_source.instance
    while isinstance(source, dict | list | tuple) and len(source) == 1:
        source = next(iter(source.values() if isinstance(source, dict) else source))
    return source


def handed_sampler(trainer: Any) -> Sampler | None:
    """The planned sampler in it, which Lightning will not ask anybody to make anew."""
    holder = holder_of_plan(handed_loader(trainer))
    return holder if hasattr(holder, "set_epoch") else None


def go_on(sampler: Sampler, checkpoint: dict[str, Any], *, by_steps: bool) -> None:
    """Places the sampler where Lightning will go on from a checkpoint, before it is asked for a batch.

    `by_steps`: under `max_steps`, where Lightning begins a resumed training within an epoch even if that had ended.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
    within = any(epoch[count] != epoch["processed"] for count in ("ready", "started"))
    sampler.set_epoch(epoch["completed"])
    sampler.start = batch["processed"] if within or by_steps else 0
