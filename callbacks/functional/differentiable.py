"""Which layer cannot be differentiated twice (torch's own message names an operation deep inside), or is so wrongly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from three_factors.callbacks.functional.called import Called
from three_factors.callbacks.functional.nests import mapped, rebuilt, tensors_of
from three_factors.callbacks.functional.objective import Objective

NAMED = re.compile(r"derivative for '?([\w:]+)'? is not implemented|trying to differentiate twice")
ONCE = "trying to differentiate twice"
AGREES = 1e-3  # relative difference of a product from that of gradients


class NoDerivative(ValueError):
    """A layer that torch cannot differentiate as often as was asked."""


def ways_out(objective: Objective) -> str:
    """Returns what does without second derivatives of a module."""
    if objective.loss is None:
        return "measures=('finite_difference',) of HessianMonitor does without"
    return (
        "GGNOperator, or curvature='gauss_newton' of the monitor, does without where there is a derivative in forward "
        "mode, measures=('finite_difference',) always"
    )


def named_layer(called: Called, objective: Objective, batch: Any, error: Exception) -> str | None:
    """Returns what fails to have a second derivative: the loss, or the first layer in the order of the forward pass.

    The operation of torch's message where neither does (what a module calls in its own forward); None if the error is
    of another kind.

    Raises:
        NoDerivative: it is the loss, without which there is no Gauss-Newton matrix either.
    """
    said = NAMED.search(str(error))
    if said is None:
        return None
    if objective.loss is not None and _fails(lambda: _loss_twice(called, objective, batch)):
        raise NoDerivative(
            f"loss: it has no second derivative in torch ({said.group(1) or ONCE}); measures=('finite_difference',) of "
            "HessianMonitor does without"
        ) from error
    for name, layer, inputs in _calls(called, objective, batch):
        if _fails(partial(_twice, layer, inputs)):
            return f"module: {name!r} ({type(layer).__name__})"
    return f"module: an operation of it ({said.group(1) or 'one that is marked once_differentiable'})"


def check_differentiable(gradients: list[Tensor]) -> None:
    """Raises RuntimeError for a gradient that leads through a function marked once_differentiable.

    `autograd.grad` passes it by in silence where it is on no way to the inputs, and that part of the second derivative
    would be missing.
    """
    if any(node.name() == "torch::autograd::Error" for node in _nodes(gradients)):
        raise RuntimeError(ONCE)


def own_functions(loss: Tensor) -> list[str]:
    """Returns the names of the `torch.autograd.Function`s in a loss's graph, but for those that say `of_every_order`.

    What torch makes of their `backward` is right only if that computes everything from its saved inputs: what `forward`
    has computed and saved counts as a constant.
    """
    made = [type(n) for n in _nodes([loss]) if isinstance(n, BackwardCFunction)]
    doubtful = (of for of in made if not getattr(getattr(of, "_forward_cls", None), "of_every_order", False))
    return sorted({of.__name__.removesuffix("Backward") for of in doubtful})


def check_exchanged(results: Iterable[Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Raises ValueError where a graph ends in one of the module's own parameters, for which others were exchanged.

    What reads them from a list, or a closure, has their values and no derivative in the tensors that stand for them.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    for node in _nodes(results):
        name = names.get(id(getattr(node, "variable", None)))
        if name is not None:
            raise ValueError(f"loss: reads {name!r} past the module (a list, a closure); take it from `module`")


def check_against_differences(
    product: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    weights: Tensor,
    names: Sequence[str],
    way_out: str,
) -> None:
    """Raises NoDerivative if H v is not what differences of the gradient give, along three directions, in float64.

    Steps are so short that hardly a ReLU's kink lies within them; one direction that agrees is enough.

    Args:
        product: H v for v (q,).
        gradient: ∇L at θ + shift (q,).
        weights: θ.
        names: of the functions to blame.
    """
    step, apart = 1e-7 * max(float(weights.norm()), 1.0), math.inf
    for seed in range(3):
        direction = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed), dtype=weights.dtype)
        direction = (direction / direction.norm()).to(weights.device)
        curved = product(direction)
        moved = (gradient(step * direction) - gradient(-step * direction)) / (2 * step)
        size = max(float(curved.norm()), float(moved.norm()))
        rounding = 1e-12 * float(gradient(torch.zeros_like(weights)).norm()) / step
        apart = min(apart, float((curved - moved).norm()) / size if size > rounding else 0.0)
        if apart < AGREES:
            return
    raise NoDerivative(
        f"module: the second derivative of {', '.join(names)} (torch.autograd.Function) is not that of its gradient: "
        f"H v is {100 * apart:.2g} % off; {way_out}"
    )


def _nodes(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """Returns every node of the graph behind some tensors, once."""
    seen, left = set(), [t.grad_fn for t in tensors if t.grad_fn is not None]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            yield node
            left += [following for following, _ in node.next_functions if following is not None]


def _calls(called: Called, objective: Objective, batch: Any) -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    """Returns name, layer and inputs of every call of a layer without layers inside."""
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


def _fails(differentiate: Callable[[], None]) -> bool:
    """Tells whether it fails for want of a derivative."""
    try:
        differentiate()
    except (RuntimeError, NotImplementedError) as error:
        return NAMED.search(str(error)) is not None
    return False


def _loss_twice(called: Called, objective: Objective, batch: Any) -> None:
    """Differentiates the loss twice, in the module's outputs."""
    with torch.no_grad():
        output = called(objective.output, batch, called.tensors())
    free = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors_of(output)]
    loss = called(lambda _, given: objective.of_output(given, batch), rebuilt(output, free), called.tensors())
    wanted = [t for t in free if t.requires_grad]
    first = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
    again = [g for g in first if g is not None and g.requires_grad]
    check_differentiable(again)
    if again:
        torch.autograd.grad(_squares(again), wanted, allow_unused=True)


def _squares(tensors: list[Tensor]) -> Tensor:
    return torch.stack([(t * t).sum() for t in tensors]).sum()
