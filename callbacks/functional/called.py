"""Calls of a module with other tensors in place of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from three_factors.callbacks.functional.checkpointing import without_checkpointing
from three_factors.callbacks.functional.equivalents import Equivalents
from three_factors.callbacks.functional.inputs import copied, detached


class _Carrier(nn.Module):
    """f(module, …) as a module's forward, so that functional_call can exchange the module's tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, f: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return f(self.module, *arguments)


class Called:
    """A module that is called with other tensors in place of its own; its hooks run, and it stays as it is.

    Args:
        dtype: of the arithmetic: what is floating (or complex, in the complex type that goes with it) is converted.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        self._carrier = _Carrier(module)
        # Where the tensors are is looked up once: walking through a module takes longer than a small one's pass.
        self._parameters, self._buffers = _places(module, "_parameters"), _places(module, "_buffers")
        self._tied = any(len(set(map(id, of))) < len(of) for of in (_every(module, True), _every(module, False)))

    def tensors(self, *, own: bool = False) -> dict[str, Tensor]:
        """Returns the module's parameters without their graphs (`own`: copies of them), and copies of its buffers and
        of parameters that require no gradient, by name: a step may write to these (a teacher's moving average).
        """
        found = {}
        for name, held, last in self._parameters:
            of = copied if own or not held[last].requires_grad else detached
            found[name] = of(held[last], self.dtype)
        return found | self.buffers()

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers, by name."""
        return {name: copied(held[last], self.dtype) for name, held, last in self._buffers}

    def __call__(self, f: Callable[..., Any], argument: Any, tensors: dict[str, Tensor]) -> Any:
        """Returns f(module, argument) with these tensors, by name."""
        named = {f"module.{name}": tensor for name, tensor in tensors.items()}
        with Equivalents(), without_checkpointing():
            return functional_call(self._carrier, named, (f, (argument,)), tie_weights=self._tied)


def _places(module: nn.Module, kind: str) -> list[tuple[str, dict[str, Tensor], str]]:
    """Returns name, the dictionary that holds it, and its key there, of every parameter or buffer.

    Of tied ones the first.
    """
    named = module.named_parameters() if kind == "_parameters" else module.named_buffers()
    parts, found = dict(module.named_modules(remove_duplicate=False)), []
    for name, _ in named:
        owner, _, last = name.rpartition(".")
        found.append((name, getattr(parts[owner], kind), last))
    return found


def _every(module: nn.Module, parameters: bool) -> list[Tensor]:
    """Returns all of them, tied ones as often as they are there."""
    named = module.named_parameters if parameters else module.named_buffers
    return [tensor for _, tensor in named(remove_duplicate=False)]
