"""What every measurement is given: parameters, batches of examples, and the ranks they are spread over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


def distributed() -> bool:
    """Whether there are ranks to agree with."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def of_all_ranks(own: Any) -> list[Any]:
    """What each rank gave, in the order of the ranks; every rank must come here."""
    if not distributed():
        return [own]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return parts


def as_batches(batches: Iterable[Any]) -> Iterable[Any]:
    """The batches; one pair of tensors is one batch."""
    one = isinstance(batches, tuple | list) and len(batches) == 2 and all(isinstance(b, Tensor) for b in batches)
    return [batches] if one else batches


def chosen_parameters(module: nn.Module, params: Iterable[str | nn.Parameter] | None) -> dict[str, nn.Parameter]:
    named = dict(module.named_parameters())
    for name, p in named.items():
        if not torch.isfinite(p.detach()).all():
            raise ValueError(f"parameters: {name!r} holds values that are not finite")
    if params is None:
        chosen = {name: p for name, p in named.items() if p.requires_grad}
        if not chosen:
            raise ValueError("params: no parameter of the module requires grad")
        return chosen
    names = {id(p): name for name, p in named.items()}
    chosen = {}
    for entry in params:
        known = entry if isinstance(entry, str) else names.get(id(entry))
        if known is None or known not in named:
            shown = repr(entry) if isinstance(entry, str) else f"a tensor of shape {tuple(entry.shape)}"
            raise ValueError(f"params: {shown} is no parameter of the module")
        chosen[known] = named[known]
    if not chosen:
        raise ValueError("params: empty; name at least one parameter")
    return chosen


def detached(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same storage without its graph; floating values in `dtype`."""
    free = tensor.clone() if tensor.is_inference() else tensor.detach()
    return free.to(dtype) if free.is_floating_point() else free


def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    copy = tensor.detach().clone()
    return copy.to(dtype) if copy.is_floating_point() else copy


def stored(batch: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """A batch on the device; inference tensors become ordinary ones; floating values in `dtype` if given."""
    if isinstance(batch, Tensor):
        there = batch.to(device)
        there = there.clone() if there.is_inference() else there.detach()
        return there.to(dtype) if dtype is not None and there.is_floating_point() else there
    if isinstance(batch, dict):
        return {key: stored(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [stored(value, device, dtype) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)  # named tuples keep their names
    return batch


def size_of(batch: Any) -> int:
    """Examples in a batch: the length of the first tensor in it."""
    if isinstance(batch, Tensor):
        return len(batch)
    for part in batch.values() if isinstance(batch, dict) else batch if isinstance(batch, tuple | list) else ():
        if isinstance(part, Tensor | dict | tuple | list):
            return size_of(part)
    raise ValueError(f"batches: no tensor in a {type(batch).__name__}; give `sizes` to from_batch_loss")


def scalar(loss: Any) -> Tensor:
    """A loss as a tensor without dimensions. Raises ValueError if it is not a single number."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss: returned {what}, not a scalar")
    return loss.reshape(())


def flat(pieces: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(x) if p is None else p).reshape(-1) for p, x in zip(pieces, like)])
