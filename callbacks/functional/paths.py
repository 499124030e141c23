"""The loss between and beyond two sets of weights: L((1 - a) θ1 + a θ2), and how wide the minima at its ends are."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn

from callbacks.functional.batch_statistics import batch_norms, own_statistics, re_estimate
from callbacks.functional.hessian_operator import Loss
from callbacks.functional.inputs import as_batches, of_all_ranks, scalar, size_of, stored
from callbacks.functional.resumed import Resumed, about_path
from callbacks.functional.state import device_of, measuring, plain

BatchNormPolicy = Literal["re-estimate", "interpolate", "batch"]
Weights = Mapping[str, Tensor] | str | Path


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
    loss: Loss,
    batches: Iterable[Any],
    start: Weights,
    end: Weights,
    *,
    alphas: Sequence[float] | None = None,
    batch_norm: BatchNormPolicy = "re-estimate",
    estimation: Iterable[Any] | None = None,
    resume: str | Path | None = None,
) -> Interpolation:
    """Evaluates `module` with weights (1 - a) θ1 + a θ2 on `batches`; the module itself is not changed.

    Args:
        start, end: state dictionaries, or checkpoint files (Lightning's or plain state dictionaries).
        alphas: by default 61 points in [-1, 2] (the paper's Figures 2, 3, 10-12).
        batch_norm: "re-estimate": every layer gets the mean and the variance (E[x²] - E[x]²) of all that comes into
            it over `estimation` (by default `batches`); "interpolate": the two ends' statistics are interpolated;
            "batch": each batch's own, of its rank (those of its ghost batches where a layer has them).
        resume: a file of finished points, appended to as they come; a later call computes only what is missing.

    Re-estimation takes one pass, in which each batch is normalised by its own statistics. Those of the first batch norm
    layer do not depend on how the examples are split into batches and ranks; what comes into the deeper ones does.
    Where a batch's own statistics count, batches of less than half of the longest join a neighbour.

    Under torch.distributed each rank gives its own examples, in any number of batches, and every rank gets the result.

    Raises:
        ValueError: a weight is missing or has another shape, an alpha is not finite, there is no example on any rank;
            `resume` holds points of other ends, other batches or another batch norm policy (it does not know the
            loss), or does not begin with a header.
    """
    module = plain(module)
    if batch_norm not in ("re-estimate", "interpolate", "batch"):
        raise ValueError(f"batch_norm: {batch_norm!r} is none of 're-estimate', 'interpolate', 'batch'")
    points = [i / 20 - 1 for i in range(61)] if alphas is None else [float(a) for a in alphas]
    if not points or not all(math.isfinite(a) for a in points):
        raise ValueError(f"alphas: {alphas!r} holds no number, or one that is not finite")
    with measuring(module):
        device = device_of(module)
        held = _held(batches, device, "batches")
        statistics = None
        if batch_norm == "re-estimate":
            statistics = held if estimation is None else _held(estimation, device, "estimation")
        copied = copy.deepcopy(module)
        one, two = (_aligned(_load(w), copied, name) for w, name in ((start, "start"), (end, "end")))
        weights = [n for n, _ in copied.named_parameters()]
        distance = _norm([two[n] - one[n] for n in weights])
        norms = tuple(_norm([state[n] for n in weights]) for state in (one, two))
        about = {} if resume is None else about_path(batch_norm, one, two, held, statistics)
        done = Resumed(resume, about)
        layers = batch_norms(copied)
        own = layers if batch_norm == "batch" else []
        held = _joined(held) if own else held
        inputs = _joined([batch[:1] for batch in statistics or []])
        for a in points:
            if a in done.points:
                continue
            _place(copied, one, two, a)
            with torch.no_grad():
                if layers and statistics is not None:
                    re_estimate(copied, layers, inputs)
                with own_statistics(own, ghosts=True):
                    done.add(a, _evaluate(copied, loss, held))
    values, accuracy, error = (list(column) for column in zip(*(done.points[a] for a in points)))
    return Interpolation(points, values, accuracy, error, distance, (norms[0], norms[1]), batch_norm)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float((x.double() ** 2).sum()) for x in tensors))


def _held(batches: Iterable[Any], device: torch.device, field: str) -> list[Any]:
    """The batches that hold an example; if no rank has one, ValueError on every rank."""
    given = [stored(batch, device, None) for batch in as_batches(batches)]
    held = [batch for batch in given if size_of(batch)]
    if not any(of_all_ranks(len(held))):
        raise ValueError(f"{field}: there is no example in {len(given)} batches")
    return held


def _joined(batches: list[Any]) -> list[Any]:
    """Batches of less than half of the longest, or of one example, in one with a neighbour, so far as they fit."""
    enough = max([2, *(size_of(batch) / 2 for batch in batches)])
    joined: list[Any] = []
    for batch in batches:
        if joined and size_of(joined[-1]) < enough and _fit(joined[-1], batch):
            joined[-1] = _cat(joined[-1], batch)
        else:
            joined.append(batch)
    if len(joined) > 1 and size_of(joined[-1]) < enough and _fit(joined[-2], joined[-1]):
        joined[-2:] = [_cat(*joined[-2:])]
    return joined


def _fit(one: Any, other: Any) -> bool:
    pairs = zip(one, other)
    return all(isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape[1:] == y.shape[1:] for x, y in pairs)


def _cat(one: Any, other: Any) -> Any:
    return tuple(torch.cat(pair) for pair in zip(one, other))


def _load(weights: Weights) -> Mapping[str, Tensor]:
    if isinstance(weights, Mapping):
        return weights
    found = torch.load(weights, map_location="cpu", weights_only=True)
    return found.get("state_dict", found)


def _aligned(weights: Mapping[str, Tensor], module: nn.Module, name: str) -> dict[str, Tensor]:
    """The state the module needs, on its device."""
    aligned = {}
    for key, own in module.state_dict().items():
        if key not in weights:
            raise ValueError(f"{name}: has no {key!r}")
        if weights[key].shape != own.shape:
            raise ValueError(f"{name}: {key!r} has shape {tuple(weights[key].shape)}, the module {tuple(own.shape)}")
        aligned[key] = weights[key].detach().to(own)
    return aligned


def _place(module: nn.Module, one: dict[str, Tensor], two: dict[str, Tensor], a: float) -> None:
    with torch.no_grad():
        for key, own in module.state_dict().items():
            if own.is_floating_point():
                own.copy_((1 - a) * one[key] + a * two[key])
                if key.endswith("running_var"):  # beyond the ends a line of variances may fall below 0
                    own.clamp_(min=0)
            else:
                own.copy_(one[key])


def _evaluate(module: nn.Module, loss: Loss, batches: list[Any]) -> tuple[float, float, float]:
    """Loss, accuracy and the loss's standard error over batches, of all ranks' examples."""
    rows = []
    for inputs, targets in batches:
        output = module(inputs)
        value = scalar(loss(output, targets))
        classes = output.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point()
        right = float((output.argmax(1) == targets).sum()) if classes else math.nan
        rows.append((float(size_of(inputs)), float(value), right))
    rows = [row for part in of_all_ranks(rows) for row in part]
    table = torch.tensor(rows, dtype=torch.float64)
    n = table[:, 0].sum()
    share = table[:, 0] / n
    mean = float((share * table[:, 1]).sum())
    scatter = float((share**2 * (table[:, 1] - mean) ** 2).sum())
    # A batch's loss has a variance of σ²/share: the scatter is σ² (1 - Σ share²), n / (n - 1) for equal shares.
    error = math.sqrt(scatter / (1 - float((share**2).sum()))) if len(rows) > 1 else 0.0
    return mean, float(table[:, 2].sum() / n), error
