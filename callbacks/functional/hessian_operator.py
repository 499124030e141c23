"""The Hessian of a loss as a linear operator: products with vectors, never the matrix.

H = ∇²L(θ), L the mean (or sum) of a loss over given batches. A product is the derivative of g(θ)·v (Pearlmutter 1994)
by `autograd.grad`: no `.grad` is read or written, and no hook of a distributed wrapper runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from three_factors.callbacks.functional.attributes import attributes_kept
from three_factors.callbacks.functional.called import Called
from three_factors.callbacks.functional.differentiable import (
    NoDerivative,
    check_against_differences,
    check_differentiable,
    check_exchanged,
    named_layer,
    own_functions,
    ways_out,
)
from three_factors.callbacks.functional.fields import exact_type
from three_factors.callbacks.functional.inputs import (
    alone,
    as_batches,
    chosen_parameters,
    copied,
    detached,
    distributed,
    flat,
    of_all_ranks,
    parted,
    stored,
    summed,
)
from three_factors.callbacks.functional.nests import cut, size_of
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction, Weights
from three_factors.callbacks.functional.probes import Probe, probes
from three_factors.callbacks.functional.shares import check_parts, shares, try_on
from three_factors.callbacks.functional.state import device_of, measuring, plain

FEW = 4  # examples that second derivatives are compared on


@dataclass(frozen=True)
class _Kept:
    """The gradient's graph of a single batch, and a copy of the tensors it was built from."""

    tensors: list[Tensor]
    leaves: list[Tensor]
    gradients: list[Tensor | None]


