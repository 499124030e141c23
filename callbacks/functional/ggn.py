"""Generalised Gauss-Newton and Fisher: the part of the Hessian that the network's own curvature does not enter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from callbacks.functional.hessian_operator import HessianOperator, Loss, Reduction
from callbacks.functional.inputs import flat


class GGNOperator(HessianOperator):
    """G = E[J' ∇²ℓ J], J the Jacobian of the outputs, ∇²ℓ the loss's Hessian in them (Schraudolph 2002).

    Takes what HessianOperator takes and serves every function that an operator serves. For the cross-entropy G is the
    Fisher information of the model's own distribution, so `trace(GGNOperator(…))` is its trace.
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

    def _add_products(self, index: int, rows: Tensor, result: Tensor) -> None:
        inputs, targets = self._batches[index]
        leaves = self._leaves()
        tensors = {name: p.detach().to(self.dtype) for name, p in self.module.named_parameters()}
        tensors |= {n: b.to(self.dtype) if b.is_floating_point() else b for n, b in self.module.named_buffers()}
        output = functional_call(self.module, tensors | dict(zip(self.parameters, leaves)), (inputs,))
        free = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.loss(free, targets), free, create_graph=True)
        dummy = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, leaves, dummy, create_graph=True, allow_unused=True)
        used = [(i, p) for i, p in enumerate(pulled) if p is not None]
        for k, row in enumerate(rows):
            pieces = row.split(self.lengths)
            # J v, as the derivative of J' u with respect to u
            (pushed,) = torch.autograd.grad(
                [p for _, p in used], dummy, [pieces[i].view(self.shapes[i]) for i, _ in used], retain_graph=True
            )
            (curved,) = torch.autograd.grad(slope, free, pushed, retain_graph=True)
            back = torch.autograd.grad(output, leaves, curved, retain_graph=True, allow_unused=True)
            result[k].add_(flat(back, leaves), alpha=self._weight(index))
