"""Loaders with an epoch plan: where the plan is, and samplers in a DataLoader that was handed to `trainer.fit`."""

from __future__ import annotations

from typing import Any, Protocol

from three_factors.datamodules.resuming import BUILD, holder_of_plan, put_right


class Sampler(Protocol):
    """Describes what is asked of a `PlannedBatchSampler`."""

    plan: Any
    start: int

    def set_epoch(self, epoch: int) -> None: ...


def check_began(holder: object, batch: int) -> None:
    """Raises ValueError if a loader says that its pass `began` elsewhere than at the training's batch."""
    began = getattr(holder, "began", batch)
    if began != batch:
        raise ValueError(f"start: the training goes on at batch {batch}, the loader began at {began}; {BUILD}")


def handed_loader(trainer: Any) -> Any:
    """Returns what was handed to `fit` in place of a data module: in a list, a dictionary or by itself."""
    # Lightning has no public name for it before it has taken its length, which is too late.
    source = trainer.fit_loop._data_source.instance
    source = getattr(source, "iterables", source)  # of a CombinedLoader
    while isinstance(source, dict | list | tuple) and len(source) == 1:
        source = next(iter(source.values() if isinstance(source, dict) else source))
    return source


def handed_sampler(trainer: Any) -> Sampler | None:
    """Returns the planned sampler in it, which Lightning will not ask anybody to make anew."""
    holder = holder_of_plan(handed_loader(trainer))
    return holder if hasattr(holder, "set_epoch") else None


def go_on(trainer: Any) -> None:
    """Puts a resumed Trainer's counts right, and a sampler that was handed to `fit` to where it goes on."""
    if not (trainer.fit_loop.is_resuming and trainer.fit_loop.epoch_loop.is_resuming):
        return  # done before
    loader, sampler = handed_loader(trainer), handed_sampler(trainer)

    def length() -> int:
        if sampler is not None:
            sampler.set_epoch(trainer.current_epoch)
        return len(loader)

    put_right(trainer, length if hasattr(type(loader), "__len__") else None)
    if sampler is None:
        return
    sampler.set_epoch(trainer.current_epoch)
    begins_itself = hasattr(loader, "load_state_dict")  # at the right batch
    batches = trainer.fit_loop.epoch_loop.batch_progress
    within = trainer.fit_loop.restarting and not begins_itself and not batches.is_last_batch
    sampler.start = batches.current.processed if within else 0
