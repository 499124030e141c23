"""A measurement may run a module's steps, and what these log of it is none of the training's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def logging_nothing(module: nn.Module) -> Iterator[None]:
    """Makes `self.log` and `self.log_dict` of a module, and its Trainer's loggers, do nothing within it.

    What a step writes past these (`wandb.log`, `print`, files) is written.
    """
    talking: list[Any] = [p for p in module.modules() if hasattr(p, "training_step") and hasattr(p, "log_dict")]
    with ExitStack() as stack:
        for part in talking:
            part.__dict__ |= {"log": _silent, "log_dict": _silent}
            stack.callback(_talk, part)
            trainer = getattr(part, "_trainer", None)
            if trainer is not None and not any(isinstance(logger, _Silent) for logger in trainer.loggers):
                stack.callback(setattr, trainer, "loggers", trainer.loggers)
                trainer.loggers = [_Silent(logger) for logger in trainer.loggers]
        yield


class _Silent:
    """Stands for a logger: says where it writes, and takes whatever it, or its experiment, is asked to write."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if name in ("name", "version", "save_dir", "log_dir", "root_dir"):
            return getattr(self._logger, name)
        return getattr(_Taking(), name)


class _Taking:
    """Stands for anything that is written to: each of its attributes, items and results is another."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself asks for
            raise AttributeError(name)
        return _Taking()

    def __getitem__(self, key: Any) -> Any:
        return _Taking()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keeps nothing."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Taking()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        """Ends nothing."""


def _silent(*_: Any, **__: Any) -> None:
    """Logs nothing."""


def _talk(part: nn.Module) -> None:
    for name in ("log", "log_dict"):
        part.__dict__.pop(name, None)
