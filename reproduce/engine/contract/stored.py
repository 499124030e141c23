"""Frozen dataclasses that are kept: their fields checked, their JSON canonical, their hash the same everywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from three_factors.reproduce.engine.contract.names import class_of, name_of


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
    """Returns 16 hexadecimal digits of a dataclass's canonical JSON."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()[:16]


def dumps(value: Any, indent: int | None = None) -> str:
    """Returns the canonical JSON of a dataclass: equal values give equal text, in every process and Python version."""
    return json.dumps(encode(value), sort_keys=True, indent=indent, allow_nan=False)


def loads(text: str) -> Any:
    """Returns the dataclass that `dumps` wrote. Raises ValueError if the text is not one."""
    return decode(json.loads(text))


def encode(value: Any, annotation: str = "") -> Any:
    """Returns JSON data for a dataclass; numbers in fields that are annotated as floats are written as floats.

    A field that came later than its class declares what its absence means, `field(default=…, metadata={"absent": …})`,
    and is left out where it has that value: so the keys of what is there stay. The default may change, that may not.
    """
    if is_dataclass(value) and not isinstance(value, type):
        items = {"type": name_of(type(value))}
        for field in fields(value):
            written = encode(getattr(value, field.name), str(field.type))
            if "absent" not in field.metadata or written != encode(field.metadata["absent"], str(field.type)):
                items[field.name] = written
        return items
    if isinstance(value, tuple | list):
        return [encode(item, annotation) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return float(value) if "float" in annotation else value
    raise ValueError(f"{value!r} cannot be stored in a spec; use a frozen dataclass that is registered (`register`)")


def decode(value: Any) -> Any:
    """Returns what `encode` wrote. Raises ValueError for anything else; nothing that it names is imported or called."""
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    try:
        kind = class_of(value["type"])
        absent = {field.name: field.metadata["absent"] for field in fields(kind) if "absent" in field.metadata}
        written = absent | {key: decode(item) for key, item in value.items() if key != "type"}
        if lacking := [field.name for field in fields(kind) if field.name not in written]:
            raise ValueError(f"spec: a {kind.__name__} without {lacking[0]!r}")
        return kind(**written)
    except (KeyError, TypeError) as error:
        raise ValueError(f"spec: cannot be read ({error})") from error
