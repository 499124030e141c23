"""The Hessian of a loss as a linear operator: products with vectors, never the matrix.

H = ∇²L(θ), L the mean (or sum) of a loss over given batches. A product is the derivative of g(θ)·v (Pearlmutter 1994)
by `autograd.grad`: no `.grad` is read or written, and no hook of a distributed wrapper runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn
from torch.func import functional_call

from callbacks.functional.inputs import (
    as_batches,
    chosen_parameters,
    copied,
    detached,
    distributed,
    flat,
    scalar,
    size_of,
    stored,
)
from callbacks.functional.state import device_of, measuring, plain

Reduction = Literal["mean", "sum"]
Loss = Callable[[Any, Any], Tensor]
BatchLoss = Callable[[nn.Module, Any], Tensor]


class _Carrier(nn.Module):
    """f(module, batch) as a module's forward, so that functional_call can exchange the module's tensors."""

    def __init__(self, module: nn.Module, f: BatchLoss) -> None:
        super().__init__()
        self.module, self.f = module, f

    def forward(self, batch: Any) -> Tensor:
        return self.f(self.module, batch)


@dataclass(frozen=True)
class _Kept:
    """The gradient's graph of a single batch, and a copy of the tensors it was built from."""

    tensors: list[Tensor]
    leaves: list[Tensor]
    gradients: list[Tensor | None]


