"""What a training's batches are, whatever the loader: how many examples each holds, and the epoch progress t there."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, IterableDataset

from three_factors.callbacks.handed import check_began
from three_factors.callbacks.scheduled_loaders import accumulating, refuse_accumulation
from three_factors.datamodules.resuming import BUILD, holder_of_plan
from three_factors.datamodules.schedules import NoiseSchedule, as_schedule, known_bounds, round_batch_size

Size = Callable[[Any], int]
Taken = dict[str, int]
LOOKS = 1000


class Batch(NamedTuple):
    """A batch of all devices.

    Attributes:
        progress: t before it.
        size: its examples.
        wanted: those of the schedule.
        rest: whether it may be smaller, at an epoch's end.
        own: whether it may be of any size: the loader's sizes are its own, and eta follows them.
    """

    progress: float
    size: int
    wanted: float
    rest: bool = False
    own: bool = False


@dataclass
class Count:
    """Counts what has come, for loaders without a plan.

    Attributes:
        epoch: the one that goes on.
        consumed: its examples so far.
        seen: those of the whole training.
    """

    epoch: int = -1
    consumed: int = 0
    seen: int = 0

    def state_dict(self) -> dict[str, int]:
        return asdict(self)


class PlannedBatches:
    """Batches of a loader with an epoch plan; sizes and t are the plan's.

    Raises:
        ValueError: the plan is of another epoch or another number of devices, or Lightning counts on another length;
            or a training goes on elsewhere than the loader has begun.
    """

    def __init__(self, trainer: pl.Trainer, loader: Any, schedule: NoiseSchedule) -> None:
        holder, epoch = holder_of_plan(loader), trainer.current_epoch
        plan: Any = holder.plan  # an EpochPlan
        # `overfit_batches` repeats one epoch; the schedule's S is not asked for then, and eta takes its part over
        self._follows = not trainer.overfit_batches  # type: ignore[attr-defined]
        if self._follows and plan.epoch != epoch:
            raise ValueError(f"epoch: the loader has the batches of epoch {plan.epoch} in epoch {epoch}; {BUILD}")
        ranks = getattr(holder, "world_size", trainer.world_size)
        if ranks != trainer.world_size:
            raise ValueError(
                f"world_size: the loader is for {ranks} devices, not {trainer.world_size}; say rank= and world_size="
            )
        expected, limit = len(plan), trainer.limit_train_batches
        expected = min(expected, limit) if isinstance(limit, int) else int(expected * limit)
        extra = int(trainer.accumulate_grad_batches == trainer.num_training_batches)  # SWA's pass for batch norm
        if trainer.num_training_batches not in (expected, expected + extra):
            raise ValueError(
                f"epoch: {epoch} has {expected} batches, Lightning counts on {trainer.num_training_batches}; {BUILD}"
            )
        self._plan, self._epoch = plan, epoch
        self._holder = None if hasattr(loader, "load_state_dict") else holder  # to be asked where it began
        self._edges: list[int] = plan.edges.tolist()
        self._came = 0
        self._size = as_schedule(schedule.batch_size)

    def check(self, trainer: pl.Trainer) -> None:
        """Refuses what can be refused before the first step."""
        refuse_accumulation(trainer)

    def first(self) -> tuple[float, float]:
        """Returns t and S of the epoch's first batch."""
        return float(self._epoch), self._edges[1]

    def next(self, trainer: pl.Trainer, batch: Any, index: int) -> Batch:
        plan, edges = self._plan, self._edges
        if self._holder is not None:
            check_began(self._holder, index)
            self._holder = None
        if index + 1 >= len(edges):
            raise ValueError(f"epoch: {self._epoch} has {len(plan)} batches, and this is number {index + 1}")
        self._came = index + 1
        progress = self._epoch - plan.epoch + plan.progress(index)  # `overfit_batches` repeats another epoch
        size = edges[index + 1] - edges[index]
        wanted = round_batch_size(self._size(progress), plan.smallest, plan.largest) if self._follows else size
        return Batch(progress, size, wanted, rest=index + 2 == len(edges))

    def taken(self) -> Taken:
        """Returns what tells whether another plan has begun this epoch with the same batches."""
        over = self._came == len(self._plan)
        return {"epoch": self._epoch, "batches": self._came, "over": over, "sum": self._sum(self._came)}

    def _sum(self, batches: int) -> int:
        edges = self._plan.edges[: batches + 1]
        return zlib.crc32(self._plan.indices[: edges[-1]].tobytes(), zlib.crc32(edges.tobytes()))

    def go_on(self, taken: Taken | None) -> None:
        """Raises ValueError if a training goes on within this epoch and another plan has begun it."""
        if not taken or taken["over"] or taken["epoch"] != self._epoch or self._sum(taken["batches"]) == taken["sum"]:
            return
        raise ValueError(
            f"ckpt_path: it is of the middle of epoch {self._epoch}, which the loader would have begun with other "
            "batches (its examples, batch_size, seed or sampling have changed); resume from the end of an epoch"
        )

    def refusal(self, size: int, wanted: float, progress: float) -> ValueError:
        return ValueError(
            f"batch_size: the loader's {size} at t = {progress:g} is not the schedule's {wanted:g}; "
            "build the PlannedBatchSampler with the scheduler's `schedule.batch_size`"
        )


