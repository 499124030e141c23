"""Gradients of single examples, or of batches: what gradient noise is measured from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from three_factors.callbacks.functional.attributes import attributes_kept
from three_factors.callbacks.functional.called import Called
from three_factors.callbacks.functional.differentiable import check_exchanged
from three_factors.callbacks.functional.draws import other_state, seed_all, torch_state
from three_factors.callbacks.functional.inputs import (
    chosen_parameters,
    copied,
    distributed,
    flat,
    of_all_ranks,
    stored,
)
from three_factors.callbacks.functional.nests import (
    Unjoinable,
    cut,
    joined,
    listed,
    placed,
    rebuilt,
    size_of,
    tensors_of,
)
from three_factors.callbacks.functional.objective import Objective
from three_factors.callbacks.functional.state import device_of, measuring

Estimator = Literal["per_example", "loop", "batch_means"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
DRAWN_TOGETHER = 8  # examples whose dropout is drawn at once: a number that no memory parameter changes


class Gradients:
    """Gradients as rows (m, q), computed when asked for; the same each time.

    Attributes:
        estimator: how they are computed. batch_size: examples that a row is the mean over.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        batches: Iterable[Any],
        estimator: Estimator | Literal["auto"],
        params: Iterable[str | nn.Parameter] | None,
        seed: int,
        chunk: int,
        training: bool = True,
    ) -> None:
        self.module, self.objective, self.seed = module, objective, seed
        chosen = chosen_parameters(module, params)
        types = [p.dtype for p in chosen.values()]
        self.dtype = max((torch.promote_types(t, torch.float32) for t in types), key=lambda t: t.itemsize)
        self.called = Called(module, self.dtype)
        self.leaves = {name: copied(p, self.dtype) for name, p in chosen.items()}
        self.num_params = sum(p.numel() for p in self.leaves.values())
        wanted = None if set(types) == {self.dtype} else self.dtype  # inputs in bfloat16 go with such parameters
        self.batches = [stored(batch, device_of(module), wanted) for batch in _over_ranks(batches)]
        if not self.batches:
            raise ValueError("batches: there is no example in them")
        self.sizes = [size_of(batch) for batch in self.batches]
        self.own: list[str] = []  # the buffers that each example needs a copy of
        self.training = training
        self._draws_elsewhere = False  # by numpy or Python
        self._asked = estimator
        _check_lengths(self.batches, self.sizes)
        self._check_exchanged(chosen)
        self.draws = training and self._draws()
        self.chunk = DRAWN_TOGETHER if self.draws else chunk
        try:
            self.examples = joined(self.batches)
        except Unjoinable:
            self.examples = None
        self.estimator: Estimator = self._chosen(estimator)

    def measuring(self) -> AbstractContextManager[None]:
        """Returns what rows are computed within."""
        return measuring(self.module, training=self.training)

    @property
    def batch_size(self) -> float:
        """Raises ValueError for batches of several sizes, where it is their means that are taken."""
        if self.estimator != "batch_means":
            return 1.0
        if len(set(self.sizes)) > 1:
            raise ValueError(f"batches: sizes {sorted(set(self.sizes))}; batch means need one size")
        return float(self.sizes[0])

    def __len__(self) -> int:
        return len(self.batches) if self.estimator == "batch_means" else sum(self.sizes)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Returns (stop - start, q). Random layers draw by the number of the example, of its group, or of the batch."""
        if self.estimator == "per_example":
            return self._of_examples(start, stop)
        if self.estimator == "loop":
            return torch.stack([self._gradient(self._example(i), self.seed + i) for i in range(start, stop)])
        # Of a sum over examples the mean is what a row is, whatever the loss does.
        over = self.batch_size if self.objective.reduction == "sum" else 1.0
        rows = [self._gradient(self.batches[i], self.seed + i) / over for i in range(start, stop)]
        return torch.stack(rows)

    def differences(self, n: int) -> Tensor:
        """Returns (n, q): (g_2i - g_2i+1)/√2, of mean 0 and the covariance of one row."""
        rows = self(0, 2 * n)
        return (rows[0::2] - rows[1::2]) / math.sqrt(2)

    # -- which estimator

    def _chosen(self, asked: Estimator | Literal["auto"]) -> Estimator:
        """Returns the estimator asked for, if it can be had; by default the first of all that can."""
        if asked not in ("auto", *ESTIMATORS):
            raise ValueError(f"estimator: {asked!r} is none of {', '.join(map(repr, ('auto', *ESTIMATORS)))}")
        if asked == "batch_means":
            return asked
        why = self._coupled()
        if why is not None:
            if asked != "auto":
                raise ValueError(f"estimator: {asked!r} is not to be had, since {why}; take 'batch_means'")
            if "batch norm" not in why:
                warnings.warn(f"gradient noise: measured on batch means, since {why}", stacklevel=2)
            return "batch_means"
        if asked == "loop":
            return asked
        failed = self._without_vmap()
        if failed is None:
            return "per_example"
        if asked == "per_example":
            raise ValueError(f"estimator: 'per_example' cannot go through this module ({failed}); take 'loop'")
        return "loop"

    def _coupled(self) -> str | None:
        """Says why the loss of a batch is not made of its examples' own, if it is not."""
        norms = [m for m in self.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if any(norm.training for norm in norms):
            return "under batch norm in train mode an example has no gradient of its own"
        if self.objective.reduction == "batch":
            return "with reduction='batch' an example has no loss of its own"
        self.own = self._own_buffers()
        scales = []
        with torch.no_grad(), measuring(self.module, training=self.training and not self.draws):
            for first, batch, size in zip(self._starts(), self.batches, self.sizes):
                whole = float(self._loss(batch, self.called.tensors()))
                singles = self._losses(first, size, batch)
                total = float(singles.sum())
                expected = total if self.objective.reduction == "sum" else total / size
                scales.append(abs(whole) + float(singles.abs().mean()))
                rounding = 300 * torch.finfo(self.dtype).eps * scales[-1]
                if math.isfinite(whole) and not abs(whole - expected) <= rounding:
                    if self.draws and self._draws():
                        return "the loss, or the module, draws random numbers in eval mode too"
                    again = float(self._loss(batch, self.called.tensors()))
                    if abs(again - whole) > 300 * torch.finfo(self.dtype).eps * abs(whole):
                        return "the loss, or the module, draws random numbers from a generator of its own"
                    return (
                        f"the loss of a batch, {whole:.6g}, is not the {self.objective.reduction} of its examples' "
                        f"losses, {expected:.6g} (class weights, ignored targets, a loss over the batch?)"
                    )
        # In eval mode examples may be apart that train mode brings together.
        return self._meeting(scales) if self.draws else None

    def _meeting(self, scales: Sequence[float]) -> str | None:
        """Says that examples meet in train mode, if they do, where what is drawn does not let losses be compared.

        Under the same random numbers a sum over examples changes by the exchange of some, and by that of the others,
        and by that of both at once as by the two together. They are exchanged for copies of one another, so that what
        a layer takes of a batch changes much, however large that is.

        Args:
            scales: for each batch the size of its loss and of its examples', which rounding goes by.
        """
        with torch.no_grad(), measuring(self.module, training=True):
            for number, (batch, size, scale) in enumerate(zip(self.batches, self.sizes, scales)):
                seed = self.seed + number
                order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
                ones, others = set(order[: size // 2]), set(order[size // 2 :])
                if not ones:
                    continue
                values = []
                for exchanged in (set(), ones, others, ones | others):
                    places = [i if i not in exchanged else order[-1 if i in ones else 0] for i in range(size)]
                    seed_all(seed)
                    values.append(float(self._loss(placed(batch, places), self.called.tensors())))
                apart = values[0] - values[1] - values[2] + values[3]
                rounding = 100 * torch.finfo(self.dtype).eps * (scale + max(map(abs, values)))
                if math.isfinite(values[0]) and not abs(apart) <= rounding:
                    return (
                        "in train mode the loss of a batch is not made of its examples' own (mixup, a norm over the "
                        "batch, random numbers of another generator than torch's?)"
                    )
        return None

    def _starts(self) -> list[int]:
        return [sum(self.sizes[:i]) for i in range(len(self.sizes))]

    def _losses(self, first: int, size: int, batch: Any) -> Tensor:
        """Returns the losses of a batch's examples, one at a time, (size,)."""
        if self.examples is not None and self._asked != "loop":
            try:
                with attributes_kept(self.module):  # metrics, say, that vmap's tensors have got into
                    return self._losses_at_once(first, first + size)
            except Exception:  # vmap has as many kinds of refusal as there are operations; one at a time all go
                pass
        tensors = self.called.tensors
        return torch.stack([self._loss(cut(batch, i, i + 1), tensors()).detach() for i in range(size)])

    def _losses_at_once(self, first: int, last: int) -> Tensor:
        found = []
        for start in range(first, last, self.chunk):
            stop = min(start + self.chunk, last)
            found.append(self._vmapped(lambda f: f, start, stop, self.called.tensors()))
        return torch.cat(found)

    def _without_vmap(self) -> str | None:
        """Says why vmap cannot go through the module, in a few words.

        Or that it gave another gradient than the loop.
        """
        if self.examples is None:
            return "its batches have different shapes"
        if self._draws_elsewhere:
            return "it draws random numbers that are not torch's, which vmap draws once for several examples"
        try:
            with attributes_kept(self.module):
                rows = self._gradients(0, min(2, sum(self.sizes)))
        except Exception as error:  # any kind: see `_losses`
            return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if not self.draws:
            one = self._gradient(self._example(0), self.seed)
            scale = float(one.norm())
            if (
                math.isfinite(scale)
                and float((rows[0] - one).norm()) > 1e4 * torch.finfo(self.dtype).eps * scale + 1e-30
            ):
                return "vmap gives another gradient than one example alone"
        return None

    def _draws(self) -> bool:
        """Tells whether a forward pass draws random numbers of torch; notes whether of numpy or Python too."""
        device = device_of(self.module)
        before, elsewhere = torch_state(device), other_state()
        with torch.no_grad():
            self._loss(self._small(), self.called.tensors())
        self._draws_elsewhere |= elsewhere != other_state()
        return before != torch_state(device)

    def _check_exchanged(self, chosen: Mapping[str, nn.Parameter]) -> None:
        """Raises ValueError where the loss reads a parameter past the module, and its gradients would lack a part."""
        with attributes_kept(self.module):
            leaves = {name: p.detach().requires_grad_() for name, p in self.leaves.items()}
            check_exchanged([self._loss(self._small(), self.called.tensors() | leaves)], chosen)

    def _small(self) -> Any:
        """Returns a few examples, two where there are, since batch norm takes no single one.

        All where they belong together.
        """
        if self.objective.reduction == "batch":
            return self.batches[0]
        try:
            return cut(self.batches[0], 0, 2)
        except ValueError:
            return self.batches[0]

    # -- rows

    def _loss(self, batch: Any, tensors: dict[str, Tensor]) -> Tensor:
        return self.called(self.objective, batch, tensors)

    def _example(self, index: int) -> Any:
        for first, batch, size in zip(self._starts(), self.batches, self.sizes):
            if index < first + size:
                return cut(batch, index - first, index - first + 1)
        raise IndexError(index)

    def _gradient(self, batch: Any, seed: int) -> Tensor:
        """Returns (q,), of a batch."""
        seed_all(seed)
        leaves = {n: p.detach().requires_grad_() for n, p in self.leaves.items()}
        value = self._loss(batch, self.called.tensors() | leaves)
        wanted = list(leaves.values())
        return flat(torch.autograd.grad(value, wanted, allow_unused=True), wanted)

    def _of_examples(self, start: int, stop: int) -> Tensor:
        found = []
        for first in range(start - start % self.chunk, stop, self.chunk):  # whole chunks, so that draws repeat
            rows = self._gradients(first, min(first + self.chunk, len(self)))
            found.append(rows[max(start - first, 0) : stop - first])
        return torch.cat(found)

    def _gradients(self, first: int, last: int) -> Tensor:
        """Returns (last - first, q), those of a chunk of examples."""
        seed_all(self.seed + first)
        gradients = self._vmapped(grad, first, last, self.called.tensors(), self.leaves)
        return torch.cat([g.flatten(1) for g in gradients.values()], 1)

    def _vmapped(self, transform: Any, first: int, last: int, tensors: dict[str, Tensor], leaves: Any = None) -> Any:
        """Returns transform(loss of one example), for each of them; its first argument are the leaves."""
        number, total = last - first, sum(self.sizes)
        each = [t.dim() > 0 and len(t) == total for t in tensors_of(self.examples)]
        given = [t[first:last] if own else t for t, own in zip(tensors_of(self.examples), each)]
        buffers = {n: tensors.pop(n) for n in self.own}
        buffers = {n: b.expand(number, *b.shape).clone() for n, b in buffers.items()}

        def loss_of(leaves: dict[str, Tensor], buffers: dict[str, Tensor], *values: Tensor) -> Tensor:
            one = [v[None] if own else v for v, own in zip(values, each)]
            return self._loss(rebuilt(self.examples, one), tensors | leaves | buffers)

        dims = (None, dict.fromkeys(buffers, 0), *(0 if own else None for own in each))
        return vmap(transform(loss_of), in_dims=dims, randomness="different")(leaves or {}, buffers, *given)

    def _own_buffers(self) -> list[str]:
        """Returns the buffers that each example needs a copy of: a forward pass writes to them what depends on the
        example.
        """
        if self.examples is None:
            return []
        buffers = self.called.buffers()
        with torch.no_grad():
            self._loss(self._example(0), self.called.tensors() | buffers)
        written = [n for n, b in buffers.items() if b._version]
        if not written:
            return []
        try:  # a spectral norm's vectors may not be copied, by vmap's rules, and running means must be
            self._gradients(0, min(2, sum(self.sizes)))
        except Exception:  # any kind: see `_losses`
            return written
        return []


def _check_lengths(batches: Sequence[Any], sizes: Sequence[int]) -> None:
    """Raises ValueError where it cannot be told how many examples a batch has, or which of its parts are theirs."""
    for batch, size in zip(batches, sizes):
        lengths = {len(t) for t in tensors_of(batch) if t.dim()} if listed(batch) is None else {size}
        if lengths != {size}:
            raise ValueError(
                f"batches: tensors of {', '.join(map(str, sorted(lengths)))} entries in a batch; gradient noise needs "
                "one number of examples, which comes first in every tensor (leave the rest out of batches=)"
            )


def _over_ranks(batches: Iterable[Any]) -> list[Any]:
    """Returns the i-th batches of all ranks as one, on every rank; in one process the batches as they are."""
    own = list(batches)
    if not distributed():
        return own
    ranks = of_all_ranks([stored(b, torch.device("cpu"), None) for b in own])
    return [joined([rank[i] for rank in ranks if i < len(rank)]) for i in range(max(map(len, ranks)))]
