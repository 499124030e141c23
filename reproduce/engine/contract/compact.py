"""Numbers in few bytes: curves in four digits, and of the losses of single steps their means."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from typing import Any

import numpy as np

from three_factors.reproduce.engine.contract.steps import DTYPE

MEANS = 2_000  # of a run's steps
DROPPED = 40  # bits of a float64's mantissa: 12 are left, of four digits or a little more
# Bytes do not hang on the ones before them, nor on their places.
FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]


def four_digits(values: np.ndarray) -> np.ndarray:
    """Rounds to 12 bits after the first, that is by at most 1.2e-4 of each value. Rounding again changes nothing."""
    return _restored(_rounded(np.asarray(values, dtype=np.float64)))


def is_rough(metric: str) -> bool:
    """Tells whether of a metric's value at a milestone four digits are kept: of errors, and of what it took."""
    return metric.endswith(("_error", "/products", "/seconds"))


def _rounded(values: np.ndarray) -> np.ndarray:
    """Returns the leading bits as integers, whose order is that of the values of one sign."""
    bits = np.where(np.isnan(values), np.nan, values).view(np.int64)
    return (bits + (1 << (DROPPED - 1))) >> DROPPED


def _restored(leading: np.ndarray) -> np.ndarray:
    return (leading.astype(np.int64) << DROPPED).view(np.float64)


def packed(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns curves, one after another, in few bytes, uint8 (n,).

    Differences without their signs' scatter (0, -1, 1, -2, 2, … are 0, 1, 2, 3, 4, …), most significant bytes first:
    what is left is noise, which nothing makes smaller than its entropy.
    """
    flat = np.concatenate([np.diff(_rounded(part), prepend=0) for part in parts])
    folded = np.where(flat < 0, -2 * flat - 1, 2 * flat).astype(">u4")
    planes = folded.view(np.uint8).reshape(-1, 4).T.tobytes()
    return np.frombuffer(lzma.compress(planes, format=lzma.FORMAT_RAW, filters=FILTERS), np.uint8)


def unpacked(stored: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    """Returns curves of these lengths, as `packed` has stored them."""
    planes = lzma.decompress(stored.tobytes(), format=lzma.FORMAT_RAW, filters=FILTERS)
    folded = np.frombuffer(planes, np.uint8).reshape(4, -1).T.copy().view(">u4").ravel().astype(np.int64)
    flat = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    return [_restored(np.cumsum(part)) for part in np.split(flat, np.cumsum(lengths)[:-1])]


def bins(count: int) -> np.ndarray:
    """Returns the edges of the parts of a run's steps of which there are means."""
    return np.linspace(0, count, min(MEANS, count) + 1).round().astype(int)


def step_means(losses: np.ndarray) -> np.ndarray:
    """Returns the means of the steps' losses, (MEANS,); NaN beyond a run of fewer steps."""
    edges = bins(len(losses))
    found = np.full(MEANS, np.nan, DTYPE)
    found[: len(edges) - 1] = np.add.reduceat(losses.astype(float), edges[:-1]) / np.diff(edges)
    return found
