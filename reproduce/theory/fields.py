"""Checks at the border of the theory's dataclasses: equal values have equal keys, a bad one is named."""

from __future__ import annotations

import math
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


def check_positive_definite(name: str, matrix: tuple[tuple[float, ...], ...]) -> None:
    """A square matrix by rows, symmetric and positive definite."""
    regular = len({len(matrix), *map(len, matrix)}) == 1
    m = np.array(matrix) if regular else np.zeros((1, 1))
    if not np.allclose(m, m.T) or np.linalg.eigvalsh(m).min() <= 0:
        raise ValueError(f"{name}: {matrix!r} is not symmetric and positive definite")
