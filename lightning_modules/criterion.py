"""The names of the losses that a classifier can be trained on, for what defines runs without importing torch."""

from __future__ import annotations

from typing import Literal

Criterion = Literal["cross_entropy", "square"]