class HessianOperator:
    """The Hessian of `loss(module(input), target)` over batches, in eval mode unless `training` is asked for.

        H = HessianOperator(module, F.cross_entropy, loader)
        top_eigenvalues(H, k=5), trace(H), H.matvec(v)

    Args:
        module: any nn.Module or LightningModule; a compiled or DDP-wrapped one is measured as the plain one inside.
        loss: loss(output, target), a scalar; or give `batch_loss`, f(module, batch), whatever a batch is.
        batches: (input, target) or (inputs…, target), a loader of them, or one pair of tensors. Read once and kept on
            the module's device. Under torch.distributed these are this rank's examples; ranks may have different
            numbers of them.
        reduction: how the loss treats the examples of a batch. "mean": L is the mean over all examples of all batches
            and ranks; "sum": the sum; "batch": the mean over batches. It is compared with what the loss does: a mean
            with weights of its own (class weights, ignored targets) is recognised and L is that mean over all the
            data, however they are split into batches.
        weights: weights(batch), what a batch weighs in the mean, where that is to be said and not found.
        params: the rows of H: names or Parameters (a layer, say); by default every parameter that requires grad.
        dtype: of the arithmetic, torch.float32 or float64; the module keeps its own. By default the parameters'
            (float32 at least).
        training: in train mode: batch norm over each batch, dropout as it is drawn once. Each batch is then what
            training makes of it, and weighs as many examples as it has. In one process.

    Attributes:
        num_params: q, the number of rows. products: how many H v were computed, over all the data.

    Raises:
        ValueError: no parameters, parameters that are not finite (or complex, sparse, sharded), no batches, a loss
            that is not a scalar or not what `reduction` says, another dtype, train mode on several ranks; in a product,
            a layer without a second derivative, or a loss that reads a parameter from elsewhere than the module.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss | None,
        batches: Iterable[Any],
        *,
        batch_loss: BatchLoss | None = None,
        reduction: Reduction = "mean",
        weights: Weights | None = None,
        params: Iterable[str | nn.Parameter] | None = None,
        dtype: torch.dtype | None = None,
        training: bool = False,
    ) -> None:
        objective = Objective(loss, batch_loss, reduction, weights)
        self._build(module, objective, as_batches(batches), None, params, dtype, training)

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
        """Returns the same for f(module, batch) -> scalar, whatever a batch is.

        Args:
            sizes: how much each batch weighs in the mean: its number of examples (the default, which is compared with
                what f does), or of whatever f is the mean over (which is believed).
        """
        self = cls.__new__(cls)
        self._build(module, Objective(batch_loss=f, reduction=reduction), batches, sizes, params, dtype)
        return self

    @classmethod
    def of(
        cls,
        module: nn.Module,
        objective: Objective,
        batches: Iterable[Any],
        *,
        params: Iterable[str | nn.Parameter] | None = None,
        dtype: torch.dtype | None = None,
        training: bool = False,
    ) -> HessianOperator:
        """Returns the same for an `Objective`."""
        self = cls.__new__(cls)
        self._build(module, objective, as_batches(batches), None, params, dtype, training)
        return self

    @classmethod
    def tried(cls, module: nn.Module, objective: Objective, batch: Any, **options: Any) -> HessianOperator:
        """Returns the same for one small batch, for a trial: the loss is tried on its halves, as of two batches."""
        self = cls.__new__(cls)
        self._build(module, objective, [batch], [size_of(batch)], **{"params": None, "dtype": None} | options)
        if not self.training:  # in train mode a part of a batch need not have its loss
            with measuring(self.module):
                try_on(objective, self._ways(), self._batches[0])
        return self

    def _build(
        self,
        module: nn.Module,
        objective: Objective,
        batches: Iterable[Any],
        sizes: Sequence[int] | None,
        params: Iterable[str | nn.Parameter] | None,
        dtype: torch.dtype | None,
        training: bool = False,
    ) -> None:
        exact_type("dtype", dtype)
        self.module, self.objective, self.training = plain(module), objective, training
        if training and distributed():
            raise ValueError("training: the Hessian in train mode is measured in one process, not on several ranks")
        self.parameters = chosen_parameters(self.module, params)
        self.device = device_of(self.module)
        types = [p.dtype for p in self.parameters.values()]
        self.dtype = dtype or max((torch.promote_types(t, torch.float32) for t in types), key=lambda t: t.itemsize)
        self.shapes = [p.shape for p in self.parameters.values()]
        self.lengths = [p.numel() for p in self.parameters.values()]
        self.num_params = sum(self.lengths)
        self.products = 0
        self._called = Called(self.module, self.dtype)
        with self._measuring():
            wanted = None if dtype is None and set(types) == {self.dtype} else self.dtype  # inputs go with parameters
            held = [stored(batch, self.device, wanted) for batch in batches]
        numbers = [size_of(batch) for batch in held] if sizes is None else list(sizes)
        if len(numbers) != len(held):
            raise ValueError(f"sizes: {len(numbers)} numbers for {len(held)} batches")
        self._batches = [batch for batch, number in zip(held, numbers) if number]  # the mean over none is NaN
        self.sizes = [number for number in numbers if number]
        self.examples = sum(of_all_ranks(sum(self.sizes)))
        if self.examples == 0:
            raise ValueError("batches: there is no example in them")
        self._kept: _Kept | None = None
        self._differentiable = False  # whether that has been seen
        self._exchanged = False  # whether the loss has been seen to take all parameters from the module
        if sizes is None and not training:
            check_parts(objective, self._batches)
            self._shares = self._weighed(self._batches, self.sizes)
        elif objective.reduction == "batch":
            self._shares = [1 / len(self._batches)] * len(self._batches)
        else:
            self._shares = [n / self.examples if objective.reduction == "mean" else 1.0 for n in self.sizes]
        # Batches that weigh nothing have no loss of their own (all targets ignored), but NaN.
        counting = [i for i, share in enumerate(self._shares) if share != 0]
        self._batches = [self._batches[i] for i in counting]
        self.sizes = [self.sizes[i] for i in counting]
        self._shares = [self._shares[i] for i in counting]

    def _measuring(self) -> AbstractContextManager[None]:
        return measuring(self.module, training=self.training)

    def _weighed(self, batches: Sequence[Any], sizes: Sequence[int]) -> list[float]:
        with self._measuring():
            return shares(self.objective, self._ways(), batches, sizes)

    def _ways(self) -> list[Probe]:
        return probes(self._called, self.objective, lambda: dict(zip(self.parameters, self._leaves())))

    # -- products

    def matvec(self, vector: Tensor) -> Tensor:
        """Returns H v for v (q,)."""
        return self.matmat(vector.reshape(-1, 1))[:, 0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """Returns H V for V (q, k). The graph of each batch's gradient is built once for all k; one all_reduce."""
        if vectors.dim() != 2 or len(vectors) != self.num_params:
            raise ValueError(f"vectors: shape {tuple(vectors.shape)}, not ({self.num_params}, k)")
        with self._measuring():  # tensors made in inference mode could not be added to outside it
            rows = vectors.to(self.device, self.dtype).T.contiguous()  # a vector a row
            rows = rows.clone() if rows.is_inference() else rows
            result = torch.zeros_like(rows)

            def own() -> Tensor:
                for index in range(len(self._batches)):
                    with attributes_kept(self.module):  # what a pass has cached belongs to a graph that is gone
                        self._add_products(index, rows, result)
                return result

            total = summed(own, result)
        self.products += len(rows)
        return total.T

    def _add_products(self, index: int, rows: Tensor, result: Tensor) -> None:
        leaves, gradients = self._gradient_graph(index)
        used = [(i, g) for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        if not used:  # the gradient does not depend on the parameters: this batch has no curvature
            return
        weight, keep = self._shares[index], self._kept is not None
        for k, row in enumerate(rows):
            pieces = parted(row, leaves)
            with self._second_derivatives(index):
                curved = torch.autograd.grad(
                    [g for _, g in used],
                    leaves,
                    [pieces[i] for i, _ in used],
                    retain_graph=keep or k + 1 < len(rows),
                    allow_unused=True,
                )
            result[k].add_(flat(curved, leaves), alpha=weight)

    def gradient(self, shift: Tensor | None = None) -> Tensor:
        """Returns ∇L, (q,); at θ + shift (q,) if given."""
        with self._measuring():
            total = torch.zeros(self.num_params, device=self.device, dtype=self.dtype)

            def own() -> Tensor:
                for index in range(len(self._batches)):
                    leaves = self._leaves(shift)
                    loss = self._loss(index, leaves)
                    slope = flat(torch.autograd.grad(loss, leaves, allow_unused=True), leaves)
                    total.add_(slope, alpha=self._shares[index])
                return total

            return summed(own, total)

    def gradients_and_products(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields for every batch of this rank its size, its own gradient g_B (q,), and H_B g_B (q,); not summed."""
        for index, size in enumerate(self.sizes):
            with self._measuring():
                leaves, gradients = self._gradient_graph(index)
                g = flat([None if x is None else x.detach() for x in gradients], leaves)
                rows, result = g[None].contiguous(), torch.zeros_like(g)[None]
                self._add_products(index, rows, result)
            yield size, g, result[0] / self._shares[index]

    def weights(self) -> Tensor:
        """Returns θ, (q,), a copy."""
        return torch.cat([p.detach().reshape(-1).to(self.dtype) for p in self.parameters.values()])

    # -- inside

    @contextmanager
    def _second_derivatives(self, index: int) -> Iterator[None]:
        """Says of which layer it is that torch has none, if it has none."""
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            layer = named_layer(self._called, self.objective, self._batches[index], error)
            if layer is None:
                raise
            raise NoDerivative(f"{layer} has no second derivative in torch; {ways_out(self.objective)}") from error

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
        with self._second_derivatives(index):
            gradients = list(torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True))
            if not self._differentiable:
                check_differentiable([g for g in gradients if g is not None])
                self._differentiable = True
                if names := own_functions(loss):
                    self._compare(index, names)
        if len(self._batches) == 1:
            self._kept = _Kept([t.detach().clone() for t in self._tensors()], leaves, gradients)
        return leaves, gradients

    def _compare(self, index: int, names: list[str]) -> None:
        """Raises NoDerivative where functions that are not torch's own have a wrong second derivative."""
        batch = self._batches[index]
        with suppress(Exception):  # a batch of any kind: then all of it
            batch = cut(batch, 0, FEW)
        twin = HessianOperator.__new__(HessianOperator)
        with alone():
            own = list(self.parameters)
            twin._build(self.module, self.objective, [batch], [1], own, torch.float64, self.training)
            twin._differentiable = True
            way_out = ways_out(self.objective)
            check_against_differences(twin.matvec, twin.gradient, twin.weights(), names, way_out)

    def _tensors(self) -> list[Tensor]:
        return [*self.module.parameters(), *self.module.buffers()]

    def _leaves(self, shift: Tensor | None = None) -> list[Tensor]:
        """Returns the chosen parameters as leaves of a graph of our own."""
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
        return self._loss_of(self._batches[index], leaves)

    def _loss_of(self, batch: Any, leaves: list[Tensor]) -> Tensor:
        # With a single batch the graph outlives this call: it gets weights of its own.
        tensors = self._called.tensors(own=len(self._batches) == 1) | dict(zip(self.parameters, leaves))
        loss = self._called(self.objective, batch, tensors)
        self._check_exchanged([loss])
        if not loss.requires_grad:
            raise ValueError("loss: does not depend on any of the chosen parameters")
        return loss

    def _check_exchanged(self, results: list[Tensor]) -> None:
        if not self._exchanged:
            check_exchanged(results, self.parameters)
            self._exchanged = True