class HessianOperator:
    """The Hessian of `loss(module(input), target)` over batches, in eval mode.

        H = HessianOperator(module, F.cross_entropy, loader)
        top_eigenvalues(H, k=5), trace(H), H.matvec(v)

    Args:
        module: any nn.Module or LightningModule; a compiled or DDP-wrapped one is measured as the plain one inside.
        loss: loss(output, target), a scalar.
        batches: (input, target) pairs, a loader, or one pair of tensors. Read once and kept on the module's device.
            Under torch.distributed these are this rank's examples; ranks may have different numbers of them.
        reduction: how `loss` treats the examples of a batch. "mean": L is the mean over all examples of all batches
            and ranks; "sum": the sum. A "mean" over anything but examples (class weights, ignored targets) is not
            the mean of all data: give its weights as `sizes` to `from_batch_loss`.
        params: the rows of H: names or Parameters (a layer, say); by default every parameter that requires grad.
        dtype: of the arithmetic, e.g. torch.float64; the module keeps its own. By default the parameters'
            (float32 at least).

    Attributes:
        num_params: q, the number of rows. products: how many H v were computed, over all the data.

    Raises:
        ValueError: no parameters, parameters that are not finite, no batches, or a loss that is not a scalar.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        reduction: Reduction = "mean",
        params: Iterable[str | nn.Parameter] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._build(
            module,
            lambda model, batch: loss(model(batch[0]), batch[1]),
            as_batches(batches),
            None,
            reduction,
            params,
            dtype,
        )

    @classmethod
    def from_batch_loss(
        cls,
        module: nn.Module,
        f: BatchLoss,
        batches: Iterable[Any],
        sizes: Sequence[int] | None = None,
        *,
        reduction: Reduction = "mean",
        params: Iterable[str | nn.Parameter] | None = None,
        dtype: torch.dtype | None = None,
    ) -> HessianOperator:
        """The same for f(module, batch) -> scalar, whatever a batch is.

        Args:
            sizes: how much each batch weighs in the mean: its number of examples (the default), or of whatever f is
                the mean over.
        """
        self = cls.__new__(cls)
        self._build(module, f, batches, sizes, reduction, params, dtype)
        return self

    def _build(
        self,
        module: nn.Module,
        f: BatchLoss,
        batches: Iterable[Any],
        sizes: Sequence[int] | None,
        reduction: Reduction,
        params: Iterable[str | nn.Parameter] | None,
        dtype: torch.dtype | None,
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: {reduction!r} is neither 'mean' nor 'sum'")
        self.module, self.reduction = plain(module), reduction
        self.parameters = chosen_parameters(self.module, params)
        self.device = device_of(self.module)
        own = next(iter(self.parameters.values())).dtype
        self.dtype = dtype or torch.promote_types(own, torch.float32)
        self.shapes = [p.shape for p in self.parameters.values()]
        self.lengths = [p.numel() for p in self.parameters.values()]
        self.num_params = sum(self.lengths)
        self.products = 0
        self._carrier = _Carrier(self.module, f)
        with measuring(self.module):
            wanted = None if dtype is None and own == self.dtype else self.dtype  # inputs go with the parameters
            held = [stored(batch, self.device, wanted) for batch in batches]
        numbers = [size_of(batch) for batch in held] if sizes is None else list(sizes)
        if len(numbers) != len(held):
            raise ValueError(f"sizes: {len(numbers)} numbers for {len(held)} batches")
        self._batches = [batch for batch, number in zip(held, numbers) if number]  # the mean over none is NaN
        self.sizes = [number for number in numbers if number]
        self.examples = int(self._summed(torch.tensor([float(sum(self.sizes))], dtype=torch.float64))[0])
        if self.examples == 0:
            raise ValueError("batches: there is no example in them")
        self._kept: _Kept | None = None

    # -- products

    def matvec(self, vector: Tensor) -> Tensor:
        """H v for v (q,)."""
        return self.matmat(vector.reshape(-1, 1))[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """H V for V (q, k). The graph of each batch's gradient is built once for all k; one all_reduce."""
        if vectors.dim() != 2 or len(vectors) != self.num_params:
            raise ValueError(f"vectors: shape {tuple(vectors.shape)}, not ({self.num_params}, k)")
        with measuring(self.module):  # tensors made in inference mode could not be added to outside it
            rows = vectors.to(self.device, self.dtype).T.contiguous()  # a vector a row
            rows = rows.clone() if rows.is_inference() else rows
            result = torch.zeros_like(rows)
            for index in range(len(self._batches)):
                self._add_products(index, rows, result)
        self.products += len(rows)
        return self._summed(result).T

    def _add_products(self, index: int, rows: Tensor, result: Tensor) -> None:
        leaves, gradients = self._gradient_graph(index)
        used = [(i, g) for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        if not used:  # the gradient does not depend on the parameters: this batch has no curvature
            return
        weight, keep = self._weight(index), self._kept is not None
        for k, row in enumerate(rows):
            pieces = row.split(self.lengths)
            curved = torch.autograd.grad(
                [g for _, g in used],
                leaves,
                [pieces[i].view(self.shapes[i]) for i, _ in used],
                retain_graph=keep or k + 1 < len(rows),
                allow_unused=True,
            )
            result[k].add_(flat(curved, leaves), alpha=weight)

    def gradient(self, shift: Tensor | None = None) -> Tensor:
        """∇L, (q,); at θ + shift (q,) if given."""
        with measuring(self.module):
            total = torch.zeros(self.num_params, device=self.device, dtype=self.dtype)
            for index in range(len(self._batches)):
                leaves = self._leaves(shift)
                loss = self._loss(index, leaves)
                total.add_(flat(torch.autograd.grad(loss, leaves, allow_unused=True), leaves),
                           alpha=self._weight(index))  # fmt: skip
        return self._summed(total)

    def gradients_and_products(self) -> Iterable[tuple[int, Tensor, Tensor]]:
        """For every batch of this rank: its size, its own gradient g_B (q,), and H_B g_B (q,); not summed."""
        for index, size in enumerate(self.sizes):
            with measuring(self.module):
                leaves, gradients = self._gradient_graph(index)
                g = flat([None if x is None else x.detach() for x in gradients], leaves)
                rows, result = g[None].contiguous(), torch.zeros_like(g)[None]
                self._add_products(index, rows, result)
            yield size, g, result[0] / self._weight(index)

    def weights(self) -> Tensor:
        """θ, (q,), a copy."""
        return torch.cat([p.detach().reshape(-1).to(self.dtype) for p in self.parameters.values()])

    # -- inside

    def _weight(self, index: int) -> float:
        return self.sizes[index] / self.examples if self.reduction == "mean" else 1.0

    def _gradient_graph(self, index: int) -> tuple[list[Tensor], list[Tensor | None]]:
        """Leaves and the gradient of one batch, differentiable.

        With a single batch it is kept between calls, with a copy of the module's tensors: weights that have changed
        since are seen by their values (their version counters miss changes through `.data`).
        """
        if self._kept is not None and all(torch.equal(t, copy) for t, copy in zip(self._tensors(), self._kept.tensors)):
            return self._kept.leaves, self._kept.gradients
        self._kept = None
        leaves = self._leaves()
        loss = self._loss(index, leaves)
        gradients: list[Tensor | None]
        gradients = list(torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True))
        if len(self._batches) == 1:
            self._kept = _Kept([t.detach().clone() for t in self._tensors()], leaves, gradients)
        return leaves, gradients

    def _tensors(self) -> list[Tensor]:
        return [*self.module.parameters(), *self.module.buffers()]

    def _leaves(self, shift: Tensor | None = None) -> list[Tensor]:
        """The chosen parameters as leaves of a graph of our own."""
        if shift is None:
            # With a single batch the graph outlives this call: it gets weights of its own.
            own = copied if len(self._batches) == 1 else detached
            return [own(p, self.dtype).requires_grad_() for p in self.parameters.values()]
        pieces = shift.to(self.device, self.dtype).split(self.lengths)
        return [
            (detached(p, self.dtype) + piece.view(p.shape)).requires_grad_()
            for p, piece in zip(self.parameters.values(), pieces)
        ]

    def _loss(self, index: int, leaves: list[Tensor]) -> Tensor:
        own = copied if len(self._batches) == 1 else detached
        tensors = {f"module.{name}": own(p, self.dtype) for name, p in self.module.named_parameters()}
        tensors |= {f"module.{name}": copied(b, self.dtype) for name, b in self.module.named_buffers()}
        tensors |= {f"module.{name}": leaf for name, leaf in zip(self.parameters, leaves)}
        loss = scalar(functional_call(self._carrier, tensors, (self._batches[index],)))
        if not loss.requires_grad:
            raise ValueError("loss: does not depend on any of the chosen parameters")
        return loss

    def _summed(self, values: Tensor) -> Tensor:
        """Summed over ranks, in place; all ranks must come here."""
        if distributed():
            there = values.to(self.device)  # NCCL takes no CPU tensor
            torch.distributed.all_reduce(there)
            return there
        return values
