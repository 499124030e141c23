"""The steps of a stack: from an epoch's order, rates and weights, which lie on the device before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from three_factors.callbacks.functional.stacked import Losses
from three_factors.datamodules.stacked import StackedData, StackedEpoch
from three_factors.lightning_modules.stack import StackedMLP, StackedSGD
from three_factors.reproduce.engine.worker.graphs import Repeated, each_once
from three_factors.reproduce.engine.worker.stacked_noise import StackedNoise


class StackedSteps:
    """Trains a stack, step by step, without a word from the host within an epoch.

    Which step it is stands in a tensor too, so every step of a batch size is the same work: on a GPU a graph of it.

    Args:
        losses: losses(outputs, targets) -> (M, B), those of the examples.
        real: the type of the weights.

    Attributes:
        losses, correct: of this epoch's steps: the mean loss, float64, and how many examples were classified right,
            int64; (M, steps).
    """

    def __init__(
        self,
        stack: StackedMLP,
        sgd: StackedSGD,
        noise: StackedNoise,
        data: StackedData,
        losses: Losses,
        where: torch.device,
        real: torch.dtype,
        *,
        say: Callable[[str], None] = print,
    ) -> None:
        self.stack, self.sgd, self.noise, self.data = stack, sgd, noise, data
        self._of_examples, self.where, self.real = losses, where, real
        self._cursor = torch.zeros(1, dtype=torch.int64, device=where)
        self._laid: dict[str, Tensor] = {}
        self._sizes: Sequence[int] = ()
        self._repeated = Repeated(self._step, self._written, graphs=where.type == "cuda", say=say)
        self.losses, self.correct = torch.zeros(0), torch.zeros(0)
        self.reset(0)

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves these members, in this order."""
        chosen = list(indices)
        for part in (self.stack, self.sgd, self.data, self.noise):
            part.keep(chosen)
        self.losses, self.correct = self.losses[chosen], self.correct[chosen]
        self._laid.clear()
        self._repeated.forget()

    def reset(self, steps: int) -> None:
        """Begins an epoch of so many steps, of which none is made."""
        shape = (self.stack.members, steps)
        self.restore(
            torch.zeros(shape, dtype=torch.float64, device=self.where),
            torch.zeros(shape, dtype=torch.int64, device=self.where),
        )

    def restore(self, losses: Tensor, correct: Tensor) -> None:
        """Begins where an epoch was left."""
        if self.losses.shape == losses.shape:
            self.losses.copy_(losses)
            self.correct.copy_(correct)
        else:
            self.losses, self.correct = losses.to(self.where), correct.to(self.where)
            self._repeated.forget()

    def lay(self, epoch: StackedEpoch, rates: Tensor, made: int) -> None:
        """Puts what an epoch's steps read where they read it.

        Args:
            rates: eta of each step, (M, steps).
            made: steps before the epoch.
        """
        self._sizes = epoch.plan.sizes.tolist()
        self._put("order", epoch.order)
        self._put("edges", torch.from_numpy(epoch.plan.edges))
        self._put("rates", rates.to(self.real))
        weights = self.noise.weights(self._sizes, made)
        if weights is not None:
            self._put("weights", weights)
        self._repeated.plan(self._sizes)

    def _put(self, name: str, values: Tensor) -> None:
        """Writes over what was there, if it fits: a graph knows the place."""
        held = self._laid.get(name)
        if held is None or any(there < new for there, new in zip(held.shape, values.shape, strict=True)):
            self._laid[name] = values.to(self.where, copy=True)
            self._repeated.forget()
        else:
            held[tuple(slice(length) for length in values.shape)].copy_(values)

    def end(self) -> None:
        """Gives up the graphs."""
        self._repeated.forget()

    def renew(self, epoch: int, training: Sequence[int]) -> None:
        """Measures what the noise of these members takes from the Hessian, where an epoch begins with that."""
        if self.noise.renew(epoch, self.stack, self.data, training):
            self._repeated.forget()

    def run(self, first: int, last: int) -> None:
        """Makes steps of the epoch."""
        self._cursor.fill_(first)
        self._repeated.run(self._sizes[first:last])

    def _step(self, size: int) -> None:
        laid, cursor = self._laid, self._cursor
        places = laid["edges"].index_select(0, cursor) + torch.arange(size, device=self.where)
        images, labels = self.data.batch(laid["order"].index_select(1, places))
        logits = self.stack(images)
        losses = self._of_examples(logits, labels)
        weighted = losses * laid["weights"].index_select(1, places) if "weights" in laid else losses
        parameters = list(self.stack.parameters())
        descended = weighted.mean(1).sum()
        gradients = list(torch.autograd.grad(descended, parameters, retain_graph=self.noise.differs))
        self.noise.add(gradients, losses, parameters)
        right = (logits.detach().argmax(2) == labels).sum(1, keepdim=True)
        with each_once():
            self.losses.index_copy_(1, cursor, losses.detach().mean(1, keepdim=True).double())
            self.correct.index_copy_(1, cursor, right)
        self.sgd.step(parameters, gradients, laid["rates"].index_select(1, cursor).squeeze(1))
        cursor.add_(1)

    def _written(self) -> Iterator[Tensor]:
        yield from self.stack.parameters()
        yield from self.stack.buffers()
        yield from self.sgd.velocity
        yield from (self.losses, self.correct, self._cursor)
