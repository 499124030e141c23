"""Batches as people make them: tensors in tuples, lists, dictionaries and dataclasses, cut and joined by examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

Pick = Callable[[Any], Any]  # takes some of the entries of a tensor or of a list


class Unjoinable(ValueError):
    """Batches that do not make a longer one, such as those padded to lengths of their own."""


def mapped(batch: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """Returns the same structure with f of every tensor in it."""
    return apply_to_collection(batch, Tensor, f)


def tensors_of(batch: Any) -> list[Tensor]:
    """Returns all tensors of a batch, in the order of its structure."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(batch, note)
    return found


def rebuilt(batch: Any, tensors: Sequence[Tensor]) -> Any:
    """Returns the structure of `batch` around other tensors, given in the order of `tensors_of`."""
    replacing: Iterator[Tensor] = iter(tensors)
    return mapped(batch, lambda _: next(replacing))


def size_of(batch: Any) -> int:
    """Counts the examples of a batch: the length of the first tensor that has dimensions; or of a list in it that holds
    a dictionary an example, as detection has its targets."""
    length = listed(batch)
    if length is not None:
        return length
    for tensor in tensors_of(batch):
        if tensor.dim():
            return len(tensor)
    raise ValueError(f"batches: no tensor with examples in a {type(batch).__name__}; give `weights` (or `sizes`)")


def storable(batches: Sequence[Any], limit: int) -> list[Any] | None:
    """Copies in the CPU's memory for a checkpoint that is read without running code.

    None if they take more than `limit` bytes, or are of other classes than tuples, lists, dictionaries and tensors.
    """
    if not all(map(_simple, batches)) or sum(t.nbytes for b in batches for t in tensors_of(b)) > limit:
        return None
    return [mapped(batch, lambda t: t.detach().cpu().clone()) for batch in batches]


def _simple(part: Any) -> bool:
    if type(part) is dict:
        return all(map(_simple, part.values()))
    if type(part) in (list, tuple):
        return all(map(_simple, part))
    return type(part) is Tensor or part is None or isinstance(part, str | int | float)


def part_sizes(batch: Any) -> tuple[int, ...]:
    """Returns the examples in each part of a batch that is made of batches, of several loaders; () for any other."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    nests = [value for value in values if isinstance(value, Mapping | list | tuple)]
    parts = [nest for nest in nests if any(tensor.dim() for tensor in tensors_of(nest))]
    if len(parts) < 2 or listed(batch) is not None:
        return ()
    return tuple(size_of(part) for part in parts)


def listed(batch: Any) -> int | None:
    """Returns the length of the lists in a batch if they hold the examples; None for any other batch.

    One of them has a dictionary an example, or has tensors that are not as long as it is, beside a tensor that is; and
    all parts of the batch are equally long.
    """
    inside = list(batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ())
    tensors = [part for part in inside if isinstance(part, Tensor) and part.dim()]
    lists = [part for part in inside if isinstance(part, list | tuple) and part]
    lengths = {len(part) for part in (*tensors, *lists)}
    told = any(all(isinstance(entry, Mapping) for entry in part) for part in lists) or (
        tensors and any(_longer_or_shorter(part) for part in lists)
    )
    return lengths.pop() if told and len(lengths) == 1 else None


def _longer_or_shorter(part: Sequence[Any]) -> bool:
    """Tells whether a list holds tensors, of which some are not as long as it is."""
    tensors = all(isinstance(entry, Tensor) for entry in part)
    return tensors and any(not entry.dim() or len(entry) != len(part) for entry in part)


def cut(batch: Any, start: int, stop: int) -> Any:
    """Returns examples `start` to `stop` of a batch: of every tensor, and every list, that has one entry an example."""
    return _picked(batch, lambda entries: entries[start:stop])


def placed(batch: Any, examples: Sequence[int]) -> Any:
    """Returns a batch of these examples of a batch, in this order; one may be there several times."""

    def pick(entries: Any) -> Any:
        return entries[list(examples)] if isinstance(entries, Tensor) else [entries[i] for i in examples]

    return _picked(batch, pick)


def _picked(batch: Any, pick: Pick) -> Any:
    size = size_of(batch)
    return _cut(batch, pick, size) if listed(batch) is None else _cut_lists(batch, pick, size)


def _cut_lists(batch: Any, pick: Pick, size: int) -> Any:
    """Cuts a batch in which lists hold the examples: a tensor in them is an example's own."""

    def part(value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == size:
            return type(value)(pick(value))
        return _cut(value, pick, size) if isinstance(value, Tensor) else value

    if isinstance(batch, Mapping):
        return _like(batch, {key: part(value) for key, value in batch.items()})
    values = [part(value) for value in batch]
    return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)


