"""Which examples a step sees: those of the batches whose gradients have been added up since the last one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from three_factors.callbacks.optimizer_steps import smallest_gradient
from three_factors.callbacks.training_batches import Batch


class StepWindow:
    """The batches of the step to come. It is not saved: no checkpoint has the gradients that were added up.

    Attributes:
        progress, wanted: t, and the S of the schedule, at its first batch.
        batches, examples: in it, with the one that is under way.
        fits: whether a step may see these examples: as many as wanted; fewer at an epoch's end or after a resume; any
            number where the loader has sizes of its own.
        closed: a step was taken, the next batch begins another.
    """

    def __init__(self) -> None:
        self.progress = self.wanted = 0.0
        self.closed = True
        self._rest = self._own = False
        self._batches = self._examples = 0  # before the batch that is under way
        self._now: Batch | None = None
        self._cut = False
        self._gradients: dict[int, Tensor | None] = {}

    @property
    def batches(self) -> int:
        return self._batches + (self._now is not None)

    @property
    def examples(self) -> int:
        return self._examples + (0 if self._now is None else self._now.size)

    @property
    def fits(self) -> bool:
        return self.examples == self.wanted or self._own or (self._rest and self.examples < self.wanted)

    def begin(self, batch: Batch, *, first: bool, cut: bool = False) -> None:
        """Takes note that a batch begins.

        `first`: its gradient is added to no other's. `cut`: to some that a resume has lost.
        """
        if first or self.closed or not self._batches:
            self._restart(batch)
            self._cut = cut
        self._now, self.closed = batch, False
        self._rest, self._own = batch.rest or self._cut, batch.own

    def _restart(self, batch: Batch) -> None:
        self.progress, self.wanted = batch.progress, batch.wanted
        self._batches = self._examples = 0

    def end(self, *, added: bool) -> None:
        """Takes note that the batch is over without a step. `added`: its gradient waits for one."""
        if added:
            self._batches, self._examples = self.batches, self.examples
        self._now = None

    def remember(self, optimizers: Iterable[Optimizer]) -> None:
        """Keeps what tells whether the gradients that wait will have been thrown away by the time of a step."""
        self._gradients = {id(one): smallest_gradient(one) for one in optimizers}

    def forget_thrown_away(self, optimizer: Optimizer) -> None:
        """Restarts with the batch under way if the optimiser's gradients are not those that waited.

        They are other tensors once they have been set to None in between (torch's `zero_grad` does so by default).
        """
        if self._batches and self._now is not None and not self.still_waits(optimizer):
            self._restart(self._now)

    def still_waits(self, optimizer: Optimizer) -> bool:
        """Tells whether the optimiser has the gradients, by now perhaps with others added to them, that waited."""
        waited = self._gradients.get(id(optimizer))
        return waited is not None and smallest_gradient(optimizer) is waited

    def close(self) -> None:
        self.closed, self._gradients = True, {}
