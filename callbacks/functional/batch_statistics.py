"""The statistics of batch norm layers at other weights: pooled over the data of all ranks, or each batch's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from three_factors.callbacks.functional.inputs import distributed


def batch_norms(module: nn.Module) -> dict[str, Any]:
    """Returns the layers that have running statistics, by name; those without use each batch's own in every mode."""
    kind = nn.modules.batchnorm._BatchNorm
    return {n: m for n, m in module.named_modules() if isinstance(m, kind) and m.running_mean is not None}


@contextmanager
def own_statistics(
    layers: list[Any], *, ghosts: bool = False, seen: list[list[Tensor]] | None = None
) -> Iterator[None]:
    """Makes layers normalise by their input's own mean and variance within it, which overwrites their running ones.

    To be called with copies of the buffers in place of the layers' own. The layers stay in eval mode: in train mode
    one may wait for the other ranks, which may have fewer batches. For each layer `seen` gets a (3, features) table of
    float64 a batch: number of values, mean, variance (over that number).
    """
    before = [layer.__dict__.get("forward") for layer in layers]  # mostly none: the method is the class's
    for i, layer in enumerate(layers):
        layer.forward = _by_its_own(layer, ghosts, None if seen is None else seen[i])
    try:
        yield
    finally:
        for layer, forward in zip(layers, before):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _by_its_own(layer: Any, ghosts: bool, seen: list[Tensor] | None) -> Any:
    forward, size = layer.forward, getattr(layer, "ghost_batch_size", None) if ghosts else None

    def of_group(group: Tensor) -> Tensor:
        dims = [d for d in range(group.dim()) if d != 1]
        values = group.numel() // group.shape[1]
        if values == 1:
            warnings.warn("batches: 1 example alone on its rank; batch norm makes it the layer's bias", stacklevel=2)
        precise = group.to(torch.promote_types(group.dtype, torch.float32))
        variance, mean = torch.var_mean(precise, dims, correction=0)
        if seen is not None:
            seen.append(torch.stack([torch.full_like(mean, values), mean, variance]).double())
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        return forward(group)

    def by_its_own(input: Tensor) -> Tensor:
        if size is None:
            return of_group(input)
        return torch.cat([of_group(group) for group in input.tensor_split(max(1, len(input) // size))])

    return by_its_own


def re_estimated(layers: dict[str, Any], passes: Callable[[], None]) -> dict[str, Tensor]:
    """Returns the layers' statistics over all ranks' data, by the names of the buffers; see `interpolate`.

    Args:
        passes: lets this rank's data through the module, with copies of the buffers in place of its own.
    """
    seen: list[list[Tensor]] = [[] for _ in layers]
    with own_statistics(list(layers.values()), seen=seen):
        passes()
    found: dict[str, Tensor] = {}
    for (name, layer), tables in zip(layers.items(), seen):
        pooled = _pooled(tables, layer.running_mean)
        if pooled is not None:
            found |= {f"{name}.running_mean": pooled[0], f"{name}.running_var": pooled[1]}
    return found


def _pooled(tables: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Returns mean and variance over all ranks' tables of (number, mean, variance); None if no rank has one."""
    nothing = torch.zeros(3, len(like), dtype=torch.float64, device=like.device)
    number, mean, variance = torch.stack([nothing, *tables]).unbind(1)
    total, weighted = _over_ranks(torch.stack([number, number * mean]).sum(1))
    if not bool(total.any()):
        return None
    centre = weighted / total
    # In two steps: E[x²] - E[x]² itself would cancel where the mean is far from 0.
    return centre, _over_ranks((number * (variance + (mean - centre) ** 2)).sum(0)) / total


def _over_ranks(own: Tensor) -> Tensor:
    if distributed():
        torch.distributed.all_reduce(own)
    return own
