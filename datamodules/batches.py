"""The batches of an epoch: a pure plan, and two loaders that follow it.

The plan fixes every batch of an epoch (which examples, how many) from (seed, epoch) and the batch-size schedule.
It is computed alike on every rank and then split, so that `batch_size` is global and k ranks see what one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Sampler

from datamodules.schedules import Bounded, Constant, Inverse, Ratio, Schedule, as_schedule, round_batch_size
from datamodules.streams import generator

Sampling = Literal["shuffle", "replacement"]


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """All batches of one epoch. Batch i holds the examples `indices[edges[i]:edges[i+1]]`.

    Attributes:
        epoch: its number, from 0.
        examples: N, the size of the training set.
        indices: int64 (examples used,), in the order of use.
        edges: int64 (batches + 1,); edges[i] examples of this epoch are consumed before batch i.
    """

    epoch: int
    examples: int
    indices: np.ndarray
    edges: np.ndarray

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Global batch sizes, int64 (batches,)."""
        return np.diff(self.edges)

    def progress(self, batch: int) -> float:
        """Epoch progress t at the start of a batch: examples consumed / N."""
        return self.epoch + int(self.edges[batch]) / self.examples

    def shard(self, batch: int, rank: int, world_size: int) -> slice:
        """Where rank's part of a batch lies in `indices`. Parts of a batch differ by one example at most."""
        start, stop = int(self.edges[batch]), int(self.edges[batch + 1])
        size = stop - start
        return slice(start + size * rank // world_size, start + size * (rank + 1) // world_size)


def epoch_edges(
    examples: int,
    batch_size: Schedule,
    epoch: int,
    *,
    smallest: int = 1,
    largest: int | None = None,
    drop_last: bool = True,
) -> np.ndarray:
    """Examples consumed before each batch and at the end: int64 (batches + 1,).

    S is asked for at every step's start, rounded, and clipped to [smallest, min(largest, N)]. Examples that no
    longer fill a batch are left out (`drop_last`) or make a smaller last one, if that gives every rank one.
    """
    limit = examples if largest is None else min(largest, examples)
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
    """The plan of one epoch; the same on every rank. See `check_batch_size` for what is refused."""
    schedule = as_schedule(batch_size, "batch_size")
    edges = epoch_edges(
        examples, schedule, epoch, smallest=world_size, largest=max_batch_size, drop_last=drop_last
    )
    random = generator(seed, "order", epoch)
    if sampling == "shuffle":
        indices = random.permutation(examples)[: edges[-1]]
    elif sampling == "replacement":
        indices = random.integers(0, examples, size=int(edges[-1]))
    else:
        raise ValueError(f"sampling: {sampling!r} is neither 'shuffle' nor 'replacement'")
    return EpochPlan(epoch, examples, indices.astype(np.int64, copy=False), edges)


def check_batch_size(
    batch_size: float | Schedule, examples: int, world_size: int = 1, max_batch_size: int | None = None
) -> Schedule:
    """The schedule, if a training set of `examples` on `world_size` devices can follow it.

    Raises:
        ValueError: S asks for more examples than there are (an exchanged schedule is clipped instead, because it
            grows without bound as eta goes to 0), or for fewer than one a device.
    """
    schedule = as_schedule(batch_size, "batch_size")
    if max_batch_size is not None and max_batch_size < world_size:
        raise ValueError(f"max_batch_size: {max_batch_size} is less than one example on each of {world_size} devices")
    if isinstance(schedule, Bounded):
        low, high = schedule.bounds
        if low < world_size or round(low) < 1:
            raise ValueError(f"batch_size: {low:g} is less than one example on each of {world_size} devices")
        clipped = isinstance(schedule, Inverse | Ratio) and not isinstance(schedule, Constant)
        if low > examples or (high > examples and not clipped):
            raise ValueError(f"batch_size: {high:g} is larger than the training set of {examples} examples")
    return schedule


class Transform(Protocol):
    """Augments one rank's part of a batch; `where` is its place in the epoch (positions in the plan)."""

    def __call__(self, images: Tensor, where: slice) -> Tensor: ...


class PlannedLoader:
    """Follows a plan over tensors that are in memory, on any device, without workers or collation.

    Yields (inputs, targets) of this rank's part of each batch. `len` is the number of batches of this epoch.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        plan: EpochPlan,
        *,
        rank: int = 0,
        world_size: int = 1,
        transform: Transform | None = None,
    ) -> None:
        self.inputs, self.targets, self.plan, self.transform = inputs, targets, plan, transform
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self.plan.indices).to(self.inputs.device)
        for batch in range(len(self.plan)):
            where = self.plan.shard(batch, self.rank, self.world_size)
            chosen = order[where]
            inputs = self.inputs[chosen]
            if self.transform is not None:
                inputs = self.transform(inputs, where)
            yield inputs, self.targets[chosen]


class PlannedBatchSampler(Sampler[list[int]]):
    """The same plan as a `batch_sampler` for any torch DataLoader: own data sets, data that do not fit in memory.

        DataLoader(dataset, batch_sampler=PlannedBatchSampler(len(dataset), Cyclic(640, 128, 10), epoch=epoch))

    Under Lightning build it in `train_dataloader` with `epoch=self.trainer.current_epoch`, and pass the Trainer
    `reload_dataloaders_every_n_epochs=1` (NoiseScheduler does) and, on several devices,
    `use_distributed_sampler=False`. `rank` and `world_size` default to torch.distributed's.
    """

    def __init__(
        self,
        examples: int,
        batch_size: float | Schedule,
        *,
        epoch: int = 0,
        seed: int = 0,
        sampling: Sampling = "shuffle",
        max_batch_size: int | None = None,
        drop_last: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if distributed else 0
        self.world_size = world_size or (torch.distributed.get_world_size() if distributed else 1)
        self._plan: Callable[[int], EpochPlan] = lambda epoch: plan_epoch(
            examples,
            check_batch_size(batch_size, examples, self.world_size, max_batch_size),
            epoch,
            seed=seed,
            sampling=sampling,
            world_size=self.world_size,
            max_batch_size=max_batch_size,
            drop_last=drop_last,
        )
        self.plan = self._plan(epoch)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.plan.epoch:
            self.plan = self._plan(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self.plan)):
            yield self.plan.indices[self.plan.shard(batch, self.rank, self.world_size)].tolist()


def plan_of(loader: object) -> EpochPlan | None:
    """The plan that a loader follows (ours, or a DataLoader with a PlannedBatchSampler), else None."""
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        plan = getattr(holder, "plan", None)
        if isinstance(plan, EpochPlan):
            return plan
    return None


def contiguous_shard(examples: int, rank: int, world_size: int) -> slice:
    """Rank's part of a fixed evaluation set; parts differ by one example at most."""
    return slice(examples * rank // world_size, examples * (rank + 1) // world_size)


class EvaluationLoader:
    """This rank's part of a fixed set in consecutive batches, each example exactly once over all ranks."""

    def __init__(
        self, inputs: Tensor, targets: Tensor, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        shard = contiguous_shard(len(targets), rank, world_size)
        self.inputs, self.targets, self.batch_size = inputs[shard], targets[shard], batch_size

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size)))
