"""The changed gradient noise of a pack's members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from three_factors.callbacks.functional.members import MemberOperator, together
from three_factors.callbacks.functional.stacked import Losses, StackedOperator
from three_factors.datamodules.stacked import StackedData
from three_factors.lightning_modules.noise_injection import FromDifference, Projected
from three_factors.lightning_modules.stack import StackedMLP, flat
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.graphs import each_once
from three_factors.reproduce.engine.worker.renewing import PAIRS
from three_factors.reproduce.engine.worker.train import build_noise


class StackedNoise:
    """Holds what changes the noise of each member's gradient, if anything does, and what renews its shape.

    Args:
        specs: the members' runs.
        losses: losses(outputs, targets) -> (M, B), those of the examples.
    """

    def __init__(self, specs: Sequence[RunSpec], losses: Losses, where: torch.device, real: torch.dtype) -> None:
        self.losses, self.where, self.real = losses, where, real
        self._members = [build_noise(spec) for spec in specs]
        self._lay()

    def _lay(self) -> None:
        """Lays the members' parts side by side, after any of them has changed."""
        parted = [i for i, (noise, _) in enumerate(self._members) if isinstance(noise, FromDifference)]
        self._parted = torch.tensor(parted, dtype=torch.int64, device=self.where)
        self._signs: dict[int, Tensor] = {}
        self._directions: Tensor | None = None  # (members with a part, q, k)
        noises = [noise for noise, _ in self._members if isinstance(noise, Projected)]
        if noises and all(noise.renewed.directions is not None for noise in noises):
            found = [noise.renewed.directions for noise in noises]
            most = max(of.shape[1] for of in found)  # type: ignore[union-attr]
            # Who has fewer gets zeros, into whose span nothing falls.
            self._directions = torch.stack([F.pad(of, (0, most - of.shape[1])) for of in found])  # type: ignore
            inside = [noise.factor if noise.part == "top" else -noise.factor for noise in noises]
            whole = [0.0 if noise.part == "top" else noise.factor for noise in noises]
            self._inside, self._whole = (
                torch.tensor(of, dtype=self.real, device=self.where).unsqueeze(1) for of in (inside, whole)
            )

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves these members, in this order."""
        self._members = [self._members[i] for i in indices]
        self._lay()

    @property
    def differs(self) -> bool:
        """Tells whether any member's noise is made of the difference between halves."""
        return len(self._parted) > 0

    def weights(self, sizes: Sequence[int], made: int) -> Tensor | None:
        """Returns what the losses of an epoch's batches are multiplied by, (M, examples); None for ones.

        Args:
            sizes: S of every step.
            made: steps before the epoch.
        """
        if all(noise is None or isinstance(noise, FromDifference) for noise, _ in self._members):
            return None
        ones = torch.ones(sum(sizes), dtype=torch.float64)
        rows = [
            ones if of is None else torch.cat([of.weights(size, step) for step, size in enumerate(sizes, made)])
            for of, _ in self._members
        ]
        return torch.stack(rows).to(self.real)

    def add(self, gradients: list[Tensor], differing: Tensor, parameters: Sequence[Tensor]) -> None:
        """Adds to gradients (M, …) the noise that is made of the differences between halves.

        Args:
            differing: losses of the batch's examples, (M, S), in whose graph the parameters are.
        """
        if not self.differs:
            return
        assert self._directions is not None, "the directions are not known yet"
        signed = (self._sign(differing) * differing.index_select(0, self._parted)).mean(1).sum()
        found = torch.autograd.grad(signed, list(parameters))
        difference = flat([part.index_select(0, self._parted) for part in found])
        along = torch.bmm(self._directions.transpose(1, 2), difference.unsqueeze(2))
        made = self._inside * torch.bmm(self._directions, along).squeeze(2) + self._whole * difference
        pieces = made.split([p[0].numel() for p in parameters], 1)
        with each_once():
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.index_add_(0, self._parted, piece.view(-1, *gradient.shape[1:]))

    def _sign(self, losses: Tensor) -> Tensor:
        """Returns the weights of the difference, (S,); made once: a GPU would wait for them."""
        size = losses.shape[1]
        if size not in self._signs:
            first = next(of for of, _ in self._members if isinstance(of, FromDifference))
            self._signs[size] = first.difference(size).to(losses)
        return self._signs[size]

    # -- renewal

    def renew(self, epoch: int, stack: StackedMLP, data: StackedData, training: Sequence[int]) -> bool:
        """Measures the directions of the members where an epoch begins with that; of those that are still training.

        What has stopped or diverged takes no further step that a direction would serve. Tells whether there were any.
        """
        due = [i for i in training if self._of(i) is not None and self._of(i).due(epoch)]
        ways = {i: (self._of(i).plan, self._of(i).batch_size) for i in due}
        for plan, size in dict.fromkeys(ways.values()):
            images = data.measurement_batches(plan.examples, plan.batch_size)
            halves = [
                (inputs[:, part], targets[:, part])
                for inputs, targets in data.drawn_batches(PAIRS, size)
                for part in (slice(size // 2), slice(size // 2, None))
            ]
            curved, drawn = (StackedOperator(stack, self.losses, of, training=True) for of in (images, halves))

            def of_member(member: MemberOperator, drawn: StackedOperator = drawn) -> None:
                beside = member.beside(drawn)
                found = torch.stack([beside.ask("of_batch", i) for i in range(2 * PAIRS)])
                self._of(member.index).renew(epoch, member, (found[0::2] - found[1::2]) / 2)

            for error in together(curved, of_member, [i for i in due if ways[i] == (plan, size)]):
                if error is not None:
                    raise error
        if due:
            self._lay()
        return bool(due)

    def _of(self, index: int) -> Any:
        """Returns what renews a member's noise."""
        return self._members[index][1]

    def logged(self, index: int) -> dict[str, float]:
        """Returns what a row says of a member's noise."""
        renewing = self._members[index][1]
        return {} if renewing is None else renewing.logged()

    # -- checkpoints

    def state(self) -> list[dict[str, Any] | None]:
        return [None if renewing is None else renewing.state_dict() for _, renewing in self._members]

    def load(self, states: Sequence[dict[str, Any] | None]) -> None:
        for (_, renewing), state in zip(self._members, states, strict=True):
            if renewing is not None and state is not None:
                directions = state["directions"]
                moved = None if directions is None else directions.to(self.where)
                renewing.load_state_dict(state | {"directions": moved})
        self._lay()
