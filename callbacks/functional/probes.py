"""Two ways of taking a loss's gradient: in the module's outputs, and in its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from three_factors.callbacks.functional.attributes import attributes_kept
from three_factors.callbacks.functional.called import Called
from three_factors.callbacks.functional.nests import rebuilt, tensors_of
from three_factors.callbacks.functional.objective import Objective


@dataclass(frozen=True)
class Probe:
    """A way of taking the loss's gradient.

    Attributes:
        item: what it is taken of, from a batch; items can be joined.
        slope: an item's loss, and its gradient in parts.
        by_example: every part has a row an example, those of both batches one after the other in the whole's.
    """

    item: Callable[[Any], Any]
    slope: Callable[[Any], tuple[float, list[Tensor]]]
    by_example: bool


def probes(called: Called, objective: Objective, leaves: Callable[[], dict[str, Tensor]]) -> list[Probe]:
    """Returns probes in the module's outputs (one forward pass, exact where examples cancel too) and its parameters.

    Args:
        leaves: the parameters to differentiate in, by name, as leaves of a graph.
    """

    def outputs(batch: Any) -> Any:
        with torch.no_grad(), attributes_kept(called.module):  # what a pass caches is no part of the next one
            return called(objective.output, batch, called.tensors() | leaves()), objective.target(batch)

    def in_outputs(item: Any) -> tuple[float, list[Tensor]]:
        output, target = item
        free = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors_of(output)]
        given = rebuilt(output, free)
        loss = called(lambda _, given: objective.of_output(given, (None, target)), given, called.tensors())
        return _differentiated(loss, [t for t in free if t.requires_grad])

    def in_parameters(batch: Any) -> tuple[float, list[Tensor]]:
        own = leaves()
        with attributes_kept(called.module):
            return _differentiated(called(objective, batch, called.tensors() | own), list(own.values()))

    by_outputs = [] if objective.loss is None else [Probe(outputs, in_outputs, True)]
    return [*by_outputs, Probe(lambda batch: batch, in_parameters, False)]


def _differentiated(loss: Tensor, wanted: list[Tensor]) -> tuple[float, list[Tensor]]:
    value = float(loss.detach())
    if not loss.requires_grad:
        return value, [torch.zeros_like(x) for x in wanted]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    slopes = [torch.zeros_like(x) if g is None else g.detach() for x, g in zip(wanted, found)]
    return value, [torch.view_as_real(g) if g.is_complex() else g for g in slopes]
