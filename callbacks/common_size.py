"""The one size that batches of about the same size are cut to, over all ranks: C is that of batches of one size."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed

from three_factors.callbacks.functional.inputs import distributed
from three_factors.callbacks.functional.nests import cut
from three_factors.callbacks.functional.noise import FEWEST


def over_ranks(sizes: list[list[int]]) -> list[int]:
    """Returns the sizes over all ranks of what each rank has a part of."""
    return [sum(parts) for parts in zip_longest(*sizes, fillvalue=0)]


def fits(size: int, common: int) -> bool:
    """Tells whether a batch of `size` can be cut to `common` by at most a tenth."""
    return 0 < 9 * size <= 10 * common <= 10 * size


def common_size(sizes: list[int]) -> int:
    """Returns the size to measure batches of `sizes` at: the most frequent.

    If they vary, that which the most can be cut to.
    """
    if not sizes:
        return 0
    counts = Counter(sizes)
    most = max(counts, key=lambda s: (counts[s], s))
    if counts[most] >= max(FEWEST, len(sizes) / 2):
        return most
    return max(counts, key=lambda s: (sum(fits(other, s) for other in sizes), s))


def share(batches: list[Any], ranks: list[list[int]], common: int, *, whole: bool = False) -> list[Any]:
    """Returns this rank's parts of the batches of about the `common` size, cut so that over all ranks they have that
    size.

    `ranks`: the sizes of each rank's parts. The examples of a batch are in random order: a part is a smaller batch.
    With `whole` batches stay as they are.
    """
    rank = torch.distributed.get_rank() if distributed() else 0
    found = []
    for batch, *parts in zip(batches, *(sizes + [0] * len(batches) for sizes in ranks)):
        total, before = sum(parts), sum(parts[:rank])
        if fits(total, common):
            upto = before + parts[rank]
            own = upto * common // total - before * common // total
            found.append(batch if whole else cut(batch, 0, own))
    return found
