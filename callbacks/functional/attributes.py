"""What a forward pass leaves in a module besides its result: attributes, counters, caches, lists that hooks fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1_000_000  # values of a tensor that is copied so that it can be put back


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Gives every part of the module the attributes back that it had: the same objects, with what was in them.

    Covers what is assigned in a forward pass or a hook (the weight that `weight_norm` computes, caches, counters), the
    entries of lists, dictionaries and sets, and tensors that are written to and are no buffers (buffers and parameters
    are exchanged for copies by whoever measures).

    Raises:
        ValueError: a forward pass wrote to a tensor attribute of more than `SMALL` values, which is not copied.
    """
    kept = [(part, _Attributes(part)) for part in _parts(module)]
    try:
        yield
    finally:
        written = [name for part, attributes in kept for name in attributes.put_back(part)]
    if written:
        raise ValueError(f"module: its forward pass writes to {written[0]!r}, a large tensor; make it a buffer")


def _parts(module: nn.Module) -> list[nn.Module]:
    """Returns the module and all in it, each once. Told apart as objects: a metric's hash is that of all its states."""
    found: dict[int, nn.Module] = {}
    left = [module]
    while left:
        part = left.pop()
        if id(part) not in found:
            found[id(part)] = part
            left += [child for child in part._modules.values() if child is not None]
    return list(found.values())


class _Attributes:
    """The attributes of one module, and what was in the containers and tensors among them."""

    def __init__(self, part: nn.Module) -> None:
        self.own = dict(part.__dict__)
        self.contents = [(value, value.copy()) for value in self.own.values() if type(value) in (dict, set)]
        self.lists = [(value, list(value)) for value in self.own.values() if type(value) is list]
        self.tensors: list[tuple[str, Tensor, int, Tensor | None]] = []
        for name, value in self.own.items():
            if isinstance(value, Tensor) and not value.is_inference():
                copy = value.detach().clone() if value.numel() <= SMALL else None
                self.tensors.append((name, value, value._version, copy))

    def put_back(self, part: nn.Module) -> list[str]:
        """Restores them; returns the names of tensors that it could not."""
        there = part.__dict__
        for name in [name for name in there if name not in self.own]:
            del there[name]
        for name, value in self.own.items():
            if there.get(name, self) is not value:
                there[name] = value
        for container, copy in self.contents:
            if not _same(container, copy):
                container.clear()
                container.update(copy)
        for entries, before in self.lists:
            if len(entries) != len(before) or any(a is not b for a, b in zip(entries, before)):
                entries[:] = before
        lost = []
        for name, tensor, version, before_it in self.tensors:
            if tensor._version == version:
                continue
            if before_it is None:
                lost.append(name)
            else:
                with torch.no_grad():
                    tensor.copy_(before_it)
        return lost


def _same(container: Any, copy: Any) -> bool:
    if isinstance(container, set):
        return container == copy
    return len(container) == len(copy) and all(key in container and container[key] is copy[key] for key in copy)


@contextmanager
def logging_nothing(module: nn.Module) -> Iterator[None]:
    """Makes `self.log` and `self.log_dict` of a module do nothing within it: a measurement may run its steps."""
    talking = [part for part in module.modules() if hasattr(part, "training_step") and hasattr(part, "log_dict")]
    for part in talking:
        part.__dict__ |= {"log": _silent, "log_dict": _silent}
    try:
        yield
    finally:
        for part in talking:
            for name in ("log", "log_dict"):
                part.__dict__.pop(name, None)


def _silent(*_: Any, **__: Any) -> None:
    """Logs nothing."""
