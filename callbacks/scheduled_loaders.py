"""Loaders whose batch size is the schedule's: they are led from epoch to epoch, and their batches are not added up."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from three_factors.callbacks.handed import Sampler, go_on, handed_loader, handed_sampler
from three_factors.datamodules.resuming import BUILD, holder_of_plan
from three_factors.datamodules.schedules import Schedule, as_schedule


class ScheduledLoaders:
    """Lends S to the data module of a training, and tells a batch sampler that was handed to `fit` its epoch.

    With `overfit_batches` a batch sampler stays at its first epoch.
    """

    def __init__(self) -> None:
        self._lent: tuple[Any, Any] | None = None
        self._source: Any = None

    def begin(self, trainer: pl.Trainer, batch_size: Schedule) -> None:
        """Prepares a fit.

        Raises:
            ValueError: gradients of planned batches would be added up; the data module has another batch size.
        """
        data: Any = getattr(trainer, "datamodule", None)
        ours = data is not None and hasattr(data, "batch_size") and hasattr(data, "max_batch_size")
        if ours or holder_of_plan(handed_loader(trainer)) is not None:
            refuse_accumulation(trainer)
        _refuse_among_others(trainer)
        _lead(handed_sampler(trainer), trainer.current_epoch)
        if ours:
            own: float | Schedule | None = data.batch_size
            if own is not None and as_schedule(own) != batch_size:
                raise ValueError(f"batch_size: the data module's {own!r} is not the schedule's {batch_size!r}")
            self._lent, data.batch_size = (data, own), batch_size

    def leave(self) -> None:
        """Gives the data module back as it was, for another fit with another schedule."""
        if self._lent is not None:
            self._lent[0].batch_size = self._lent[1]
            self._lent = None
        if self._source is not None:
            vars(self._source).pop("dataloader", None)
            self._source = None

    def resume(self, trainer: pl.Trainer) -> None:
        """Has a resumed training go on at its checkpoint's moment, whoever makes the loader.

        Lightning tells no callback between reading a checkpoint's counts and going by them: the first time that it
        asks for the training's loader is the moment. Data modules of ours put the counts right themselves.
        """
        source = trainer.fit_loop._data_source
        if self._lent is None:
            # of this instance alone, until the fit is over
            source.dataloader = lambda: self._asked(trainer, source)  # type: ignore[method-assign]
            self._source = source

    def _asked(self, trainer: pl.Trainer, source: Any) -> Any:
        if trainer.fit_loop.is_resuming:
            go_on(trainer)
        return type(source).dataloader(source)

    def start(self, trainer: pl.Trainer) -> None:
        """Has planned loaders made anew every epoch; others, and what they draw from, stay as they are."""
        loaders: Any = trainer.train_dataloader
        each = loaders.values() if isinstance(loaders, dict) else loaders if isinstance(loaders, list) else [loaders]
        if any(holder_of_plan(loader) is not None for loader in each):
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        # after a checkpoint of an epoch's end Lightning has begun with that epoch's loader
        sampler = handed_sampler(trainer)
        if sampler is not None and sampler.plan.epoch != trainer.current_epoch:
            sampler.set_epoch(trainer.current_epoch)

    def start_epoch(self, trainer: pl.Trainer) -> None:
        sampler = holder_of_plan(trainer.train_dataloader)
        if trainer.overfit_batches and hasattr(sampler, "set_epoch"):  # type: ignore[attr-defined]
            sampler.set_epoch(0)

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Goes on before Lightning takes the next epoch's length."""
        _lead(handed_sampler(trainer), 0 if trainer.overfit_batches else trainer.current_epoch + 1)  # type: ignore[attr-defined]


def _refuse_among_others(trainer: pl.Trainer) -> None:
    """Raises ValueError if a planned sampler is one of several loaders that were handed to `fit`: which of them is to
    be led, and which has the length of an epoch, is not known."""
    several = handed_loader(trainer)
    each = several.values() if isinstance(several, dict) else several if isinstance(several, list | tuple) else ()
    if any(holder_of_plan(one) is not None for one in each):
        raise ValueError(f"train_dataloaders: {len(each)}, one of them with an epoch plan; {BUILD}")


def _lead(sampler: Sampler | None, epoch: int) -> None:
    if sampler is not None:
        sampler.set_epoch(epoch)


def accumulating(trainer: pl.Trainer) -> GradientAccumulationScheduler | None:
    """Returns the callback that will change `accumulate_grad_batches`, if there is one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches():
            return callback
    return None


def refuse_accumulation(trainer: pl.Trainer) -> None:
    """Raises ValueError if gradients of several batches would make one step: planned batches are steps already."""
    scheduler = accumulating(trainer)
    if trainer.accumulate_grad_batches != 1:
        raise accumulated(f"{trainer.accumulate_grad_batches}")
    if scheduler is not None:
        raise accumulated(f"GradientAccumulationScheduler({scheduler.scheduling})")


def accumulated(what: str) -> ValueError:
    return ValueError(f"accumulate_grad_batches: {what} multiplies S; raise the schedule's batch_size instead")
