"""Frozen dataclasses that are kept: their fields checked, their JSON canonical, their hash the same everywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Typed:
    """A dataclass whose fields have the types that they are annotated with; ValueError names the one that has not."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in _hints(kind).items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise ValueError(f"{name}: {value!r} is not {_words(hint)}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return True  # told with its choices by the class itself
    if origin is tuple:
        inner = arguments[0]
        return isinstance(value, tuple) and all(_fits(item, inner) for item in value)
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(argument) for argument in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a tuple of {_words(get_args(hint)[0]).removeprefix('a ')}s"
    known = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}
    return known.get(hint, f"a {hint.__name__}")


def short_hash(value: Any) -> str:
    """16 hexadecimal digits of a dataclass's canonical JSON."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()[:16]


def dumps(value: Any, indent: int | None = None) -> str:
    """Canonical JSON of a dataclass: equal values give equal text, in every process and Python version."""
    return json.dumps(encode(value), sort_keys=True, indent=indent, allow_nan=False)


def loads(text: str) -> Any:
    """The dataclass that `dumps` wrote. Raises ValueError if the text is not one."""
    return decode(json.loads(text))


def encode(value: Any, annotation: str = "") -> Any:
    """JSON data for a dataclass; numbers in fields that are annotated as floats are written as floats."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if import_module(kind.__module__).__dict__.get(kind.__qualname__) is not kind:
            raise ValueError(f"{kind.__qualname__}: only a dataclass at the top of a module can be stored")
        items = {f.name: encode(getattr(value, f.name), str(f.type)) for f in fields(value)}
        return {"type": f"{kind.__module__}:{kind.__qualname__}"} | items
    if isinstance(value, tuple | list):
        return [encode(item, annotation) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return float(value) if "float" in annotation else value
    raise ValueError(f"{value!r} cannot be stored in a spec; use a frozen dataclass with an importable name")


def decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    try:
        module, _, name = value["type"].partition(":")
        kind = getattr(import_module(module), name)
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise TypeError(f"{name} is not a dataclass")
        return kind(**{key: decode(item) for key, item in value.items() if key != "type"})
    except (KeyError, AttributeError, TypeError, ImportError) as error:
        raise ValueError(f"spec: cannot be read ({error})") from error
