"""What every measurement is given: parameters, batches of examples, and the ranks they are spread over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from three_factors.callbacks.functional.nests import mapped

T = TypeVar("T")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


class FailedElsewhere(RuntimeError):
    """Another rank could not do its part of what all were at."""


def distributed() -> bool:
    """Tells whether there are ranks to agree with."""
    return not _alone.get() and torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Makes this rank talk to no other within it, as if it were the only one."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def of_all_ranks(own: Any) -> list[Any]:
    """Returns what each rank gave, in the order of the ranks; every rank must come here."""
    if not distributed():
        return [own]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return parts


def gathered(own: Callable[[], T]) -> list[T]:
    """Returns `own()` of each rank. Where it fails on one rank it fails on all, instead of leaving the others waiting.

    Raises:
        FailedElsewhere: on the ranks whose own part went well; the error itself on the others.
    """
    if not distributed():
        return [own()]
    error: Exception | None = None
    value: T | None = None
    try:
        value = own()
    except Exception as failed:
        error = failed
    parts = of_all_ranks((value, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, said) in enumerate(parts):
        if said is not None:
            raise FailedElsewhere(f"rank {rank}: {said}")
    return [part for part, _ in parts]


def summed(own: Callable[[], Tensor], like: Tensor) -> Tensor:
    """Returns `own()`, of the shape, type and device of `like`, summed over ranks; it fails on all ranks or on none.

    The failure travels with the values: an exchange of its own would cost as much as theirs.
    """
    if not distributed():
        return own()
    error: Exception | None = None
    values = torch.zeros_like(like)
    try:
        values = own()
    except Exception as failed:
        error = failed
    message = torch.cat([values.reshape(-1), values.new_full((1,), float(error is not None))])
    torch.distributed.all_reduce(message)
    if error is not None:
        raise error
    if message[-1] != 0:
        raise FailedElsewhere("another rank could not compute its part")
    return message[:-1].view(like.shape)


def as_batches(batches: Iterable[Any]) -> Iterable[Any]:
    """Returns the batches; one pair of tensors, or one dictionary of them, is one batch."""
    pair = isinstance(batches, tuple | list) and len(batches) == 2 and all(isinstance(b, Tensor) for b in batches)
    named = isinstance(batches, Mapping) and all(isinstance(b, Tensor) for b in batches.values())
    return [batches] if pair or named else batches


def chosen_parameters(module: nn.Module, params: Iterable[str | nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """Returns the parameters to measure, by name: those of `params`, or all that require grad.

    Raises:
        ValueError: one that is not there, not finite, not initialised, complex, sparse or sharded.
    """
    named = dict(module.named_parameters())
    for name, p in named.items():
        if is_lazy(p):
            raise ValueError(f"parameters: {name!r} is not initialised yet; let a batch through the module first")
        if not (p.is_meta or finite(p)):
            raise ValueError(f"parameters: {name!r} holds values that are not finite")
    if params is None:
        chosen = {name: p for name, p in named.items() if p.requires_grad}
        if not chosen:
            raise ValueError("params: no parameter of the module requires grad")
    else:
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
    for name, p in chosen.items():
        kind = _unlike(p)
        if kind is not None:
            raise ValueError(f"params: {name!r} is {kind}; name the real, dense, floating ones with params=")
    return chosen


def finite(tensor: Tensor) -> bool:
    """Tells whether all values are; of a sparse tensor those that are there."""
    there = tensor.detach()
    return bool(torch.isfinite(there if there.layout is torch.strided else there.coalesce().values()).all())


def _unlike(parameter: Tensor) -> str | None:
    """Returns what keeps a parameter from being measured, if anything does."""
    if parameter.is_meta or hasattr(parameter, "device_mesh"):
        return "sharded or without storage"
    if parameter.layout is not torch.strided:
        return f"sparse ({parameter.layout})"
    if parameter.is_complex():
        return f"complex ({parameter.dtype})"
    return None if parameter.is_floating_point() else f"of whole numbers ({parameter.dtype})"


def detached(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the same storage without its graph.

    Floating values in `dtype`, complex ones in the type that goes with it.
    """
    return _in(tensor.clone() if tensor.is_inference() else tensor.detach(), dtype)


def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a copy without its graph; the types as in `detached`."""
    return _in(tensor.detach().clone(), dtype)


def _in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def stored(batch: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Returns a batch on the device; inference tensors become ordinary ones; floating values in `dtype` if given."""

    def there(tensor: Tensor) -> Tensor:
        moved = tensor.to(device)
        moved = moved.clone() if moved.is_inference() else moved.detach()
        return moved.to(dtype) if dtype is not None and moved.is_floating_point() else moved

    return mapped(batch, there)


def scalar(loss: Any) -> Tensor:
    """Returns a loss as a tensor without dimensions; of a dictionary, as training steps return, its "loss".

    Raises:
        ValueError: it is not a single number.
    """
    if isinstance(loss, Mapping):
        loss = loss.get("loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss: returned {what}, not a scalar")
    return loss.reshape(())


def flat(pieces: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Returns all of them in one vector; zeros for those that are None."""
    dense = (None if p is None else p.to_dense() if p.layout is not torch.strided else p for p in pieces)
    return torch.cat([(torch.zeros_like(x) if p is None else p).reshape(-1) for p, x in zip(dense, like)])


def parted(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns a vector (q,) in pieces of these shapes and, where they are dense, of these memory formats.

    What a convolution gives has channels last if its weights have: in second derivatives a piece stands for them, and
    with another format every layer that follows would read one tensor in two orders.
    """
    pieces = [piece.view(x.shape) for piece, x in zip(vector.split([x.numel() for x in like]), like)]
    return [p if x.is_contiguous() else torch.empty_like(x).copy_(p) for p, x in zip(pieces, like)]
