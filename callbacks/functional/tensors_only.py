"""A `pickle_module` for torch.load that builds tensors, and nothing else of what a file asks for.

torch's own `weights_only=True` refuses a file for one object of a class that it does not know, such as
hyperparameters in a Namespace; here such objects are passed over.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor


class Unknown:
    """Stands for an object of a class that is not looked up: takes whatever it is given, and does nothing."""

    origin: ClassVar[str] = "object"


def _unknown(origin: str) -> type[Unknown]:
    return type("Unknown", (Unknown,), {"origin": origin})


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Returns a tensor without what else may be written of it: hooks, attributes of a backend."""
    tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)
    bits = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    tensor = tensor.conj() if bits.get("conj") is True else tensor
    return torch._neg_view(tensor) if bits.get("neg") is True else tensor


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    return torch._utils._rebuild_tensor_v3(storage, offset, size, stride, False, OrderedDict(), rest[2])


def _parameter(data: Any, *rest: Any) -> Any:
    return data  # is its tensor


def _subclass(build: Any, kind: Any, args: Any, state: Any) -> Any:
    return _call(build, args)  # a tensor of another class is a tensor


# What may be called, and the names that it is given. All else is unknown.
_CALLED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
}
_NAMED: dict[str, Any] = {
    f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
} | {"torch.storage.UntypedStorage": torch.UntypedStorage}


def _call(function: Any, args: Any) -> Any:
    if any(function is known for known in _CALLED.values()):
        return function(*args)
    return function() if isinstance(function, type) and issubclass(function, Unknown) else Unknown()


_Python: Any = pickle._Unpickler  # that of C lets no operation be replaced


class Unpickler(_Python):
    """Python's own unpickler with every operation replaced that looks up, calls or changes an object.

    Overriding `find_class` alone would not do: the state of an object is set by code of that object's choosing.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Python.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        known = _CALLED.get(origin, _NAMED.get(origin))
        return _unknown(origin) if known is None else known

    def get_extension(self, code: int) -> None:
        self.append(Unknown)

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], args)

    def _new_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _old_style(self) -> None:
        kind, *args = self.pop_mark()
        self.append(_call(kind, args))

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode() for _ in range(2))
        self.append(_call(self.find_class(module, name), self.pop_mark()))

    def _build(self) -> None:
        self.stack.pop()

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def _add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is set:
            self.stack[-1].update(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) in (dict, OrderedDict):
            self.stack[-1].update(zip(items[::2], items[1::2]))

    def _persistent(self) -> None:
        self._store(self.stack.pop())

    def _persistent_text(self) -> None:
        self._store(self.readline()[:-1].decode())

    def _store(self, identity: Any) -> None:
        # "module": a whole module in an old file, of which torch would compare the source with that of the class
        stored = isinstance(identity, tuple) and identity[0] in ("storage", b"storage")
        self.append(self.persistent_load(identity) if stored else Unknown())

    for operation, method in (
        (pickle.REDUCE, _reduce),
        (pickle.NEWOBJ, _reduce),
        (pickle.NEWOBJ_EX, _new_with_keywords),
        (pickle.OBJ, _old_style),
        (pickle.INST, _inst),
        (pickle.BUILD, _build),
        (pickle.APPEND, _append),
        (pickle.APPENDS, _appends),
        (pickle.ADDITEMS, _add_items),
        (pickle.SETITEM, _set_item),
        (pickle.SETITEMS, _set_items),
        (pickle.BINPERSID, _persistent),
        (pickle.PERSID, _persistent_text),
    ):
        dispatch[operation[0]] = method


def load(file: Any, **options: Any) -> Any:
    """Returns what `pickle.load` is, for torch.load's `pickle_module`."""
    return Unpickler(file, **options).load()