def _cut(part: Any, pick: Pick, size: int) -> Any:
    if isinstance(part, Tensor):
        return pick(part) if part.dim() and len(part) == size else part
    if isinstance(part, Mapping):
        return _like(part, {key: _cut(value, pick, size) for key, value in part.items()})
    if isinstance(part, list | tuple):
        if _entries(part, size):
            return type(part)(pick(part))
        values = [_cut(value, pick, size) for value in part]
        return type(part)(*values) if hasattr(part, "_fields") else type(part)(values)
    if tensors_of(part):  # a dataclass
        return apply_to_collection(part, Tensor, lambda tensor: _cut(tensor, pick, size))
    return part


def joined(batches: Sequence[Any]) -> Any:
    """Returns one batch of all the examples. Raises Unjoinable where their parts do not fit together."""
    sizes = [size_of(batch) for batch in batches]
    if len(batches) == 1:
        return batches[0]
    return _joined(batches, sizes) if listed(batches[0]) is None else _joined_lists(batches, sizes)


def _joined_lists(batches: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Joins batches as in `_cut_lists`."""
    first = batches[0]
    if any(type(batch) is not type(first) or len(batch) != len(first) for batch in batches):
        raise Unjoinable("batches: lists of examples in different structures")

    def part(values: Sequence[Any]) -> Any:
        if all(isinstance(value, list | tuple) and len(value) == n for value, n in zip(values, sizes)):
            return type(values[0])(entry for value in values for entry in value)
        return _joined(values, sizes)

    if isinstance(first, Mapping):
        if any(batch.keys() != first.keys() for batch in batches):
            raise Unjoinable("batches: dictionaries of different keys")
        return _like(first, {key: part([batch[key] for batch in batches]) for key in first})
    values = [part(entries) for entries in zip(*batches)]
    return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)


def _joined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise Unjoinable(f"batches: parts of the types {sorted({type(part).__name__ for part in parts})}")
    if isinstance(first, Tensor):
        return _joined_tensors(parts, sizes)
    if isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):
            raise Unjoinable("batches: dictionaries of different keys")
        return _like(first, {key: _joined([part[key] for part in parts], sizes) for key in first})
    if isinstance(first, list | tuple):
        if all(_entries(part, size) for part, size in zip(parts, sizes)):
            return type(first)(entry for part in parts for entry in part)
        if any(len(part) != len(first) for part in parts):
            raise Unjoinable("batches: sequences of different lengths")
        values = [_joined(list(entries), sizes) for entries in zip(*parts)]
        return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)
    if tensors_of(first):
        together = zip(*(tensors_of(part) for part in parts))
        return rebuilt(first, [_joined_tensors(tensors, sizes) for tensors in together])
    if any(part != first for part in parts):
        raise Unjoinable(f"batches: {first!r} and other values beside one another")
    return first


def _joined_tensors(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    first = tensors[0]
    if all(t.dim() and len(t) == size for t, size in zip(tensors, sizes)):
        if any(t.shape[1:] != first.shape[1:] for t in tensors):
            raise Unjoinable(f"batches: examples of shapes {sorted({tuple(t.shape[1:]) for t in tensors})}")
        return torch.cat(list(tensors))
    if all(t.shape == first.shape and torch.equal(t, first) for t in tensors):
        return first
    raise Unjoinable("batches: tensors that are neither one entry an example nor equal")


def _entries(part: Sequence[Any], size: int) -> bool:
    """Tells whether a list holds one thing an example (names, say), and not one tensor for all of them."""
    return len(part) == size and not any(isinstance(entry, Tensor | Mapping | list | tuple) for entry in part)


def _like(mapping: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    if type(mapping) is dict:
        return values
    try:
        return type(mapping)(values)  # type: ignore[call-arg]
    except TypeError:
        return values
