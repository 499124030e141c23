"""Generalised Gauss-Newton and Fisher: the part of the Hessian that the network's own curvature does not enter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from callbacks.functional.hessian_operator import BatchLoss, HessianOperator, Loss, Reduction
from callbacks.functional.inputs import copied, detached, flat, scalar


class GGNOperator(HessianOperator):
    """G = E[J' ∇²ℓ J], J the Jacobian of the outputs, ∇²ℓ the loss's Hessian in them (Schraudolph 2002).

    Takes what HessianOperator takes and serves every function that an operator serves. For the cross-entropy G is the
    Fisher information of the model's own distribution, so `trace(GGNOperator(…))` is its trace. A loss that is linear
    in the outputs has G = 0.

    Raises:
        ValueError: as HessianOperator; and `from_batch_loss`, which does not tell network and loss apart.
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
        super().__init__(module, loss, batches, reduction=reduction, params=params, dtype=dtype)
        self.loss = loss

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
        raise ValueError(
            f"from_batch_loss: {getattr(f, '__name__', f)!r} does not tell the network's output from the loss, which "
            "the Gauss-Newton matrix needs; take GGNOperator(module, loss, batches)"
        )

    def _add_products(self, index: int, rows: Tensor, result: Tensor) -> None:
        leaves = self._leaves()
        output = self._output(index, leaves)
        free = output.detach().requires_grad_()
        slope = self._slope(index, free)
        if slope is None or not slope.requires_grad:  # the loss is linear in the outputs
            return
        dummy = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, leaves, dummy, create_graph=True, allow_unused=True)
        used = [(i, p) for i, p in enumerate(pulled) if p is not None]
        for k, row in enumerate(rows):
            pieces = row.split(self.lengths)
            # J v, as the derivative of J' u with respect to u
            (pushed,) = torch.autograd.grad(
                [p for _, p in used], dummy, [pieces[i].view(self.shapes[i]) for i, _ in used], retain_graph=True
            )
            (curved,) = torch.autograd.grad(slope, free, pushed, retain_graph=True, allow_unused=True)
            if curved is None:  # linear in the outputs, with parameters of the loss's own
                return
            back = torch.autograd.grad(output, leaves, curved, retain_graph=True, allow_unused=True)
            result[k].add_(flat(back, leaves), alpha=self._weight(index))

    def _output(self, index: int, leaves: list[Tensor]) -> Tensor:
        tensors = {name: detached(p, self.dtype) for name, p in self.module.named_parameters()}
        tensors |= {name: copied(b, self.dtype) for name, b in self.module.named_buffers()}  # forward may write them
        output = functional_call(self.module, tensors | dict(zip(self.parameters, leaves)), (self._batches[index][0],))
        if not isinstance(output, Tensor):
            raise ValueError(f"module: returned a {type(output).__name__}, not a tensor of outputs")
        if not output.requires_grad:
            raise ValueError("module: its output does not depend on any of the chosen parameters")
        return output

    def _slope(self, index: int, free: Tensor) -> Tensor | None:
        """∇ℓ in the outputs `free`, differentiable; None if they do not enter."""
        loss = scalar(self.loss(free, self._batches[index][1]))
        if not loss.requires_grad:
            raise ValueError("loss: does not depend on the output of the module")
        return torch.autograd.grad(loss, free, create_graph=True, allow_unused=True)[0]
