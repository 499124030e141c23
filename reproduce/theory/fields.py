"""Checks at the border of the theory's dataclasses: equal values have equal keys, a bad one is named."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any

import numpy as np


def as_floats(owner: Any, *names: str) -> None:
    """Makes these fields of a frozen dataclass, numbers or nested tuples of them, finite floats: 1 is stored as 1.0."""
    for name in names:
        value = getattr(owner, name)
        try:
            found = _floats(value)
        except ValueError:
            raise ValueError(f"{name}: {value!r} is not finite") from None
        object.__setattr__(owner, name, found)


def _floats(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_floats(item) for item in value)
    if not (isinstance(value, Real) and math.isfinite(value)):
        raise ValueError
    return float(value)


def as_text(value: Any) -> str:
    """Returns a dataclass's repr, from which simulations have their keys, without what its fields' absence means.

    A field that came later than its class has `metadata={"absent": …}`, as in `stored.encode`.
    """
    if is_dataclass(value) and not isinstance(value, type):
        there = {field.name: getattr(value, field.name) for field in fields(value)}
        absent = {field.name: field.metadata["absent"] for field in fields(value) if "absent" in field.metadata}
        written = {name: item for name, item in there.items() if name not in absent or item != absent[name]}
        return f"{type(value).__qualname__}({', '.join(f'{name}={as_text(item)}' for name, item in written.items())})"
    if isinstance(value, tuple):
        return f"({', '.join(map(as_text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def check_positive_definite(name: str, matrix: tuple[tuple[float, ...], ...]) -> None:
    """Returns a square matrix by rows, symmetric and positive definite."""
    regular = len({len(matrix), *map(len, matrix)}) == 1
    m = np.array(matrix) if regular else np.zeros((1, 1))
    if not np.allclose(m, m.T) or np.linalg.eigvalsh(m).min() <= 0:
        raise ValueError(f"{name}: {matrix!r} is not symmetric and positive definite")
