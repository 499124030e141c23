"""The line between the ends of two runs: its profile, the widths of the minima there, and the barrier between them."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from three_factors.callbacks.functional import Interpolation, interpolate
from three_factors.callbacks.functional.resumed import NotResumed
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.folders import PathFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RISES, PathSpec
from three_factors.reproduce.engine.worker.train import (
    LostWeights,
    build_data,
    configure_device,
    module_of,
    read_weights,
)

ROUNDING = 1e-5  # of a line: less is left of it by rounding alone
NEAREST = 1e-4  # |θ|: how near to an end a rise is looked for


def follow(spec: PathSpec, job: Job, folder: PathFolder) -> dict[str, Any]:
    """Returns profiles on training and test examples, widths and barriers of the training loss; None for NaN."""
    started = time.time()
    module = module_of(spec.start).to(configure_device(job))
    data = build_data(spec.start, job)
    data.setup()
    train = data.measurement_batches(spec.examples, spec.batch_size)
    test = [tuple(part[: spec.examples].split(spec.batch_size)) for part in data.splits["test"]]
    start, end = (_end(folder.run(run)) for run in (spec.start, spec.end))

    def along(name: str, batches: Any, alphas: Any, **options: Any) -> Interpolation:
        file = folder.points(name)
        line = partial(
            interpolate,
            module,
            module.loss,
            batches,
            start,
            end,
            alphas=alphas,
            estimation=train,
            resume=file,
            **options,
        )
        try:
            found = line()
        except NotResumed as error:  # a run at its end was made again, elsewhere
            print(f"{error}; they are computed again", flush=True)
            file.unlink()
            found = line()
        write_json(folder.path / "progress.json", {"fraction": 0.3 if name == "train" else 0.6})
        return found

    on_train = along("train", train, spec.alphas)
    on_test = along("test", list(zip(*test)), spec.alphas)
    between = [a for a in spec.alphas if 0 <= a <= 1]
    plain = along("interpolated", train, between, batch_norm="interpolate")
    final = _summary(on_train) | {"barrier": on_train.barrier, "barrier, statistics interpolated": plain.barrier}
    for name, weights, other in (("θ1", start, end), ("θ2", end, start)):
        final |= _random_widths(spec, module, train, weights, name)
        if spec.tangential:
            final |= _tangential_widths(spec, module, train, weights, other, name)
    return {
        "status": "ok",
        "final": {k: v if math.isfinite(v) else None for k, v in final.items()},
        "profiles": {"train": _profile(on_train), "test": _profile(on_test)},
        "provenance": {"seconds": round(time.time() - started, 2), "device": job.accelerator},
    }


def _end(run: RunFolder) -> dict[str, Tensor]:
    """Weights at the end of a run; a run that has lost them is trained again by the next call."""
    try:
        return read_weights(run, "end")
    except LostWeights:
        if held := run.try_lock():  # else somebody is at it already
            run.forget()
            held.release()
        raise


def _profile(found: Interpolation) -> dict[str, list[float | None]]:
    columns = {"alphas": found.alphas, "loss": found.values, "accuracy": found.accuracy}
    return {name: [v if math.isfinite(v) else None for v in values] for name, values in columns.items()}


def _summary(found: Interpolation) -> dict[str, float]:
    """Returns the outward widths at both ends; a censored one is NaN, with '… at least' beside it."""
    values = {"distance": found.distance, "norm θ1": found.norms[0], "norm θ2": found.norms[1]}
    for end, name, at in ((1, "θ1", 0.0), (2, "θ2", 1.0)):
        values[f"loss {name}"] = found.values[found.alphas.index(at)]
        for rise in RISES:
            width = found.width(end, rise)  # type: ignore[arg-type]
            norm = found.norms[end - 1]
            values |= _told("width", name, rise, width.value, width.at_least)
            values |= _told("relative width", name, rise, width.relative, width.at_least / norm)
    return values


def _told(kind: str, name: str, rise: float, value: float, at_least: float) -> dict[str, float]:
    return {f"{kind} {name} {rise:g}": value, f"{kind} at least {name} {rise:g}": at_least}


def _random_widths(
    spec: PathSpec, module: nn.Module, train: Any, weights: dict[str, Tensor], name: str
) -> dict[str, float]:
    """Returns the mean over filter-normalised random directions (Li et al. 2018) of how far the loss takes to rise, in
    |θ|; and the largest |cos| of a direction to θ.
    """
    parameters = [key for key, _ in module.named_parameters()]
    free = _scale_invariant(module, weights, train[0][0]) if spec.tangential else frozenset[str]()
    found: dict[float, list[float]] = {rise: [] for rise in RISES}
    censored, cosines = dict.fromkeys(RISES, False), list[float]()
    norm = math.sqrt(sum(float(weights[key].square().sum()) for key in parameters))
    for index in range(spec.directions):
        generator = torch.Generator().manual_seed(index)
        direction = {key: _direction(weights[key], generator, tangential=key in free) for key in parameters}
        cosines.append(_cosine(direction, weights))
        profile = _outward(spec, module, train, weights, direction)
        for rise in RISES:
            width, reached = _followed(profile, rise) if spec.until is not None else _on_points(profile, rise)
            found[rise].append(width / norm)
            censored[rise] |= not reached
    values: dict[str, float] = {}
    for rise, widths in found.items():
        if widths:
            mean = statistics.fmean(widths)
            values |= _told("random width", name, rise, math.nan if censored[rise] else mean, mean)
    if spec.tangential and cosines:
        values[f"largest cosine of a random direction {name}"] = max(map(abs, cosines))
    return values


def _tangential_widths(
    spec: PathSpec, module: nn.Module, train: Any, weights: dict[str, Tensor], other: dict[str, Tensor], name: str
) -> dict[str, float]:
    """Returns how far the loss takes to rise outward on the line, in |θ|, without what only scales a filter.

    An outward line from a small-norm end to a large-norm end is largely radial at the far end, where batch norm makes
    the loss flat. Also the cosine of the line itself to θ.
    """
    parameters = [key for key, _ in module.named_parameters()]
    free = _scale_invariant(module, weights, train[0][0])
    line = {key: weights[key] - other[key] for key in parameters}
    direction = {key: _without_scale(of, weights[key]) if key in free else of for key, of in line.items()}
    norm, whole, left = (
        math.sqrt(sum(float(of[key].square().sum()) for key in parameters)) for of in (weights, line, direction)
    )
    values = {f"cosine of the outward line {name}": _cosine(line, weights)}
    if left <= ROUNDING * whole:  # the line is radial, or both ends are one
        return values
    direction = {key: of * (norm / left) for key, of in direction.items()}
    profile = _outward(spec, module, train, weights, direction)
    for rise in RISES:
        width, reached = _followed(profile, rise) if spec.until is not None else _on_points(profile, rise)
        share = width / norm
        values |= _told("tangential width", name, rise, share if reached else math.nan, share)
    return values


def _on_points(profile: Interpolation, rise: float) -> tuple[float, bool]:
    width = profile.width(1, rise)
    return width.at_least, not width.censored


def _followed(profile: Interpolation, rise: float) -> tuple[float, bool]:
    """Returns how far it is to a rise, or how far was looked, and whether it was reached.

    Between two points the rise is taken for a power of the distance: near a minimum it is its square.
    """
    base = profile.values[profile.alphas.index(0.0)]
    points = sorted((-a, value - base) for a, value in zip(profile.alphas, profile.values) if a < 0)
    before: tuple[float, float] | None = None
    for a, risen in points:
        if not math.isfinite(risen):
            return a * profile.distance, True
        if risen >= rise:
            if before is None or before[1] <= 0:
                return a * profile.distance, True
            share = math.log(rise / before[1]) / math.log(risen / before[1])
            return before[0] * (a / before[0]) ** share * profile.distance, True
        before = a, risen
    return points[-1][0] * profile.distance, False


def _outward(
    spec: PathSpec, module: nn.Module, train: Any, weights: dict[str, Tensor], direction: dict[str, Tensor]
) -> Interpolation:
    """Returns the loss along a direction from an end: at the spec's points, and further until the highest rise.

    And nearer until below the smallest.
    """
    # Its other end lies backwards, so that the direction itself is the outward one, of a < 0.
    back = {k: v - direction[k] if k in direction else v for k, v in weights.items()}

    def at(alphas: list[float]) -> Interpolation:
        return interpolate(module, module.loss, train, weights, back, alphas=alphas, estimation=train)  # type: ignore[arg-type]

    found = at([0.0, *(-a for a in spec.outward)])
    if spec.until is None:
        return found
    nearest, furthest = min(spec.outward), max(spec.outward)
    while furthest < spec.until and not _followed(found, max(RISES))[1]:
        furthest = min(furthest * math.sqrt(2), spec.until)
        found = _joined(found, at([-furthest]))
    while nearest > NEAREST and found.values[found.alphas.index(-nearest)] - found.values[0] >= min(RISES):
        nearest /= math.sqrt(2)
        found = _joined(found, at([-nearest]))
    return found


def _joined(found: Interpolation, more: Interpolation) -> Interpolation:
    columns = {name: getattr(found, name) + getattr(more, name) for name in ("alphas", "values", "accuracy", "error")}
    return replace(found, **columns)


def _direction(weight: Tensor, generator: torch.Generator, *, tangential: bool = False) -> Tensor:
    """Returns gaussian, each filter with the norm of the weight's own; 0 for vectors (biases, batch norm).

    tangential: at right angles to each filter.
    """
    if weight.dim() < 2:
        return torch.zeros_like(weight)
    draw = torch.randn(weight.shape, generator=generator).to(weight.dtype).flatten(1)
    own = weight.flatten(1)
    if tangential:
        draw = _without_scale(draw, own)
    norms = own.norm(dim=1) / draw.norm(dim=1).clamp(min=1e-12)
    return (draw * norms[:, None]).view_as(weight)


def _without_scale(direction: Tensor, weight: Tensor) -> Tensor:
    """Returns a direction without its part along each filter of a weight."""
    draw, own = direction.flatten(1), weight.flatten(1)
    squares = own.square().sum(dim=1, keepdim=True).clamp(min=1e-24)
    return (draw - own * ((draw * own).sum(dim=1, keepdim=True) / squares)).view_as(direction)


def _cosine(direction: dict[str, Tensor], weights: dict[str, Tensor]) -> float:
    inner = sum(float((d * weights[key]).sum()) for key, d in direction.items())
    sizes = [sum(float(of[key].square().sum()) for key in direction) for of in (direction, weights)]
    return inner / math.sqrt(max(sizes[0] * sizes[1], 1e-300))


def _scale_invariant(module: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> frozenset[str]:
    """Returns the weights whose filters may each be multiplied by a positive number: batch norm takes it back.

    Found by trial: with one filter twice, another three times as large, and so on, the outputs in train mode are as
    before.
    """
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    mode, found = module.training, set[str]()
    inputs = inputs.to(next(module.parameters()).device)
    try:
        module.load_state_dict(weights)
        module.train()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            reference = module(inputs)
            for name, parameter in module.named_parameters():
                if parameter.dim() < 2:
                    continue
                factors = 1.5 + torch.arange(len(parameter), device=parameter.device).remainder(3)
                before = parameter.clone()
                parameter.mul_(factors.view(-1, *[1] * (parameter.dim() - 1)).to(parameter.dtype))
                torch.manual_seed(0)  # dropout draws the same
                same = torch.allclose(module(inputs), reference, rtol=1e-2, atol=1e-2 * float(reference.abs().max()))
                parameter.copy_(before)
                if same:
                    found.add(name)
    finally:
        module.load_state_dict(own)
        module.train(mode)
    return frozenset(found)
