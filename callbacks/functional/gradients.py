"""Gradients of single examples, by torch.func, or of batches: what gradient noise is measured from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from callbacks.functional.hessian_operator import Loss
from callbacks.functional.inputs import (
    as_batches,
    chosen_parameters,
    copied,
    detached,
    distributed,
    flat,
    of_all_ranks,
    size_of,
    stored,
)
from callbacks.functional.state import device_of

Estimator = Literal["examples", "batches"]


class Gradients:
    """Gradients as rows (m, q), computed when asked for; the same each time."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        estimator: Estimator,
        params: Iterable[str | nn.Parameter] | None,
        seed: int,
        chunk: int,
    ) -> None:
        self.module, self.loss, self.seed, self.chunk = module, loss, seed, chunk
        chosen = chosen_parameters(module, params)
        own = next(iter(chosen.values())).dtype
        self.dtype = torch.promote_types(own, torch.float32)
        self.leaves = {name: copied(p, self.dtype) for name, p in chosen.items()}
        self.rest = {n: detached(p, self.dtype) for n, p in module.named_parameters() if n not in chosen}
        self.num_params = sum(p.numel() for p in self.leaves.values())
        wanted = None if own == self.dtype else self.dtype  # inputs in bfloat16 go with parameters in bfloat16
        joined = [stored(batch, device_of(module), wanted) for batch in _over_ranks(batches)]
        if not joined:
            raise ValueError("batches: there is no example in them")
        self.estimator = estimator
        if estimator == "examples":
            self.inputs = torch.cat([b[0] for b in joined])
            self.targets = torch.cat([b[1] for b in joined])
            self.batch_size = 1.0
            self.own: list[str] = []
            self.own = self._own_buffers()
        else:
            sizes = {size_of(b) for b in joined}
            if len(sizes) > 1:
                raise ValueError(f"batches: sizes {sorted(sizes)}; batch means need one size")
            self.batches, self.batch_size = joined, float(sizes.pop())

    def __len__(self) -> int:
        return len(self.targets) if self.estimator == "examples" else len(self.batches)

    def __call__(self, start: int, stop: int) -> Tensor:
        """(stop - start, q). Random layers draw by the number of the chunk or batch."""
        return self._of_examples(start, stop) if self.estimator == "examples" else self._of_batches(start, stop)

    def _buffers(self) -> dict[str, Tensor]:
        """Copies: a forward pass may write to them."""
        return {n: copied(b, self.dtype) for n, b in self.module.named_buffers()}

    def _own_buffers(self) -> list[str]:
        """The buffers that each example needs a copy of: a forward pass writes to them what depends on the example."""
        buffers = self._buffers()
        with torch.no_grad():
            functional_call(self.module, self.leaves | self.rest | buffers, (self.inputs[:1],))
        written = [n for n, b in buffers.items() if b._version]
        if not written:
            return []
        try:  # a spectral norm's vectors may not be copied, by vmap's rules, and running means must be
            self._gradients(0, min(2, len(self)))
        except RuntimeError:
            return written
        return []

    def _of_examples(self, start: int, stop: int) -> Tensor:
        found = []
        for first in range(start - start % self.chunk, stop, self.chunk):  # whole chunks, so that draws repeat
            rows = self._gradients(first, min(first + self.chunk, len(self)))
            found.append(rows[max(start - first, 0) : stop - first])
        return torch.cat(found)

    def _gradients(self, first: int, last: int) -> Tensor:
        """(last - first, q), those of a chunk of examples."""
        torch.manual_seed(self.seed + first)
        buffers = self._buffers()
        buffers |= {n: buffers[n].expand(last - first, *buffers[n].shape).clone() for n in self.own}

        def loss_of(leaves: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            output = functional_call(self.module, leaves | self.rest | buffers, (x[None],))
            return self.loss(output, y[None])

        dims = (None, {n: 0 if n in self.own else None for n in buffers}, 0, 0)
        each = vmap(grad(loss_of), in_dims=dims, randomness="different")
        gradients = each(self.leaves, buffers, self.inputs[first:last], self.targets[first:last])
        return torch.cat([g.flatten(1) for g in gradients.values()], 1)

    def _of_batches(self, start: int, stop: int) -> Tensor:
        found = []
        for index in range(start, stop):
            torch.manual_seed(self.seed + index)
            leaves = {n: p.detach().requires_grad_() for n, p in self.leaves.items()}
            inputs, targets = self.batches[index]
            value = self.loss(functional_call(self.module, leaves | self.rest | self._buffers(), (inputs,)), targets)
            wanted = list(leaves.values())
            found.append(flat(torch.autograd.grad(value, wanted, allow_unused=True), wanted))
        return torch.stack(found)

    def differences(self, n: int) -> Tensor:
        """(n, q): (g_2i - g_2i+1)/√2, of mean 0 and the covariance of one row."""
        rows = self(0, 2 * n)
        return (rows[0::2] - rows[1::2]) / math.sqrt(2)


def _over_ranks(batches: Iterable[Any]) -> list[Any]:
    """The i-th batches of all ranks as one, on every rank; in one process the batches as they are."""
    own = list(as_batches(batches))
    if not distributed():
        return own
    ranks = of_all_ranks([stored(b, torch.device("cpu"), None) for b in own])
    joined = []
    for i in range(max(map(len, ranks))):
        parts = [rank[i] for rank in ranks if i < len(rank)]
        joined.append((torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])))
    return joined
