"""Generalised Gauss-Newton and Fisher: the part of the Hessian that the network's own curvature does not enter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from three_factors.callbacks.functional.differentiable import check_differentiable
from three_factors.callbacks.functional.hessian_operator import HessianOperator
from three_factors.callbacks.functional.inputs import as_batches, flat, parted
from three_factors.callbacks.functional.nests import rebuilt, tensors_of
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction, Weights


@dataclass(frozen=True)
class _Pulled:
    """J' u of the leaves as a graph in u: linear in it, so that its derivative along v is J v, wherever u is.

    Attributes:
        dummies: u, of the outputs' shapes.
        slopes: J' u; None for leaves that no output depends on.
    """

    dummies: list[Tensor]
    slopes: Sequence[Tensor | None]

    @classmethod
    def of(cls, leaves: list[Tensor], outputs: list[Tensor]) -> _Pulled:
        dummies = [torch.zeros_like(o, requires_grad=True) for o in outputs]
        slopes = torch.autograd.grad(outputs, leaves, dummies, create_graph=True, allow_unused=True)
        check_differentiable([p for p in slopes if p is not None])
        return cls(dummies, slopes)

    def pushed(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Returns J v of every output, v in the leaves' pieces; the graph is kept."""
        used = [(p, piece) for p, piece in zip(self.slopes, pieces) if p is not None]
        if not used:  # no output depends on the leaves
            return [torch.zeros_like(u) for u in self.dummies]
        slopes, changes = zip(*used)
        pushed = torch.autograd.grad(slopes, self.dummies, changes, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(u) if p is None else p for u, p in zip(self.dummies, pushed)]


class GGNOperator(HessianOperator):
    """G = E[J' ∇²ℓ J], J the Jacobian of the outputs, ∇²ℓ the loss's Hessian in them (Schraudolph 2002).

    Takes what HessianOperator takes and serves every function that an operator serves. For the cross-entropy G is the
    Fisher information of the model's own distribution, so `trace(GGNOperator(…))` is its trace. A loss that is linear
    in the outputs has G = 0. The outputs may be tensors in a structure. The network's layers need no second
    derivative: where one has none, J v comes by forward-mode differentiation.

    Raises:
        ValueError: as HessianOperator; and for a `batch_loss`, which does not tell network and loss apart.
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
        if objective.batch_loss is not None:
            name = getattr(objective.batch_loss, "__name__", objective.batch_loss)
            raise ValueError(
                f"batch_loss: {name!r} does not tell the network's output from the loss, which the Gauss-Newton "
                "matrix needs; give loss(output, target)"
            )
        super()._build(module, objective, batches, sizes, params, dtype, training)
        self._forward_mode = False

    def _add_products(self, index: int, rows: Tensor, result: Tensor) -> None:
        leaves = self._leaves()
        output = self._output(index, leaves)
        outputs = [t for t in tensors_of(output) if t.requires_grad]
        free = [t.detach().requires_grad_() for t in outputs]
        slopes = self._slopes(index, output, free)
        curving = [(i, s) for i, s in enumerate(slopes) if s is not None and s.requires_grad]
        if not curving:  # the loss is linear in the outputs
            return
        pulled = self._pulled(leaves, outputs)
        for k, row in enumerate(rows):
            pushed = self._pushed(index, leaves, pulled, row)
            curved = torch.autograd.grad(
                [s for _, s in curving], free, [pushed[i] for i, _ in curving], retain_graph=True, allow_unused=True
            )
            there = [(o, c) for o, c in zip(outputs, curved) if c is not None]
            if not there:  # linear in the outputs, with parameters of the loss's own
                return
            back = torch.autograd.grad(
                [o for o, _ in there], leaves, [c for _, c in there], retain_graph=True, allow_unused=True
            )
            result[k].add_(flat(back, leaves), alpha=self._shares[index])

    def _pulled(self, leaves: list[Tensor], outputs: list[Tensor]) -> _Pulled | None:
        """Returns J' u, from which J v of every v is derived; None where the layers have no second derivative."""
        if not self._forward_mode:
            try:
                return _Pulled.of(leaves, outputs)
            except (RuntimeError, NotImplementedError):
                self._forward_mode = True
        return None

    def _pushed(self, index: int, leaves: list[Tensor], pulled: _Pulled | None, row: Tensor) -> list[Tensor]:
        """Returns J v of every output."""
        pieces = parted(row, leaves)
        if pulled is not None and not self._forward_mode:
            try:
                return pulled.pushed(pieces)
            except (RuntimeError, NotImplementedError):
                self._forward_mode = True
        return self._pushed_forward(index, leaves, pieces)

    def _pushed_forward(self, index: int, leaves: list[Tensor], pieces: list[Tensor]) -> list[Tensor]:
        with self._second_derivatives(index), forward_ad.dual_level():
            duals = [forward_ad.make_dual(leaf, piece) for leaf, piece in zip(leaves, pieces)]
            outputs = [t for t in tensors_of(self._output(index, duals)) if t.requires_grad]
            tangents = [forward_ad.unpack_dual(t).tangent for t in outputs]
            return [torch.zeros_like(o) if t is None else t.detach() for o, t in zip(outputs, tangents)]

    def _output(self, index: int, leaves: list[Tensor]) -> Any:
        tensors = self._called.tensors() | dict(zip(self.parameters, leaves))
        output = self._called(self.objective.output, self._batches[index], tensors)
        if not tensors_of(output):
            raise ValueError(f"module: returned a {type(output).__name__} without a tensor in it")
        if not any(t.requires_grad for t in tensors_of(output)):
            raise ValueError("module: its output does not depend on any of the chosen parameters")
        return output

    def _slopes(self, index: int, output: Any, free: list[Tensor]) -> list[Tensor | None]:
        """Returns ∇ℓ in the outputs `free`, differentiable; None for those that do not enter."""
        replacing = iter(free)
        tensors = [next(replacing) if t.requires_grad else t for t in tensors_of(output)]
        given = rebuilt(output, tensors)
        loss = self._called(
            lambda module, batch: self.objective.of_output(given, batch), self._batches[index], self._called.tensors()
        )
        self._check_exchanged([*tensors_of(output), loss])
        if not loss.requires_grad:
            raise ValueError("loss: does not depend on the output of the module")
        return list(torch.autograd.grad(loss, free, create_graph=True, allow_unused=True))
