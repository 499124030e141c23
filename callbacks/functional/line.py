"""The line through two states of a module, and the loss on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from three_factors.callbacks.functional.attributes import attributes_kept
from three_factors.callbacks.functional.batch_statistics import batch_norms, own_statistics, re_estimated
from three_factors.callbacks.functional.called import Called
from three_factors.callbacks.functional.differentiable import check_exchanged
from three_factors.callbacks.functional.inputs import gathered
from three_factors.callbacks.functional.nests import cut, size_of
from three_factors.callbacks.functional.objective import Objective
from three_factors.callbacks.functional.probes import Probe, probes
from three_factors.callbacks.functional.shares import check_parts, shares, try_on
from three_factors.callbacks.functional.weights import Weights, aligned, load_weights

FEW = 4  # examples that a gradient's graph is built for
BatchNormPolicy = Literal["re-estimate", "interpolate", "batch"]


def check_policy(policy: BatchNormPolicy) -> None:
    """Raises ValueError unless it is one of them."""
    if policy not in get_args(BatchNormPolicy):
        raise ValueError(f"batch_norm: {policy!r} is none of {', '.join(map(repr, get_args(BatchNormPolicy)))}")


class Line:
    """The loss along the line through two states of a module, which itself stays as it is: no copy of it is made.

    Attributes:
        one, two: the ends' states, by name; those of half precision in float32. half: whether there are such.
        layers: the batch norm layers, by name. distance, norms: |θ2 - θ1|, and (|θ1|, |θ2|), of the parameters.
    """

    def __init__(
        self, module: nn.Module, objective: Objective, start: Weights, end: Weights, policy: BatchNormPolicy
    ) -> None:
        self.module, self.objective, self.policy = module, objective, policy
        self.one, self.two = (_state(w, module, name) for w, name in ((start, "start"), (end, "end")))
        self.half = any(t.is_floating_point() and t.itemsize < 4 for t in self.one.values())
        if self.half:
            self.one, self.two = ({n: _single(t) for n, t in state.items()} for state in (self.one, self.two))
        self.parameters = [name for name, _ in module.named_parameters()]
        numbers = [n for n in self.parameters if self.one[n].is_floating_point() or self.one[n].is_complex()]
        self.distance = _norm([self.two[n] - self.one[n] for n in numbers])
        self.norms = (_norm([self.one[n] for n in numbers]), _norm([self.two[n] for n in numbers]))
        self.layers = batch_norms(module)
        kinds = [t.dtype for t in self.one.values() if t.is_floating_point()] or [torch.float32]
        self._called = Called(module, max(kinds, key=lambda t: t.itemsize))
        self._shares: list[float] = []

    def weigh(self, held: list[Any]) -> None:
        """Finds how much each batch counts."""
        check_parts(self.objective, held)
        gathered(partial(self._check_exchanged, held[:1]))
        self._shares = shares(self.objective, self._ways(), held, [size_of(batch) for batch in held])

    def try_on(self, batch: Any) -> None:
        """Raises, for a trial, what `weigh` would raise of the batch's halves; then it is the only one."""
        try_on(self.objective, self._ways(), batch)
        self._check_exchanged([batch])
        self._shares = [1.0]

    def _ways(self) -> list[Probe]:
        return probes(self._called, self.objective, self._leaves)

    def _leaves(self) -> dict[str, Tensor]:
        there = {n: t for n, t in self.at(1.0).items() if n in self.parameters}
        return {n: t.requires_grad_() for n, t in there.items() if t.is_floating_point() or t.is_complex()}

    def _check_exchanged(self, batches: list[Any]) -> None:
        """Raises ValueError where the loss reads a parameter past the module, which would stay as it is all along."""
        for batch in batches:
            few = batch
            if self.objective.reduction != "batch":  # else a part of one need not have a loss
                with suppress(Exception):  # a batch of any kind
                    few = cut(batch, 0, FEW)
            with attributes_kept(self.module):
                loss = self._called(self.objective, few, self._called.tensors() | self._leaves())
            check_exchanged([loss], dict(self.module.named_parameters()))

    def at(self, a: float) -> dict[str, Tensor]:
        """Returns the state (1 - a) θ1 + a θ2; what is no real or complex number is the first end's."""
        state = {}
        for name, first in self.one.items():
            if first.is_floating_point() or first.is_complex():
                state[name] = (1 - a) * first + a * self.two[name]
                if name.endswith("running_var"):  # beyond the ends a line of variances may fall below 0
                    state[name].clamp_(min=0)
            else:
                state[name] = first.clone()
        return state

    def evaluated(self, a: float, held: list[Any], estimation: list[Any]) -> tuple[float, float, float]:
        """Returns loss, accuracy and the loss's standard error over batches, of all ranks' examples, at a."""
        state = self.at(a)
        with torch.no_grad(), attributes_kept(self.module):  # what a pass has cached is of the weights it had
            if self.layers and self.policy == "re-estimate":
                state |= {
                    name: value.to(state[name])
                    for name, value in re_estimated(self.layers, lambda: self._passes(state, estimation)).items()
                }
            own = list(self.layers.values()) if self.policy == "batch" else []
            with own_statistics(own, ghosts=True):
                rows = gathered(lambda: [self._row(state, b, s) for b, s in zip(held, self._shares)])
        return _summary([row for part in rows for row in part])

    def _passes(self, state: dict[str, Tensor], batches: list[Any]) -> None:
        for batch in batches:
            self._called(self._run, batch, self._apart(state))

    def _run(self, module: nn.Module, batch: Any) -> Any:
        if self.objective.loss is None:
            return self.objective(module, batch)
        return module(*batch) if len(batch) == 1 else self.objective.output(module, batch)

    def _row(self, state: dict[str, Tensor], batch: Any, share: float) -> tuple[float, float, int, float]:
        """Says how much a batch counts, its loss, its examples, and how many of them are classified rightly."""
        size = size_of(batch)
        if share == 0:  # it has no loss of its own
            return 0.0, 0.0, size, math.nan

        def both(module: nn.Module, batch: Any) -> tuple[float, float]:
            if self.objective.loss is None:
                return float(self.objective(module, batch)), math.nan
            output = self.objective.output(module, batch)
            return float(self.objective.of_output(output, batch)), _right(output, self.objective.target(batch))

        value, right = self._called(both, batch, self._apart(state))
        return share, value, size, right

    def _apart(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the state with copies of all buffers, stored or not: a forward pass may write to them."""
        buffers = {n: state.get(n, b).detach().clone() for n, b in self.module.named_buffers()}
        return {n: state[n] for n in self.parameters} | buffers


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


def _right(output: Any, target: Any) -> float:
    """Examples with the right class; NaN where the output is no table of logits for the numbers of classes."""
    tensors = isinstance(output, Tensor) and isinstance(target, Tensor)
    if not tensors or output.dim() != 2 or target.dim() != 1 or target.is_floating_point() or output.is_complex():
        return math.nan
    return float((output.argmax(1) == target).sum())


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(torch.linalg.vector_norm(x, dtype=_precise(x))) ** 2 for x in tensors))


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def _state(weights: Weights, module: nn.Module, name: str) -> dict[str, Tensor]:
    """Returns the module's parameters, and the buffers that are stored, out of these weights.

    Of tied ones the first name.
    """
    found = aligned(load_weights(weights), module, name)
    own = (*module.named_parameters(), *module.named_buffers())
    return {key: found[key] for key, _ in own if key in found}


def _summary(rows: list[tuple[float, float, int, float]]) -> tuple[float, float, float]:
    """Loss, accuracy and standard error over all batches.

    Shares that add up to more than 1 are those of a sum, which is their number times the mean.
    """
    table = torch.tensor(rows, dtype=torch.float64)
    total = float(table[:, 0].sum())
    share = table[:, 0] / total
    mean = float((share * table[:, 1]).sum())
    scatter = float((share**2 * (table[:, 1] - mean) ** 2).sum())
    # A batch's loss has a variance of σ²/share: the scatter is σ² (1 - Σ share²), n / (n - 1) for equal shares.
    several = int((share > 0).sum()) > 1
    error = math.sqrt(scatter / (1 - float((share**2).sum()))) if several else 0.0
    return total * mean, float(table[:, 3].sum() / table[:, 2].sum()), total * error
