"""The plan of an epoch's batches: a pure function of (seed, epoch) and the batch-size schedule. No torch here.

The plan fixes every batch of an epoch: which examples, and how many. It is computed alike on every rank and then
split, so that `batch_size` is global and k ranks see what one sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from three_factors.datamodules.schedules import (
    Inverse,
    Ratio,
    Schedule,
    as_schedule,
    known_bounds,
    round_batch_size,
    steady,
)
from three_factors.datamodules.streams import generator

Sampling = Literal["shuffle", "replacement"]


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """All batches of one epoch. Batch i holds the examples `indices[edges[i]:edges[i+1]]`.

    Attributes:
        epoch: its number, from 0.
        examples: N, the size of the training set.
        indices: int64 (examples used,), in the order of use.
        edges: int64 (batches + 1,); edges[i] examples of this epoch are consumed before batch i.
        smallest, largest: what S was clipped to.
    """

    epoch: int
    examples: int
    indices: np.ndarray
    edges: np.ndarray
    smallest: int
    largest: int

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Returns global batch sizes, int64 (batches,)."""
        return np.diff(self.edges)

    def progress(self, batch: int) -> float:
        """Returns the epoch progress t at the start of a batch: examples consumed / N."""
        return self.epoch + int(self.edges[batch]) / self.examples

    def shard(self, batch: int, rank: int, world_size: int) -> slice:
        """Returns where rank's part of a batch lies in `indices`. Parts of a batch differ by one example at most."""
        start, stop = int(self.edges[batch]), int(self.edges[batch + 1])
        part = contiguous_shard(stop - start, rank, world_size)
        return slice(start + part.start, start + part.stop)


def epoch_edges(
    examples: int,
    batch_size: Schedule,
    epoch: int,
    *,
    smallest: int = 1,
    largest: int | None = None,
    drop_last: bool = True,
) -> np.ndarray:
    """Returns the examples consumed before each batch and at the end: int64 (batches + 1,).

    S is asked for at every step's start, rounded, and clipped to [smallest, min(largest, N)]. Examples that no
    longer fill a batch are left out (`drop_last`) or make a smaller last one, if that gives every rank one.
    """
    limit = examples if largest is None else min(largest, examples)
    if steady(batch_size, epoch, epoch + 1):
        size = round_batch_size(batch_size(epoch), smallest, limit)
        whole = np.arange(examples // size + 1, dtype=np.int64) * size
        left = examples - int(whole[-1])
        return whole if drop_last or left < max(smallest, 1) else np.append(whole, examples)
    edges, consumed = [0], 0
    while consumed < examples:
        size = round_batch_size(batch_size(epoch + consumed / examples), smallest, limit)
        if consumed + size > examples:
            if drop_last or examples - consumed < smallest:
                break
            size = examples - consumed
        consumed += size
        edges.append(consumed)
    return np.asarray(edges, dtype=np.int64)


def plan_epoch(
    examples: int,
    batch_size: float | Schedule,
    epoch: int,
    *,
    seed: int = 0,
    sampling: Sampling = "shuffle",
    world_size: int = 1,
    max_batch_size: int | None = None,
    drop_last: bool = True,
) -> EpochPlan:
    """Returns the plan of one epoch; the same on every rank. See `check_batch_size` for what is refused."""
    schedule = as_schedule(batch_size, "batch_size")
    edges = epoch_edges(examples, schedule, epoch, smallest=world_size, largest=max_batch_size, drop_last=drop_last)
    random = generator(seed, "order", epoch)
    if sampling == "shuffle":
        indices = random.permutation(examples)[: edges[-1]]
    elif sampling == "replacement":
        indices = random.integers(0, examples, size=int(edges[-1]))
    else:
        raise ValueError(f"sampling: {sampling!r} is neither 'shuffle' nor 'replacement'")
    largest = examples if max_batch_size is None else min(max_batch_size, examples)
    return EpochPlan(epoch, examples, indices.astype(np.int64, copy=False), edges, world_size, largest)


def check_batch_size(
    batch_size: float | Schedule, examples: int, world_size: int = 1, max_batch_size: int | None = None
) -> Schedule:
    """Returns the schedule, if a training set of `examples` on `world_size` devices can follow it.

    Raises:
        ValueError: S asks for more examples than there are (an exchanged schedule is clipped instead, because it
            grows without bound as eta goes to 0), or for fewer than one a device.
    """
    schedule = as_schedule(batch_size, "batch_size")
    if max_batch_size is not None and max_batch_size < world_size:
        raise ValueError(f"max_batch_size: {max_batch_size} is less than one example on each of {world_size} devices")
    known = known_bounds(schedule)
    if known is not None:
        low, high = known
        if low < world_size or round(low) < 1:
            raise ValueError(f"batch_size: {low:g} is less than one example on each of {world_size} devices")
        clipped = isinstance(schedule, Inverse | Ratio)
        if low > examples or (high > examples and not clipped):
            raise ValueError(f"batch_size: {high:g} is larger than the training set of {examples} examples")
    return schedule


def check_place(rank: int, world_size: int) -> None:
    """Raises ValueError for a rank that is none of `world_size`: it would get examples of another batch."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: {rank} is not one of world_size={world_size}, counted from 0")


def contiguous_shard(examples: int, rank: int, world_size: int) -> slice:
    """Returns a rank's part of a batch, or of a fixed evaluation set; parts differ by one example at most."""
    return slice(examples * rank // world_size, examples * (rank + 1) // world_size)
