"""The Hessians and gradients of many networks of one shape at once, by one double backward through their stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from three_factors.callbacks.functional.state import measuring

Losses = Callable[[Tensor, Tensor], Tensor]


class StackedOperator:
    """The Hessians of M networks, each of its own mean loss over its own batches.

    With one batch its gradient's graph is kept between products: a third less time, and a third more memory at most.
    `together` drops it at its end. The batches must not change.

    Args:
        module: maps inputs (M, B, …) to outputs (M, B, classes) with parameters (M, …), of which a member is a row.
        losses: losses(outputs, targets) -> (M, B), those of the examples.
        batches: (inputs, targets), (M, B, …) and (M, B); the same numbers of examples for all.
        training: in train mode, as for `HessianOperator`.

    Attributes:
        rounds: double backwards that were made, a batch, for all members together.
    """

    def __init__(
        self, module: nn.Module, losses: Losses, batches: Sequence[tuple[Tensor, Tensor]], *, training: bool = False
    ) -> None:
        if not batches:
            raise ValueError("batches: there is no example in them")
        self.module, self.losses, self.batches, self.training = module, losses, list(batches), training
        self.parameters = dict(module.named_parameters())
        first = next(iter(self.parameters.values()))
        self.members, self.device, self.dtype = len(first), first.device, first.dtype
        self.shapes = [p.shape for p in self.parameters.values()]
        self.lengths = [p[0].numel() for p in self.parameters.values()]
        self.num_params = sum(self.lengths)
        self.sizes = [targets.shape[1] for _, targets in self.batches]
        self.rounds = 0
        self._kept: _Graph | None = None

    def weights(self) -> Tensor:
        """Returns θ of every member, (M, q), a copy."""
        return self._flat([p.detach() for p in self.parameters.values()])

    def products(self, vectors: Tensor) -> Tensor:
        """Returns H v of every member, (k, M, q) of (k, M, q)."""
        result = torch.zeros_like(vectors)
        for index, size in enumerate(self.sizes):
            self._add_products(index, vectors, result, size / sum(self.sizes))
        return result

    def gradients(self, shifts: Tensor | None = None) -> Tensor:
        """Returns the gradient of every member, (M, q); at θ + shift, of shifts (M, q), if they are given."""
        total = torch.zeros(self.members, self.num_params, device=self.device, dtype=self.dtype)
        for index, size in enumerate(self.sizes):
            total.add_(self.of_batch(index, shifts), alpha=size / sum(self.sizes))
        return total

    def of_batch(self, index: int, shifts: Tensor | None = None) -> Tensor:
        """Returns the gradients of a batch's own loss, (M, q)."""
        leaves = self._leaves(shifts)
        found = torch.autograd.grad(self._loss(index, leaves).mean(1).sum(), list(leaves.values()), allow_unused=True)
        return self._flat(self._whole(found))

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns a batch's gradients g and products H g, (M, q) each, of that batch's own loss."""
        g = self.of_batch(index)
        result = torch.zeros_like(g)[None]
        self._add_products(index, g[None], result, 1.0)
        return g, result[0]

    def of_examples(self, first: int, last: int) -> Tensor:
        """Returns gradients of single examples, (last - first, M, q), counted through all batches."""
        inputs, targets = (torch.cat(parts, 1)[:, first:last] for parts in zip(*self.batches))
        rows = []
        for i in range(last - first):  # a sum over members is one backward pass
            leaves = self._leaves()
            loss = self._on(leaves, inputs[:, i : i + 1], targets[:, i : i + 1]).sum()
            rows.append(self._flat(self._whole(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))))
        return torch.stack(rows)

    def _add_products(self, index: int, vectors: Tensor, result: Tensor, weight: float) -> None:
        graph = self._gradient_graph(index)
        own = list(graph.leaves.values())
        used = [(i, g) for i, g in enumerate(graph.gradients) if g is not None and g.requires_grad]
        if not used:
            return
        for k, rows in enumerate(vectors):
            pieces = rows.split(self.lengths, 1)
            curved = torch.autograd.grad(
                [g for _, g in used],
                own,
                [pieces[i].reshape(self.shapes[i]) for i, _ in used],
                retain_graph=graph is self._kept or k + 1 < len(vectors),
                allow_unused=True,
            )
            result[k].add_(self._flat(self._whole(curved)), alpha=weight)
            self.rounds += 1

    def drop(self) -> None:
        """Frees the graph that is kept."""
        self._kept = None

    def _gradient_graph(self, index: int) -> _Graph:
        """Returns the gradient of a batch's loss, differentiable."""
        buffers, modes = dict(self.module.named_buffers()), [part.training for part in self.module.modules()]
        if self._kept is not None and self._kept.modes == modes and self._kept.of(self.parameters | buffers):
            return self._kept
        self.drop()
        leaves, before = self._leaves(), {name: value.clone() for name, value in buffers.items()}
        loss = self._loss(index, leaves).mean(1).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
        graph = _Graph(leaves, before, modes, gradients)
        if len(self.batches) == 1:
            self._kept = graph
        return graph

    def _loss(self, index: int, leaves: dict[str, Tensor]) -> Tensor:
        return self._on(leaves, *self.batches[index])

    def _on(self, leaves: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (M, B); what a pass writes to buffers is lost."""
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        with measuring(self.module, training=self.training), torch.enable_grad():
            return self.losses(functional_call(self.module, leaves | buffers, (inputs,)), targets)

    def _leaves(self, shifts: Tensor | None = None) -> dict[str, Tensor]:
        pieces = [None] * len(self.lengths) if shifts is None else shifts.split(self.lengths, 1)
        found = {}
        for (name, p), piece in zip(self.parameters.items(), pieces):
            value = p.detach() if piece is None else p.detach() + piece.reshape(p.shape)
            found[name] = value.clone().requires_grad_()
        return found

    def _whole(self, found: Sequence[Tensor | None]) -> list[Tensor]:
        return [
            torch.zeros_like(p) if part is None else part.detach() for part, p in zip(found, self.parameters.values())
        ]

    def _flat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.reshape(self.members, -1) for part in parts], 1)


@dataclass(frozen=True)
class _Graph:
    """A differentiable gradient, and the weights, buffers and modes that it is of."""

    leaves: dict[str, Tensor]
    buffers: dict[str, Tensor]
    modes: list[bool]
    gradients: Sequence[Tensor | None]

    def of(self, tensors: dict[str, Tensor]) -> bool:
        """Tells whether it is that of these tensors, by their values: version counters miss changes through `.data`."""
        return all(torch.equal(value, tensors[name]) for name, value in (self.leaves | self.buffers).items())
