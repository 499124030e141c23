"""Two loaders that follow an epoch plan: over tensors in memory, and as a batch sampler for any DataLoader."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Sampler

import datamodules.safe_globals  # noqa: F401  # schedules among a checkpoint's hyperparameters can be read
from datamodules.plan import EpochPlan, Sampling, check_batch_size, contiguous_shard, plan_epoch
from datamodules.resuming import put_right
from datamodules.schedules import Schedule


class Transform(Protocol):
    """Augments one rank's part of a batch; `where` is its place in the epoch (positions in the plan)."""

    def __call__(self, images: Tensor, where: slice) -> Tensor: ...


class PlannedLoader:
    """Follows a plan over tensors that are in memory, on any device, without workers or collation.

    Yields (inputs, targets) of this rank's part of each batch. `len` is the number of batches of this epoch, also
    when the first pass begins at batch `start` because a training was resumed there.
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
        start: int = 0,
    ) -> None:
        self.inputs, self.targets, self.plan, self.transform = inputs, targets, plan, transform
        self.rank, self.world_size, self.start = rank, world_size, start

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self.plan.indices).to(self.inputs.device)
        first, self.start = self.start, 0
        for batch in range(first, len(self.plan)):
            where = self.plan.shard(batch, self.rank, self.world_size)
            chosen = order[where]
            inputs = self.inputs.index_select(0, chosen)  # half the time of self.inputs[chosen] on CPU
            if self.transform is not None:
                inputs = self.transform(inputs, where)
            yield inputs, self.targets.index_select(0, chosen)


class PlannedBatchSampler(Sampler[list[int]]):
    """The same plan as a `batch_sampler` for any torch DataLoader: own data sets, data that do not fit in memory.

        DataLoader(dataset, batch_sampler=PlannedBatchSampler(len(dataset), Cyclic(640, 128, 10), epoch=epoch))

    Under Lightning build it in `train_dataloader` with `epoch=self.trainer.current_epoch`, and pass the Trainer
    `reload_dataloaders_every_n_epochs=1` (NoiseScheduler does) and, on several devices,
    `use_distributed_sampler=False`. `rank` and `world_size` default to torch.distributed's. A training that is resumed
    in mid-epoch goes on at the right batch with `start=resumed_at(self.trainer)`.
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
        start: int = 0,
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
        self.plan = self._plan(start.epoch if isinstance(start, Start) else epoch)
        self.start = start
        self._seen = -1  # the epoch that was gone through last

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.plan.epoch:
            self.plan = self._plan(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        if self._seen == self.plan.epoch:
            warnings.warn(
                f"PlannedBatchSampler: epoch {self.plan.epoch} for the second time, in the same order; build it anew "
                "every epoch (under Lightning: reload_dataloaders_every_n_epochs=1, or NoiseScheduler), or set_epoch",
                stacklevel=2,
            )
        first, self.start = self.start, 0
        for batch in range(first, len(self.plan)):
            yield self.plan.indices[self.plan.shard(batch, self.rank, self.world_size)].tolist()
        self._seen = self.plan.epoch  # at the end: Lightning starts a loader with workers twice and drops the first


class Start(int):
    """A batch of an epoch that knows which epoch, should `trainer.current_epoch` have been asked for too early."""

    epoch: int


def resumed_at(trainer: Any) -> int:
    """The batch at which a Trainer that was given a mid-epoch checkpoint goes on; 0 for any other epoch.

    For a `train_dataloader` hook: Lightning counts on from there, but starts the loader anew, and takes some
    checkpoints for others (see `put_right`).
    """
    put_right(trainer)
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    start = Start(progress.processed if trainer.fit_loop.restarting else 0)  # `completed` lags in on_train_batch_end
    start.epoch = trainer.current_epoch
    return start


def plan_of(loader: object) -> EpochPlan | None:
    """The plan that a loader follows (ours, or a DataLoader with a PlannedBatchSampler), else None."""
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        plan = getattr(holder, "plan", None)
        if isinstance(plan, EpochPlan):
            return plan
    return None


class EvaluationLoader:
    """This rank's part of a fixed set in consecutive batches, each example exactly once over all ranks."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        shard = contiguous_shard(len(targets), rank, world_size)
        self.inputs, self.targets, self.batch_size = inputs[shard], targets[shard], batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size)))
