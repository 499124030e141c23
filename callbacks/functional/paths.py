"""The loss between and beyond two sets of weights: L((1 - a) θ1 + a θ2), and how wide the minima at its ends are."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn

from callbacks.functional.hessian_operator import Loss
from callbacks.functional.inputs import as_batches, distributed, of_all_ranks, stored
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
            logits of classes. error: standard error of the loss over the examples' batches (0 for one batch).
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
        at = [i for i, a in enumerate(self.alphas) if abs(a - origin) < 1e-9]
        if not at:
            raise ValueError(f"alphas: no point at a = {origin:g}, the end whose width is asked for")
        base = self.values[at[0]]
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
        """The highest loss between the ends above the line that joins theirs (0 if it never rises above it)."""
        inside = [(a, v) for a, v in zip(self.alphas, self.values) if 0 <= a <= 1]
        (_, first), (_, last) = inside[0], inside[-1]
        return max(v - ((1 - a) * first + a * last) for a, v in inside)


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
        batch_norm: "re-estimate": running statistics of each point are the mean over `estimation` (by default over
            `batches`), with only the batch norm layers in train mode; "interpolate": the two ends' statistics are
            interpolated; "batch": each batch's own.
        resume: a file of finished points, appended to as they come; a later call computes only what is missing.

    Under torch.distributed each rank gives its own examples, and every rank gets the result.

    Raises:
        ValueError: a weight is missing or has another shape, an alpha is not finite, there is no example; `resume`
            holds points of other ends or data.
    """
    module = plain(module)
    if batch_norm not in ("re-estimate", "interpolate", "batch"):
        raise ValueError(f"batch_norm: {batch_norm!r} is none of 're-estimate', 'interpolate', 'batch'")
    points = [i / 20 - 1 for i in range(61)] if alphas is None else [float(a) for a in alphas]
    if not points or not all(math.isfinite(a) for a in points):
        raise ValueError(f"alphas: {alphas!r} holds no number, or one that is not finite")
    with measuring(module):
        device = device_of(module)
        held = [stored(b, device, None) for b in as_batches(batches)]
        statistics = held if estimation is None else [stored(b, device, None) for b in as_batches(estimation)]
        copied = copy.deepcopy(module)
        one, two = (_aligned(_load(w), copied, name) for w, name in ((start, "start"), (end, "end")))
        weights = [n for n, _ in copied.named_parameters()]
        distance = math.sqrt(sum(float(((two[n] - one[n]).double() ** 2).sum()) for n in weights))
        norms = tuple(math.sqrt(sum(float((x[n].double() ** 2).sum()) for n in weights)) for x in (one, two))
        done = _Resumed(resume, [distance, *norms, batch_norm, sum(of_all_ranks(len(held)))])
        found = []
        for a in points:
            if a not in done.points:
                _place(copied, one, two, a)
                layers = _prepare(copied, batch_norm, statistics)
                with torch.no_grad():
                    done.add(a, _evaluate(copied, loss, held))
                for layer, mode in layers:
                    layer.training = mode
            found.append(done.points[a])
    values, accuracy, error = (list(column) for column in zip(*found))
    return Interpolation(points, values, accuracy, error, distance, (norms[0], norms[1]), batch_norm)


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


def _prepare(module: nn.Module, policy: str, batches: list[Any]) -> list[tuple[nn.Module, bool]]:
    """Brings batch norm to the policy; returns layers whose mode has to be put back."""
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers or policy == "interpolate":
        return []
    before: list[tuple[nn.Module, bool]] = [(layer, layer.training) for layer in layers]
    if policy == "re-estimate":
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative: the mean over all batches
            layer.train()
        with torch.no_grad():
            for batch in batches:
                module(batch[0])
        _average_over_ranks(layers)
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
            layer.eval()
        return []
    for layer in layers:
        layer.train()
    return before


def _average_over_ranks(layers: list[Any]) -> None:
    if not distributed():
        return
    ranks = torch.distributed.get_world_size()
    for layer in layers:
        for buffer in (layer.running_mean, layer.running_var):
            if buffer is not None:
                torch.distributed.all_reduce(buffer)
                buffer.div_(ranks)


def _evaluate(module: nn.Module, loss: Loss, batches: list[Any]) -> tuple[float, float, float]:
    """Loss, accuracy and the loss's standard error over batches, of all ranks' examples."""
    rows = []
    for inputs, targets in batches:
        output = module(inputs)
        value = loss(output, targets)
        if value.numel() != 1:
            raise ValueError(f"loss: returned a tensor of shape {tuple(value.shape)}, not a scalar")
        classes = output.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point()
        right = float((output.argmax(1) == targets).sum()) if classes else math.nan
        rows.append((float(len(inputs)), float(value), right))
    rows = [row for part in of_all_ranks(rows) for row in part]
    if not rows:
        raise ValueError("batches: there is no example in them")
    table = torch.tensor(rows, dtype=torch.float64)
    n = table[:, 0].sum()
    share = table[:, 0] / n
    mean = float((share * table[:, 1]).sum())
    error = math.sqrt(float((share**2 * (table[:, 1] - mean) ** 2).sum())) if len(rows) > 1 else 0.0
    return mean, float(table[:, 2].sum() / n), error


class _Resumed:
    """Points already done, in a file of one JSON line each; the first line says of which path they are."""

    def __init__(self, path: str | Path | None, about: list[Any]) -> None:
        self.path, self.points = None if path is None else Path(path), {}
        about = [f"{x:.9g}" if isinstance(x, float) else x for x in about]
        self.writes = not distributed() or torch.distributed.get_rank() == 0
        if self.path is None:
            return
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        if lines:
            if json.loads(lines[0]) != about:
                raise ValueError(f"resume: {str(self.path)!r} holds points of another path")
            for line in lines[1:]:
                try:
                    a, *point = json.loads(line)
                except ValueError:
                    continue  # the last line of a call that was killed
                self.points[a] = tuple(point)
        elif self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(about) + "\n")

    def add(self, a: float, point: tuple[float, float, float]) -> None:
        self.points[a] = point
        if self.path is not None and self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps([a, *point]) + "\n")
