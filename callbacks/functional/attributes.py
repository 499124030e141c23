"""What a forward pass leaves in a module besides its result: attributes, counters, caches, lists that hooks fill."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALL = 1_000_000  # values of a tensor attribute that is copied so that it can be put back
INSIDE, FEW = 100_000, 100  # values of such a tensor in a container, and tensors in that container: data have more

_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)
_FOLLOWED = (*_CONTAINERS, *_GENERATORS, Tensor, nn.Module)


@contextmanager
def attributes_kept(module: nn.Module, *, whole: bool = False) -> Iterator[None]:
    """Gives every part of the module the attributes back that it had: the same objects, with what was in them.

    Covers what is assigned in a forward pass or a hook (the weight that `weight_norm` computes, caches, counters); the
    entries of lists, dictionaries, sets and deques, however they are nested; modules in these (metrics in a plain
    dictionary, say; a teacher in a list) with their tensors; random generators; and tensors that are written to and are
    no buffers (those, and parameters, are exchanged by whoever measures). Not what other objects hold: a Trainer, a
    data set.

    Args:
        whole: go through containers of more than `FEW` entries too: once a measurement, not at every pass, since a
            data set may be among them, of a million lists. Else these get their own entries back, and no more.

    Raises:
        ValueError: a forward pass wrote to a tensor that is not copied: an attribute of more than `SMALL` values, or
            one in a container, of more than `INSIDE` values or among more than `FEW`.
    """
    kept = _Kept(module, whole)
    try:
        yield
    finally:
        written = kept.put_back()
    if written:
        raise ValueError(
            f"module: its forward pass writes to {written[0]!r}, a large tensor or one of many; make it a buffer"
        )


class _Kept:
    """What a module and all in it hold: attributes, what is in the containers, tensors and generators among them."""

    def __init__(self, module: nn.Module, whole: bool) -> None:
        self._whole = whole
        self._parts: list[tuple[nn.Module, dict[str, Any]]] = []
        self._empty: list[Any] = []  # containers, as most of a module's are
        self._mappings: list[tuple[Any, list[Any], list[Any]]] = []
        self._sequences: list[tuple[Any, list[Any]]] = []
        self._sets: list[tuple[Any, set[Any]]] = []
        self._tensors: list[tuple[Tensor, int | None, Tensor | None]] = []  # with versions, or to be compared
        self._many: list[tuple[list[Tensor], list[int]]] = []  # tensors that are not copied, and their versions
        self._generators: list[Callable[[], Any]] = []
        # By identity: a metric's hash is that of all its states. All that is here is held by the lists above.
        self._seen: set[int] = set()
        own = _registered(module)
        self._seen.update(map(id, own))
        for part in own:  # what is exchanged for copies is not written to
            self._seen.update(map(id, part._parameters.values()), map(id, part._buffers.values()))
        self._look([value for part in own for value in self._part(part)])

    # -- looking

    def _part(self, part: nn.Module) -> list[Any]:
        """Notes a module's attributes; returns those that may hold more."""
        own = dict(part.__dict__)
        self._parts.append((part, own))
        followed = [value for value, kind in zip(own.values(), map(type, own.values())) if _followed(kind)]
        for value in followed:
            if isinstance(value, Tensor):
                self._tensor(value, SMALL)
        return [value for value in followed if not isinstance(value, Tensor)]

    def _hidden(self, part: nn.Module) -> list[Any]:
        """Notes a module that is no submodule: nobody exchanges its tensors for copies.

        Neither batch norm nor a write through `.data` raises a version.
        """
        for tensor in self._new([t for t in (*part._parameters.values(), *part._buffers.values()) if t is not None]):
            self._tensor(tensor, SMALL, by_value=True)
        return self._part(part)

    def _look(self, values: list[Any]) -> None:
        """Goes through attributes, level by level and kind by kind, what is in long containers apart."""
        left = [(values, True)]
        while left:
            found, few = left.pop()
            kinds: dict[type, list[Any]] = {kind: [] for kind in set(map(type, found)) if _followed(kind)}
            if not kinds:
                continue
            for value in found:
                if (same := kinds.get(type(value))) is not None:
                    same.append(value)
            below: list[Any] = []
            for kind, same in kinds.items():
                if issubclass(kind, Tensor):
                    self._inside(same, few)
                else:
                    below += self._entries(kind, same)
            short = [entries for entries in below if len(entries) <= FEW]
            left.append((list(chain.from_iterable(short)), few))
            if self._whole and len(short) < len(below):
                left.append((list(chain.from_iterable(entries for entries in below if len(entries) > FEW)), False))

    def _new(self, values: list[Any]) -> list[Any]:
        new = {id(value): value for value in values if id(value) not in self._seen}
        self._seen.update(new)
        return list(new.values())

    def _entries(self, kind: type, values: list[Any]) -> list[Any]:
        """Notes what these objects of a kind hold; returns what is to be looked through."""
        if issubclass(kind, tuple | frozenset):  # cannot be changed, and are gone through wherever they are
            return values
        new = self._new(values)
        if issubclass(kind, nn.Module):
            return list(map(self._hidden, new))
        if issubclass(kind, _GENERATORS):
            self._generators += map(_rewinding, new)
            return []
        full = [value for value in new if value]
        if len(full) < len(new):
            self._empty += [value for value in new if not value]
        if issubclass(kind, dict):
            mappings = [(value, list(value.keys()), list(value.values())) for value in full]
            self._mappings += mappings
            return [entries for _, _, entries in mappings]
        if issubclass(kind, set):
            self._sets += [(value, set(value)) for value in full]
        else:
            self._sequences += [(value, list(value)) for value in full]
        return full

    def _inside(self, tensors: list[Tensor], few: bool) -> None:
        """Notes tensors of containers."""
        if few:
            for tensor in self._new(tensors):
                self._tensor(tensor, INSIDE)
        else:
            there = [tensor for tensor in tensors if not tensor.is_inference()]
            self._many.append((there, list(map(_version, there))))

    def _tensor(self, tensor: Tensor, largest: int, *, by_value: bool = False) -> None:
        if not tensor.is_inference():
            copy = tensor.detach().clone() if tensor.numel() <= largest else None
            self._tensors.append((tensor, None if by_value and copy is not None else tensor._version, copy))

    # -- putting back

    def put_back(self) -> list[str]:
        """Restores all of it; returns the names of the attributes with tensors that it could not restore."""
        for part, own in self._parts:
            _restore_attributes(part.__dict__, own)
        for container in self._empty:
            if container:
                container.clear()
        for mapping, keys, entries in self._mappings:
            if not (_same(mapping.keys(), keys) and _same(mapping.values(), entries)):
                kind: Any = OrderedDict if isinstance(mapping, OrderedDict) else dict  # not a Counter's, which adds
                kind.clear(mapping)
                kind.update(mapping, zip(keys, entries))
        for sequence, entries in self._sequences:
            if not _same(sequence, entries):
                sequence.clear()
                sequence.extend(entries)
        for container, members in self._sets:
            if container != members:
                container.clear()
                container.update(members)
        for rewind in self._generators:
            rewind()
        lost: list[Tensor] = []
        for tensor, version, copy in self._tensors:
            if copy is None:
                lost += [tensor] if tensor._version != version else []
            elif not torch.equal(tensor, copy) if version is None else tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(copy)
        for tensors, versions in self._many:
            lost += [tensor for tensor, version in zip(tensors, versions) if tensor._version != version]
        return [self._name(tensor) for tensor in lost[:1]]

    def _name(self, tensor: Tensor) -> str:
        """Returns the attribute that holds a tensor."""
        for _, own in self._parts:
            for name, value in own.items():
                if _holds(value, tensor, set()):
                    return name
        return "?"


