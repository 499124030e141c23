"""Activation checkpointing is left out while measuring: it computes a part again when a gradient is taken, by when the
module has its own tensors back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint


class _Applied:
    """Stands for torch's reentrant checkpoint: the function itself, with a graph."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *arguments: Any) -> Any:
        return function(*arguments)


def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    """Stands for what torch does before and after the function where it is not reentrant."""
    yield


# `checkpoint` looks them up when it is called; torch has had the second and third by turns
_PARTS: dict[str, Any] = {
    "CheckpointFunction": _Applied,
    "_checkpoint_without_reentrant_generator": _nothing,
    "_checkpoint_without_reentrant_generator_impl": _nothing,
}


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Makes `torch.utils.checkpoint.checkpoint(f, …)` f(…) within it."""
    own = vars(torch.utils.checkpoint)
    before = {name: own[name] for name in _PARTS if name in own}
    own |= {name: _PARTS[name] for name in before}
    try:
        yield
    finally:
        own |= before
