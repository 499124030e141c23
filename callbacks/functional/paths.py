"""The loss between and beyond two sets of weights: L((1 - a) θ1 + a θ2), and how wide the minima at its ends are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.functional.attributes import attributes_kept
from callbacks.functional.batch_statistics import batch_norms, own_statistics, re_estimated
from callbacks.functional.called import Called
from callbacks.functional.inputs import as_batches, gathered, of_all_ranks, stored
from callbacks.functional.nests import Unjoinable, joined, size_of
from callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction
from callbacks.functional.objective import Weights as BatchWeights
from callbacks.functional.resumed import Resumed, about_path
from callbacks.functional.shares import check_parts, probes, shares
from callbacks.functional.state import device_of, measuring, plain
from callbacks.functional.weights import Weights, aligned, load_weights

BatchNormPolicy = Literal["re-estimate", "interpolate", "batch"]


@dataclass(frozen=True)
class Width:
    """How far from an end, away from the other one, the loss has risen by `rise`.

    Attributes:
        value: in units of |Δθ| travelled, NaN if censored. relative: the same over |θ| of that end.
        error: half the spacing of the points it lies between (in the same units).
        censored: the loss had not risen so far at the last point, which is `at_least` away.
    """

    value: float
    error: float
    relative: float
    rise: float
    censored: bool
    at_least: float


@dataclass(frozen=True)
class Interpolation:
    """The path's profile.

    Attributes:
        alphas: a. values: the loss at each (mean over the examples). accuracy: likewise, NaN where outputs are no
            logits of classes. error: one standard error of each loss (no 95 % interval), from the scatter of the
            batches about it, weighted by their numbers of examples; 0 for one batch.
        distance: |θ2 - θ1|. norms: |θ1|, |θ2|. products: 0, it needs none. batch_norm: the policy.
    """

    alphas: list[float]
    values: list[float]
    accuracy: list[float]
    error: list[float]
    distance: float
    norms: tuple[float, float]
    batch_norm: str
    products: int = 0

    def width(self, end: Literal[1, 2], rise: float) -> Width:
        """Outward distance from θ1 (a < 0) or θ2 (a > 1) to where the loss is `rise` above its value there.

        Between two points the logarithm of the rise is interpolated. Raises ValueError if the end is no point of
        the path.
        """
        origin = {1: 0.0, 2: 1.0}[end]
        base = self._value_at(origin)
        outward = sorted(
            (abs(a - origin), v - base) for a, v in zip(self.alphas, self.values) if (a < 0 if end == 1 else a > 1)
        )
        norm, previous = self.norms[end - 1], (0.0, 0.0)
        for a, risen in outward:
            if risen >= rise or not math.isfinite(risen):
                where = _crossing(previous, (a, risen), rise)
                value, error = where * self.distance, (a - previous[0]) / 2 * self.distance
                return Width(value, error, value / norm, rise, False, value)
            previous = (a, risen)
        return Width(math.nan, math.nan, math.nan, rise, True, previous[0] * self.distance)

    @property
    def barrier(self) -> float:
        """The highest loss between the ends above the line that joins theirs (0 if it never rises above it).

        The points may come in any order. Raises ValueError if an end is no point of the path.
        """
        first, last = self._value_at(0.0), self._value_at(1.0)
        inside = [(a, v) for a, v in zip(self.alphas, self.values) if 0 < a < 1]
        return max([0.0, *(v - ((1 - a) * first + a * last) for a, v in inside)])

    def _value_at(self, end: float) -> float:
        for a, value in zip(self.alphas, self.values):
            if abs(a - end) < 1e-9:
                return value
        raise ValueError(f"alphas: {self.alphas!r} has no point at a = {end:g}, an end of the path")


def _crossing(before: tuple[float, float], after: tuple[float, float], rise: float) -> float:
    (a, low), (b, high) = before, after
    if not math.isfinite(high):
        return b
    if low > 0 and high > low:
        return a + (b - a) * (math.log(rise) - math.log(low)) / (math.log(high) - math.log(low))
    return a + (b - a) * (rise - low) / (high - low)


def interpolate(
    module: nn.Module,
    loss: Loss | None,
    batches: Iterable[Any],
    start: Weights,
    end: Weights,
    *,
    batch_loss: BatchLoss | None = None,
    reduction: Reduction = "mean",
    weights: BatchWeights | None = None,
    alphas: Sequence[float] | None = None,
    batch_norm: BatchNormPolicy = "re-estimate",
    estimation: Iterable[Any] | None = None,
    resume: str | Path | None = None,
) -> Interpolation:
    """Evaluates `module` with weights (1 - a) θ1 + a θ2 on `batches`; the module itself is not changed.

    Args:
        loss, batch_loss, reduction, weights: as for HessianOperator.
        start, end: state dictionaries, or checkpoint files (Lightning's or plain state dictionaries), of which the
            tensors alone are read; their keys may have another prefix.
        alphas: by default 61 points in [-1, 2] (the paper's Figures 2, 3, 10-12).
        batch_norm: "re-estimate": every layer gets the mean and the variance (E[x²] - E[x]²) of all that comes into
            it over `estimation` (by default `batches`); "interpolate": the two ends' statistics are interpolated;
            "batch": each batch's own, of its rank (those of its ghost batches where a layer has them).
        estimation: batches as `batches` are; the targets of (inputs…, target) may be missing.
        resume: a file of finished points, appended to as they come; a later call computes only what is missing.

    Re-estimation takes one pass, in which each batch is normalised by its own statistics. Those of the first batch norm
    layer do not depend on how the examples are split into batches and ranks; what comes into the deeper ones does.
    Where a batch's own statistics count, batches of less than half of the longest join a neighbour.

    Under torch.distributed each rank gives its own examples, in any number of batches, and every rank gets the result.

    Raises:
        ValueError: a weight is missing or has another shape, an alpha is not finite, there is no example on any rank,
            the loss is not what `reduction` says; `resume` holds points of other ends, other batches or another batch
            norm policy (it does not know the loss), or does not begin with a header.
    """
    module, objective = plain(module), Objective(loss, batch_loss, reduction, weights)
    if batch_norm not in ("re-estimate", "interpolate", "batch"):
        raise ValueError(f"batch_norm: {batch_norm!r} is none of 're-estimate', 'interpolate', 'batch'")
    points = [i / 20 - 1 for i in range(61)] if alphas is None else [float(a) for a in alphas]
    if not points or not all(math.isfinite(a) for a in points):
        raise ValueError(f"alphas: {alphas!r} holds no number, or one that is not finite")
    with measuring(module):
        device = device_of(module)
        line = _Line(module, objective, start, end, batch_norm)
        dtype = torch.float32 if line.half else None  # inputs go with the parameters
        held = _held(batches, device, "batches", dtype)
        statistics = None
        if batch_norm == "re-estimate":
            statistics = held if estimation is None else _held(estimation, device, "estimation", dtype)
        about = {} if resume is None else about_path(batch_norm, line.one, line.two, held, statistics)
        done = Resumed(resume, about)
        if batch_norm == "batch" and line.layers and reduction != "batch":
            held = _joined(held)
        missing = [a for a in dict.fromkeys(points) if a not in done.points]
        inputs = _joined(statistics or [])
        if missing:
            line.weigh(held)
        for a in missing:
            done.add(a, line.evaluated(a, held, inputs))
    values, accuracy, error = (list(column) for column in zip(*(done.points[a] for a in points)))
    return Interpolation(points, values, accuracy, error, line.distance, line.norms, batch_norm)


class _Line:
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

        def leaves() -> dict[str, Tensor]:
            there = {n: t for n, t in self.at(1.0).items() if n in self.parameters}
            return {n: t.requires_grad_() for n, t in there.items() if t.is_floating_point() or t.is_complex()}

        check_parts(self.objective, held)
        ways = probes(self._called, self.objective, leaves)
        self._shares = shares(self.objective, ways, held, [size_of(batch) for batch in held])

    def at(self, a: float) -> dict[str, Tensor]:
        """The state (1 - a) θ1 + a θ2; what is no real or complex number is the first end's."""
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
        """Loss, accuracy and the loss's standard error over batches, of all ranks' examples, at a."""
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
        """How much a batch counts, its loss, its examples, and how many of them are classified rightly."""
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
        """The state with copies of all buffers, stored or not: a forward pass may write to them."""
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


def _held(batches: Iterable[Any], device: torch.device, field: str, dtype: torch.dtype | None) -> list[Any]:
    """The batches that hold an example; if no rank has one, ValueError on every rank."""
    given = [stored(batch, device, dtype) for batch in as_batches(batches)]
    held = [batch for batch in given if size_of(batch)]
    if not any(of_all_ranks(len(held))):
        raise ValueError(f"{field}: there is no example in {len(given)} batches")
    return held


def _joined(batches: list[Any]) -> list[Any]:
    """Batches of less than half of the longest, or of one example, in one with a neighbour, so far as they fit."""
    enough = max([2, *(size_of(batch) / 2 for batch in batches)])
    found: list[Any] = []
    for batch in batches:
        if found and size_of(found[-1]) < enough and (both := _both(found[-1], batch)) is not None:
            found[-1] = both
        else:
            found.append(batch)
    if len(found) > 1 and size_of(found[-1]) < enough and (both := _both(found[-2], found[-1])) is not None:
        found[-2:] = [both]
    return found


def _both(one: Any, other: Any) -> Any:
    """The two in one; None if they do not fit together."""
    try:
        return joined([one, other])
    except Unjoinable:
        return None


def _state(weights: Weights, module: nn.Module, name: str) -> dict[str, Tensor]:
    """The module's parameters, and the buffers that are stored, out of these weights; of tied ones the first name."""
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
