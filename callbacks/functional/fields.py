"""Numbers that are given: refused in one line, by the field's name and the value, when they are given."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch


def positive_whole(name: str, value: Any) -> None:
    """Raises ValueError unless it is a whole number of at least 1; 1e3 is none, which no tensor can be cut to."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: {value!r} is not a positive whole number")


def positive(name: str, value: Any) -> None:
    """Raises ValueError unless it is a finite number above 0."""
    if not isinstance(value, Real) or not (math.isfinite(value) and float(value) > 0):
        raise ValueError(f"{name}: {value!r} is not a positive number")


def exact_type(name: str, value: torch.dtype | None) -> None:
    """Raises ValueError unless it is float32, float64 or None: the error bounds do not hold in fewer bits."""
    if value not in (None, torch.float32, torch.float64):
        raise ValueError(f"{name}: {value!r} is none of torch.float32, torch.float64, None")