_version = attrgetter("_version")


def _registered(module: nn.Module) -> list[nn.Module]:
    """Returns the module and its submodules, each once."""
    found: dict[int, nn.Module] = {}
    left = [module]
    while left:
        part = left.pop()
        if id(part) not in found:
            found[id(part)] = part
            left += [child for child in part._modules.values() if child is not None]
    return list(found.values())


@lru_cache(maxsize=1024)
def _followed(kind: type) -> bool:
    """Tells whether objects of this class are kept as they are, or hold what is."""
    return issubclass(kind, _FOLLOWED) and not issubclass(kind, random.SystemRandom)  # which has no state


def _rewinding(generator: Any) -> Callable[[], Any]:
    """Returns what gives a random generator the state back that it has now."""
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state(legacy=False))
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return partial(setattr, bits, "state", bits.state)


def _holds(value: Any, tensor: Tensor, seen: set[int]) -> bool:
    """Tells whether a tensor is this one, or in this container."""
    if value is tensor or not isinstance(value, _CONTAINERS) or id(value) in seen:
        return value is tensor
    seen.add(id(value))
    return any(_holds(entry, tensor, seen) for entry in (value.values() if isinstance(value, dict) else value))


def _restore_attributes(there: dict[str, Any], own: dict[str, Any]) -> None:
    if len(there) == len(own) and all(map(is_, there.values(), own.values())) and all(map(is_, there, own)):
        return
    for name in [name for name in there if name not in own]:
        del there[name]
    for name, value in own.items():
        if there.get(name, there) is not value:
            there[name] = value


def _same(entries: Any, before: list[Any]) -> bool:
    return len(entries) == len(before) and all(map(is_, entries, before))
