"""Two loaders that follow an epoch plan: over tensors in memory, and as a batch sampler for any DataLoader."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Sampler

import three_factors.datamodules.safe_globals  # noqa: F401  # schedules among a checkpoint's hyperparameters can be read
from three_factors.datamodules.following import Ear, EpochNames
from three_factors.datamodules.plan import (
    EpochPlan,
    Sampling,
    check_batch_size,
    check_place,
    contiguous_shard,
    plan_epoch,
)
from three_factors.datamodules.resuming import BUILD, holder_of_plan, put_right
from three_factors.datamodules.schedules import Schedule


class Transform(Protocol):
    """Augments one rank's part of a batch; `where` is its place in the epoch (positions in the plan)."""

    def __call__(self, images: Tensor, where: slice) -> Tensor: ...


class PlannedLoader:
    """Follows a plan over tensors that are in memory, on any device, without workers or collation.

    Yields (inputs, targets) of this rank's part of each batch. `len` is the number of batches of this epoch, also
    when the first pass begins at batch `start` because a training was resumed there; `began` is where the latest
    pass did. Under Lightning a loader is of one epoch: in another one it raises ValueError at its first batch, unless
    it `repeats`.
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
        repeats: bool = False,
    ) -> None:
        check_place(rank, world_size)
        _check_start(start, plan)
        self.inputs, self.targets, self.plan, self.transform = inputs, targets, plan, transform
        self.rank, self.world_size, self.start, self.repeats = rank, world_size, start, repeats
        self.began = start
        self._names = EpochNames(plan.epoch, placed=plan.epoch > 0 or start > 0)
        self._asked = plan.epoch

    @property
    def batch_sampler(self) -> Ear:
        """Says where Lightning tells the epoch."""
        return Ear(self._hear)

    def _hear(self, name: int) -> None:
        self._asked, _ = self._names.translate(name)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self.plan.indices).to(self.inputs.device)
        self.began, self.start = self.start, 0
        for batch in range(self.began, len(self.plan)):
            if self._asked != self.plan.epoch and not self.repeats:
                raise ValueError(f"epoch: a PlannedLoader of epoch {self.plan.epoch} in epoch {self._asked}; {BUILD}")
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

    In a DataLoader that is handed to `trainer.fit` it goes from epoch to epoch by itself. Where epochs differ in
    length, and where such a training is resumed, that takes a NoiseScheduler; without one it raises ValueError.

    Attributes:
        plan: of the epoch that it is at. `set_epoch` goes to another one.
        began: the batch at which the latest pass began: `start` in the first, else 0.
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
        # none of them by the names of torch's BatchSampler, which Lightning takes for an invitation to make it anew
        self._examples, self._batch_size, self._seed, self._sampling = examples, batch_size, seed, sampling
        self._max_batch_size, self._drop_last = max_batch_size, drop_last
        self._rank, self._world_size = rank, world_size
        self.start = self.began = start
        self._epoch = start.epoch if isinstance(start, Start) else epoch
        self._names = EpochNames(self._epoch, placed=self._epoch > 0 or start > 0)
        self._seen = -1  # the epoch that was gone through last
        self._drawn = -1  # the epoch that the latest pass has given batches of; -1 for none yet
        self._told: int | None = None  # the length that was asked for last
        self._wrong = ""  # why the next pass cannot be right
        planned = self._planned()  # now, so that what cannot be followed is refused here
        self._plan: EpochPlan | None = planned
        if world_size is not None:  # else the ranks are perhaps there later, as are those of the plan
            check_place(self.rank, world_size)
        _check_start(start, planned)

    @property
    def rank(self) -> int:
        """Returns this process's place; known once torch.distributed is there, perhaps after the sampler was made."""
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self._rank if self._rank is not None else torch.distributed.get_rank() if there else 0

    @property
    def world_size(self) -> int:
        """Returns the number of processes that share a batch; known when `rank` is."""
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self._world_size or (torch.distributed.get_world_size() if there else 1)

    @property
    def plan(self) -> EpochPlan:
        """Returns the plan of the epoch that it is at, made anew where the number of processes has become another."""
        if self._plan is None or self._plan.smallest != self.world_size:
            self._plan = self._planned()
        return self._plan

    def _planned(self) -> EpochPlan:
        return plan_epoch(
            self._examples,
            check_batch_size(self._batch_size, self._examples, self.world_size, self._max_batch_size),
            self._epoch,
            seed=self._seed,
            sampling=self._sampling,
            world_size=self.world_size,
            max_batch_size=self._max_batch_size,
            drop_last=self._drop_last,
        )

    def set_epoch(self, epoch: int) -> None:
        """Plans an epoch. Lightning's next call of its own is then taken for this one."""
        self._names, self._wrong = EpochNames(epoch, placed=True), ""
        self._go_to(epoch)

    def _go_to(self, epoch: int) -> None:
        self._epoch, self._plan, self._told = epoch, None, None

    @property
    def sampler(self) -> Ear:
        """Says where Lightning tells the epoch."""
        return Ear(self._hear)

    def _hear(self, name: int) -> None:
        before, told = self._epoch, self._told
        epoch, successive = self._names.translate(name)
        if epoch == before:
            return
        self._go_to(epoch)
        if told is not None and told != len(self.plan):  # raised at the first batch: there may be none
            self._wrong = f"epoch: {epoch} has {len(self.plan)} batches, Lightning counts on the {told} of {before}"
        if not successive and self._drawn not in (-1, epoch):
            raise ValueError(f"epoch: workers have read ahead in epoch {self._drawn}, not {epoch}; {BUILD}")

    def __len__(self) -> int:
        self._told = len(self.plan)
        return self._told

    def __iter__(self) -> Iterator[list[int]]:
        self._drawn = -1
        return self._batches()

    def _batches(self) -> Iterator[list[int]]:
        check_place(self.rank, self.world_size)
        plan, self.began, self.start = self.plan, self.start, 0
        if self._seen == plan.epoch:
            warnings.warn(
                f"PlannedBatchSampler: epoch {plan.epoch} for the second time, in the same order; build it anew "
                "every epoch (under Lightning: reload_dataloaders_every_n_epochs=1, or NoiseScheduler), or set_epoch",
                stacklevel=2,
            )
        for batch in range(self.began, len(plan)):
            if self._wrong:
                raise ValueError(f"{self._wrong}; add a NoiseScheduler, or {BUILD}")
            if self._epoch != plan.epoch:
                raise ValueError(f"epoch: set to {self._epoch} in the middle of a pass through epoch {plan.epoch}")
            self._drawn = plan.epoch
            yield plan.indices[plan.shard(batch, self.rank, self.world_size)].tolist()
        self._seen = plan.epoch  # at the end: Lightning starts a loader with workers twice and drops the first


