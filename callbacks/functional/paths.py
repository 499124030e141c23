"""The loss between and beyond two sets of weights: L((1 - a) θ1 + a θ2), and how wide the minima at its ends are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from three_factors.callbacks.functional.inputs import as_batches, of_all_ranks, stored
from three_factors.callbacks.functional.line import BatchNormPolicy, Line, check_policy
from three_factors.callbacks.functional.nests import Unjoinable, joined, size_of
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction
from three_factors.callbacks.functional.objective import Weights as BatchWeights
from three_factors.callbacks.functional.resumed import Resumed, about_path
from three_factors.callbacks.functional.state import device_of, measuring, plain
from three_factors.callbacks.functional.weights import Weights


@dataclass(frozen=True)
class Width:
    """Tells how far from an end, away from the other one, the loss has risen by `rise`.

    Attributes:
        value: in units of |Δθ| travelled; NaN if censored, where the loss at that end is not finite, or where one is
            NaN before it has risen.
        relative: the same over |θ| of that end.
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
        alphas: a.
        values: the loss at each (mean over the examples).
        accuracy: likewise, NaN where outputs are no logits of classes.
        error: one standard error of each loss (no 95 % interval), from the scatter of the batches about it, weighted by
            their numbers of examples; 0 for one batch.
        distance: |θ2 - θ1|.
        norms: |θ1|, |θ2|.
        products: 0, it needs none.
        batch_norm: the policy.
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
        """Returns the outward distance from θ1 (a < 0) or θ2 (a > 1) to where the loss is `rise` above its value there.

        Between two points the logarithm of the rise is interpolated. Raises ValueError if the end is no point of
        the path.
        """
        origin = {1: 0.0, 2: 1.0}[end]
        base = self._value_at(origin)
        unknown = Width(math.nan, math.nan, math.nan, rise, False, math.nan)
        if not math.isfinite(base):
            return unknown
        outward = sorted(
            (abs(a - origin), v - base) for a, v in zip(self.alphas, self.values) if (a < 0 if end == 1 else a > 1)
        )
        norm, previous = self.norms[end - 1], (0.0, 0.0)
        for a, risen in outward:
            if math.isnan(risen):
                return unknown
            if risen >= rise:  # also where it is infinite
                where = _crossing(previous, (a, risen), rise)
                value, error = where * self.distance, (a - previous[0]) / 2 * self.distance
                return Width(value, error, value / norm, rise, False, value)
            previous = (a, risen)
        return Width(math.nan, math.nan, math.nan, rise, True, previous[0] * self.distance)

    @property
    def barrier(self) -> float:
        """Returns the highest loss between the ends above the line that joins theirs (0 if it never rises above it).

        NaN where a loss at an end is not finite, or one between them is NaN. The points may come in any order. Raises
        ValueError if an end is no point of the path.
        """
        first, last = self._value_at(0.0), self._value_at(1.0)
        inside = [(a, v) for a, v in zip(self.alphas, self.values) if 0 < a < 1]
        if not (math.isfinite(first) and math.isfinite(last)) or any(math.isnan(v) for _, v in inside):
            return math.nan  # of which max would make 0
        return max([0.0, *(v - ((1 - a) * first + a * last) for a, v in inside)])

    def _value_at(self, end: float) -> float:
        for a, value in zip(self.alphas, self.values):
            if abs(a - end) < 1e-9:
                return value
        raise ValueError(f"alphas: {self.alphas!r} has no point at a = {end:g}, an end of the path")


def _crossing(before: tuple[float, float], after: tuple[float, float], rise: float) -> float:
    (a, low), (b, high) = before, after
    if math.isinf(high):
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
    check_policy(batch_norm)
    points = [i / 20 - 1 for i in range(61)] if alphas is None else [float(a) for a in alphas]
    if not points or not all(math.isfinite(a) for a in points):
        raise ValueError(f"alphas: {alphas!r} holds no number, or one that is not finite")
    with measuring(module):
        device = device_of(module)
        line = Line(module, objective, start, end, batch_norm)
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


def try_path(
    module: nn.Module, objective: Objective, batch: Any, start: Weights, batch_norm: BatchNormPolicy = "re-estimate"
) -> None:
    """Raises, for a trial on a small batch, what `interpolate` from `start` to the module's own weights would raise."""
    own = plain(module)
    with measuring(own):
        line = Line(own, objective, start, own.state_dict(), batch_norm)
        held = _held([batch], device_of(own), "batches", torch.float32 if line.half else None)
        line.try_on(held[0])
        line.evaluated(1.0, held, held)


def _held(batches: Iterable[Any], device: torch.device, field: str, dtype: torch.dtype | None) -> list[Any]:
    """Returns the batches that hold an example; if no rank has one, ValueError on every rank."""
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
    """Returns the two in one; None if they do not fit together."""
    try:
        return joined([one, other])
    except Unjoinable:
        return None
