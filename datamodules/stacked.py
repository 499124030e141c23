"""The data of a stack: images that all members share as they are stored, and indices of each member's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from three_factors.datamodules.parts import Parts, as_tensor, normalised
from three_factors.datamodules.plan import EpochPlan, Sampling, check_batch_size, plan_epoch
from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import Schedule
from three_factors.datamodules.streams import generator
from three_factors.datamodules.vision import MARKED


@dataclass(frozen=True, eq=False)
class StackedEpoch:
    """An epoch of every member: the batches of one plan, filled by each member's own order.

    Attributes:
        plan: of the first member; all have its edges.
        order: int64 (M, examples used), positions in each member's training set; on the CPU, since another thread has
            made it, and a GPU may be capturing a graph meanwhile.
    """

    plan: EpochPlan
    order: Tensor

    def __len__(self) -> int:
        return len(self.plan)

    def chosen(self, batch: int) -> Tensor:
        """Returns the positions of a batch, (M, S)."""
        return self.order[:, int(self.plan.edges[batch]) : int(self.plan.edges[batch + 1])]


class StackedData:
    """Holds what M runs on one data set train and evaluate on. Nothing is augmented.

    Args:
        source: the data set.
        parts: each member's.
        seeds: each member's, of its order.
        batch_size: the schedule of S, in epochs; all have it.
        subset: training examples that are evaluated.
    """

    def __init__(
        self,
        source: Prepared,
        parts: Sequence[Parts],
        seeds: Sequence[int],
        batch_size: Schedule,
        *,
        sampling: Sampling = "shuffle",
        max_batch_size: int | None = None,
        subset: int = 500,
        eval_batch_size: int = 500,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        arrays = source.arrays()
        self.device, self.dtype = device or torch.device("cpu"), dtype
        self.parts, self.seeds, self.sampling = list(parts), list(seeds), sampling
        self.batch_size, self.max_batch_size = batch_size, max_batch_size
        self.subset, self.eval_batch_size = subset, eval_batch_size
        self._images = {
            kind: torch.from_numpy(np.array(arrays[f"{kind}_images"])).flatten(1).to(self.device)
            for kind in ("train", "test")
        }
        labels = {kind: np.asarray(arrays[f"{kind}_labels"]) for kind in ("train", "test")}
        self._pixels = source.size**2
        self._indices = self._on_device([part.train for part in self.parts])
        self._labels = self._on_device([part.labels for part in self.parts])
        self._held_out = self._on_device([part.val for part in self.parts])
        self._held_out_labels = self._on_device([labels["train"][part.val] for part in self.parts])
        self._tested = self._on_device([part.test for part in self.parts])
        self._tested_labels = self._on_device([labels["test"][part.test] for part in self.parts])
        self._mean, self._std = (
            torch.stack([as_tensor(value, dtype).repeat_interleave(self._pixels) for value in values])
            .unsqueeze(1)
            .to(self.device)
            for values in ([part.mean for part in self.parts], [part.std for part in self.parts])
        )
        self._ahead: tuple[int, Future[StackedEpoch]] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="the next epoch's order")

    def _on_device(self, rows: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self.device)

    @property
    def members(self) -> int:
        """Returns M."""
        return len(self.parts)

    @property
    def examples(self) -> int:
        """Returns N, the size of every member's training set."""
        return self._indices.shape[1]

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves these members, in this order."""
        chosen = list(indices)
        self.parts, self.seeds = [self.parts[i] for i in chosen], [self.seeds[i] for i in chosen]
        for name in (
            "_indices",
            "_labels",
            "_held_out",
            "_held_out_labels",
            "_tested",
            "_tested_labels",
            "_mean",
            "_std",
        ):
            setattr(self, name, getattr(self, name)[chosen])
        self._ahead = None

    # -- training

    def epoch(self, number: int, *, more: bool = True) -> StackedEpoch:
        """Returns an epoch, from 0; the one after it is made meanwhile, if there is `more`."""
        made = self._ahead
        found = made[1].result() if made is not None and made[0] == number else self._planned(number)
        self._ahead = (number + 1, self._worker.submit(self._planned, number + 1)) if more else None
        return found

    def _planned(self, number: int) -> StackedEpoch:
        check_batch_size(self.batch_size, self.examples, max_batch_size=self.max_batch_size)
        plans = [
            plan_epoch(
                self.examples,
                self.batch_size,
                number,
                seed=seed,
                sampling=self.sampling,
                max_batch_size=self.max_batch_size,
            )
            for seed in self.seeds
        ]
        return StackedEpoch(plans[0], torch.from_numpy(np.stack([plan.indices for plan in plans])))

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (M, S, pixels) and labels (M, S) of positions (M, S) in the training sets."""
        images = self._normalised("train", self._indices.gather(1, chosen))
        return images, self._labels.gather(1, chosen)

    def _normalised(self, kind: str, indices: Tensor) -> Tensor:
        picked = self._images[kind].index_select(0, indices.reshape(-1)).view(*indices.shape, -1)
        return normalised(picked.to(self.dtype), self._mean, self._std)

    # -- evaluation and measurement

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields images (M, B, pixels), labels (M, B) and which of them count, bool (M, B), as a validation has them.

        Nothing counts of a member that has no such examples.
        """
        if part in MARKED:
            marked = [of.marked(part, self.subset) for of in self.parts]
            longest = max(map(len, marked))
            chosen = self._on_device([np.pad(of, (0, longest - len(of))) for of in marked])
            counts = torch.tensor([len(of) for of in marked], device=self.device)
            there = torch.arange(longest, device=self.device) < counts.unsqueeze(1)
        elif part == "train_subset":
            positions = torch.arange(min(self.subset, self.examples), device=self.device)
            chosen = positions.expand(self.members, -1)
            there = torch.ones_like(chosen, dtype=torch.bool)
        else:
            kind, indices, labels = {
                "val": ("train", self._held_out, self._held_out_labels),
                "test": ("test", self._tested, self._tested_labels),
            }[part]
            for at, given in zip(indices.split(self.eval_batch_size, 1), labels.split(self.eval_batch_size, 1)):
                yield self._normalised(kind, at), given, torch.ones_like(given, dtype=torch.bool)
            return
        for at, counting in zip(chosen.split(self.eval_batch_size, 1), there.split(self.eval_batch_size, 1)):
            yield *self.batch(at), counting

    def measurement_batches(self, examples: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Returns the first examples of the training sets in batches, (M, B, pixels) and (M, B)."""
        positions = torch.arange(min(examples, self.examples), device=self.device)
        return [self.batch(at.expand(self.members, -1)) for at in positions.split(batch_size)]

    def drawn_batches(self, count: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Returns batches as each member's training draws them, always the same, with replacement."""
        drawn = [
            generator(seed, "measurement", 0).integers(0, self.examples, size=count * batch_size) for seed in self.seeds
        ]
        return [self.batch(at) for at in self._on_device(drawn).split(batch_size, 1)]
