"""The memory that eigenvalues, trace and norm take, said beforehand."""

from __future__ import annotations

from bisect import bisect_right

from three_factors.callbacks.functional.lanczos import FIRST
from three_factors.callbacks.functional.restarts import fewest_vectors

# Vectors of q values for a product of HessianOperator: its result, and the derivative's pieces where they are added up
# (three where one layer has most weights) and put in a row. What a step needs beside it is less: two vectors, or a
# random one in float64.
_PRODUCT = 5


def needed(q: int, itemsize: int, *, k: int = 1, max_vectors: int = 64, deflated: int = 24, block: int = 4) -> int:
    """Returns the bytes that k eigenvalues, trace and norm of a (q, q) operator take at most, from one shared run.

    They come on top of the operator's own: weights, data, and the graph of a batch's gradient. The three may be
    computed in any order, and their results be held.

    Args:
        itemsize: bytes of a value, 4 for float32.
        k: eigenvalues; 0 for trace and norm alone.
        max_vectors: of the run. One with None needs what twice as many vectors as its products do.
        deflated: the largest of the calls.
        block: likewise; 0 for eigenvalues alone.
    """
    basis = min(q, max_vectors if k else min(max_vectors, max(deflated, FIRST)))
    return (basis + 1 + k + 2 * block + _PRODUCT) * q * itemsize  # the run's next vector; probes and their products


def fitting_vectors(q: int, itemsize: int, max_memory: int, *, k: int = 1, deflated: int = 24, block: int = 4) -> int:
    """Returns the largest `max_vectors` for which `needed` is at most `max_memory` bytes; 0 if there is none.

    More than q are never used, so q is the largest answer (or 3 (k + 1), the fewest for k eigenvalues).
    """
    fewest = fewest_vectors(max(k, 1))
    candidates = range(fewest, max(q, fewest) + 1)
    fitting = bisect_right(
        candidates, max_memory, key=lambda n: needed(q, itemsize, k=k, max_vectors=n, deflated=deflated, block=block)
    )
    return candidates[fitting - 1] if fitting else 0