class CountedBatches:
    """Batches of any other loader: their size is that of the batch that came, summed over the ranks.

    t counts examples over N: all that the loader has in a full epoch, or `examples`. A loader that knows only its
    number of batches counts those. One that does not even know that has `limit_train_batches` for its epoch; or all
    of a training by `max_steps`; or follows a schedule of constants, where t is the number of epochs that are over.

    Raises:
        ValueError: nothing says what t is; or there are several loaders.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        loader: Any,
        schedule: NoiseSchedule,
        count: Count,
        *,
        examples: int | None,
        size: Size | None,
    ) -> None:
        if isinstance(loader, dict | list | tuple):
            if examples is None or size is None:
                raise ValueError(f"batch_size: {len(loader)} training loaders; say size=f(batch) and examples=N")
            loader = None
        if count.epoch != trainer.current_epoch:
            count.epoch, count.consumed = trainer.current_epoch, 0
        own = getattr(loader, "batch_size", None)
        self._declared = own * trainer.world_size if isinstance(own, int) else None
        self._schedule, self._count, self._of = as_schedule(schedule.batch_size), count, size or _first_length
        self._length = _length(loader)
        self._limit: int | None = None
        self._came = 0
        bounds = known_bounds(self._schedule)
        fixed = bounds is not None and bounds[0] == bounds[1]
        self._own = fixed and (self._length is None or self._declared is None)
        self._progress = self._clock(trainer, loader, schedule, examples)

    def _clock(
        self, trainer: pl.Trainer, loader: Any, schedule: NoiseSchedule, examples: int | None
    ) -> Callable[[int], float]:
        """Returns t as a function of the batch's number in the epoch."""
        count, epoch, limit = self._count, trainer.current_epoch, trainer.limit_train_batches
        batches = getattr(loader, "batch_sampler", None)
        self._end = 0.0 if examples is not None else float(trainer.max_epochs or 0)  # t at the training's, if known
        if examples is not None:
            return lambda index: count.seen / examples
        if (
            self._length is not None
            and isinstance(getattr(loader, "dataset", None), IterableDataset)
            and batches is not None
        ):
            total = len(loader.dataset) * trainer.world_size
            return lambda index: epoch + count.consumed / total
        if self._length is not None and type(batches) is BatchSampler:
            total = len(batches.sampler) * trainer.world_size  # type: ignore[arg-type]
            return lambda index: epoch + count.consumed / total
        if self._length is not None:
            total = max(1, self._length)
            return lambda index: epoch + index / total
        if isinstance(limit, int):
            self._limit = limit
            return lambda index: epoch + index / limit
        if trainer.max_epochs == -1 and trainer.max_steps > 0:
            self._end = 1.0
            return lambda index: trainer.global_step / trainer.max_steps
        constant = [known_bounds(as_schedule(part)) for part in (schedule.lr, schedule.batch_size)]
        if all(known is not None and known[0] == known[1] for known in constant):
            return lambda index: float(epoch)
        raise ValueError("examples: the training loader has no length; say NoiseScheduler(schedule, examples=N)")

    def first(self) -> tuple[float, float]:
        """Returns t and, as far as the schedule knows, S of the epoch's first batch."""
        progress = self._progress(0)
        return progress, _whole(self._schedule(progress))

    def next(self, trainer: pl.Trainer, batch: Any, index: int) -> Batch:
        size, progress = self._size(trainer, batch), self._progress(index)
        self._came = index + 1
        self._count.consumed += size
        self._count.seen += size
        wanted = self._schedule(progress)
        # The first tells whether the loader has the schedule's S. Buckets, or workers that share a stream and end with
        # a smaller batch each, have others too.
        own = self._own and self._count.seen > size
        return Batch(progress, size, _whole(wanted), rest=trainer.is_last_batch, own=own)

    def end(self) -> None:
        """Raises ValueError if the epoch that is over was shorter than the limit that was taken for its length."""
        if self._limit is not None and self._came < self._limit:
            raise ValueError(
                f"examples: an epoch ended after {self._came} batches, limit_train_batches is {self._limit}; say "
                "NoiseScheduler(schedule, examples=N)"
            )

    def check(self, trainer: pl.Trainer) -> None:
        """Refuses what can be refused before the first step: by the loader's own `batch_size`, in 1000 looks ahead."""
        if self._declared is None or not trainer.lightning_module.automatic_optimization:
            return
        size, now = self._declared * trainer.accumulate_grad_batches, self._progress(0)
        left = max(0.0, self._end - now) if accumulating(trainer) is None else 0.0
        for look in range(LOOKS):
            wanted = _whole(self._schedule(now + look / LOOKS * left))
            if wanted != size:
                raise self.refusal(size, wanted, now)

    def refusal(self, size: int, wanted: float, progress: float) -> ValueError:
        return ValueError(
            f"batch_size: the loader's {size} cannot follow the schedule's {wanted:g}; see PlannedBatchSampler, or say "
            "size=f(batch) if the first tensor's length is not the number of examples"
        )

    def _size(self, trainer: pl.Trainer, batch: Any) -> int:
        size = self._of(batch)
        if not size:
            raise ValueError(f"size: no tensor in a {type(batch).__name__}; say size=f(batch)")
        if trainer.world_size > 1:
            own = torch.tensor(size, device=trainer.strategy.root_device)
            size = int(trainer.strategy.reduce(own, reduce_op="sum"))
        return size


def batches_of(
    trainer: pl.Trainer, schedule: NoiseSchedule, count: Count, *, examples: int | None, size: Size | None
) -> PlannedBatches | CountedBatches:
    """Returns the batches of the epoch that begins or goes on."""
    loader: Any = trainer.train_dataloader
    while isinstance(loader, dict | list | tuple) and len(loader) == 1:
        loader = next(iter(loader.values() if isinstance(loader, dict) else loader))
    holder = holder_of_plan(loader)
    if holder is None:
        return CountedBatches(trainer, loader, schedule, count, examples=examples, size=size)
    if examples not in (None, holder.plan.examples):
        raise ValueError(f"examples: {examples} are not the {holder.plan.examples} of the loader's plan")
    return PlannedBatches(trainer, loader, schedule)


def _first_length(batch: Any) -> int:
    """Returns the length of the first tensor in a batch, however deep; strings and numbers beside it do not matter."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    inside = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    if is_dataclass(batch):
        inside = vars(batch).values()
    return next(filter(None, map(_first_length, inside)), 0)


def _whole(size: float) -> float:
    return round(size) if math.isfinite(size) else size


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
