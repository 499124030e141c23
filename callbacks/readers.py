"""Callbacks that go by what a monitor logs: refused where they would see none of it, or an old value once more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

if TYPE_CHECKING:
    from three_factors.callbacks.measurement import Monitor


def check_readers(trainer: pl.Trainer, monitor: Monitor) -> None:
    """Raises ValueError, for `on_train_start`, if something reads a value when the monitor has not just logged it.

    Lightning keeps the last value logged: what reads it in between takes it for a new one, and what reads before there
    is a first one ends the training.
    """
    for reader, name, wrong in _wrong(trainer, monitor):
        if isinstance(name, str) and monitor.logs(name):
            when = f"at the end of every {_ordinal(monitor.every_n_epochs)}training epoch"
            raise ValueError(f"{reader}: {type(monitor).__name__} logs {name!r} {when}{wrong}")


def _wrong(trainer: pl.Trainer, monitor: Monitor) -> Iterator[tuple[str, Any, str]]:
    """Says who reads a value (and which) when this monitor has none, and what to do about it."""
    every = monitor.every_n_epochs
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for reader in callbacks:
        who = type(reader).__name__, getattr(reader, "monitor", None)
        if isinstance(reader, ModelCheckpoint):
            if reader._every_n_train_steps or reader._train_time_interval is not None or reader._every_n_epochs % every:
                yield *who, f"; give it every_n_epochs={every}, or a multiple"
            elif not reader._should_save_on_train_epoch_end(trainer):
                yield *who, ", after the validation; give it save_on_train_epoch_end=True"
        elif isinstance(reader, EarlyStopping):
            if every > 1:
                yield *who, "; it looks after each, measure with every_n_epochs=1"
            elif not reader._check_on_train_epoch_end:
                yield *who, ", after the validation; give it check_on_train_epoch_end=True"
            elif callbacks.index(reader) < callbacks.index(monitor):
                yield *who, ", after it has looked; put it behind the monitor in callbacks="
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and (config.interval != "epoch" or config.frequency % every):
            who = type(config.scheduler).__name__, config.monitor
            yield *who, f'; give it "interval": "epoch" and "frequency": {every}'


def _ordinal(every: int) -> str:
    return {1: "", 2: "second ", 3: "third "}.get(every, f"{every}th ")
