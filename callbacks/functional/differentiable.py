"""Which layer it is that cannot be differentiated twice: torch's own message names an operation deep inside."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.functional.called import Called
from callbacks.functional.nests import mapped, rebuilt, tensors_of
from callbacks.functional.objective import Objective

NAMED = re.compile(r"derivative for '?([\w:]+)'? is not implemented|trying to differentiate twice")
ONCE = "trying to differentiate twice"


class NoDerivative(ValueError):
    """A layer that torch cannot differentiate as often as was asked."""


def named_layer(called: Called, objective: Objective, batch: Any, error: Exception) -> str | None:
    """The first layer, in the order of the forward pass, whose second derivative fails, with its class.

    The operation of torch's message where no single layer does (what a module calls in its own forward); None if the
    error is of another kind.
    """
    said = NAMED.search(str(error))
    if said is None:
        return None
    for name, layer, inputs in _calls(called, objective, batch):
        try:
            _twice(layer, inputs)
        except (RuntimeError, NotImplementedError) as failed:
            if NAMED.search(str(failed)):
                return f"{name!r} ({type(layer).__name__})"
    return f"an operation of it ({said.group(1) or 'one that is marked once_differentiable'})"


def check_differentiable(gradients: list[Tensor]) -> None:
    """Raises RuntimeError for a gradient that leads through a function marked once_differentiable.

    `autograd.grad` passes it by in silence where it is on no way to the inputs, and that part of the second derivative
    would be missing.
    """
    seen, left = set(), [g.grad_fn for g in gradients if g.grad_fn is not None]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise RuntimeError(ONCE)
        left += [following for following, _ in node.next_functions if following is not None]


def _calls(called: Called, objective: Objective, batch: Any) -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    """Name, layer and inputs of every call of a layer without layers inside."""
    found: list[tuple[str, nn.Module, tuple[Any, ...]]] = []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.append((name, layer, mapped(inputs, lambda x: x.detach().clone())))

        return hook

    leaves = [(name, layer) for name, layer in called.module.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in leaves]
    try:
        with torch.no_grad():
            called(objective, batch, called.tensors())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _twice(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Differentiates a layer's output twice, in its inputs and parameters."""
    alone = Called(layer, next((t.dtype for t in tensors_of(inputs) if t.is_floating_point()), torch.float32))
    tensors = {name: t.requires_grad_(t.is_floating_point()) for name, t in alone.tensors(own=True).items()}
    free = [t.clone().requires_grad_() if t.is_floating_point() else t for t in tensors_of(inputs)]
    output = alone(lambda module, given: module(*given), rebuilt(inputs, free), tensors)
    results = [t for t in tensors_of(output) if t.requires_grad]
    wanted = [t for t in (*free, *tensors.values()) if t.requires_grad]
    if not results or not wanted:
        return
    first = torch.autograd.grad(_squares(results), wanted, create_graph=True, allow_unused=True)
    again = [g for g in first if g is not None and g.requires_grad]
    check_differentiable(again)
    if again:
        torch.autograd.grad(_squares(again), wanted, allow_unused=True)


def _squares(tensors: list[Tensor]) -> Tensor:
    return torch.stack([(t * t).sum() for t in tensors]).sum()