def _check_start(start: int, plan: EpochPlan) -> None:
    if not 0 <= start <= len(plan):
        raise ValueError(f"start: {start} is no batch of epoch {plan.epoch}, which has {len(plan)}")


class Start(int):
    """A batch of an epoch that knows which epoch, should `trainer.current_epoch` have been asked for too early."""

    epoch: int


def resumed_at(trainer: Any) -> int:
    """Returns the batch at which a Trainer that was given a mid-epoch checkpoint goes on; 0 for any other epoch.

    For a `train_dataloader` hook: Lightning counts on from there, but starts the loader anew, and takes some
    checkpoints for others (see `put_right`).
    """
    put_right(trainer)
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    start = Start(progress.processed if trainer.fit_loop.restarting else 0)  # `completed` lags in on_train_batch_end
    start.epoch = trainer.current_epoch
    return start


def plan_of(loader: object) -> EpochPlan | None:
    """Returns the plan that a loader follows (ours, or a DataLoader with a PlannedBatchSampler), else None."""
    plan = getattr(holder_of_plan(loader), "plan", None)
    return plan if isinstance(plan, EpochPlan) else None


class EvaluationLoader:
    """This rank's part of a fixed set in consecutive batches, each example exactly once over all ranks."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        check_place(rank, world_size)
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is less than one example")
        shard = contiguous_shard(len(targets), rank, world_size)
        self.inputs, self.targets, self.batch_size = inputs[shard], targets[shard], batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.targets) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not len(self):  # `split` gives one part, without examples
            return iter(())
        return iter(zip(self.inputs.split(self.batch_size), self.targets.split(self.batch_size)))
