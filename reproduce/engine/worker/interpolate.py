"""The line between the ends of two runs: its profile, the widths of the minima there, and the barrier between them."""

from __future__ import annotations

import math
import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from three_factors.callbacks.functional import Interpolation, interpolate
from three_factors.callbacks.functional.paths import Width
from three_factors.callbacks.functional.resumed import NotResumed
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.folder import PathFolder, RunFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.spec import RISES, PathSpec
from three_factors.reproduce.engine.worker.train import (
    LostWeights,
    build_data,
    build_module,
    configure_device,
    read_weights,
)


def follow(spec: PathSpec, job: Job, folder: PathFolder) -> dict[str, Any]:
    """Profiles on training and test examples; widths and barriers of the training loss. NaN becomes None."""
    started = time.time()
    module = build_module(spec.start.network).to(configure_device(job))
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
    for name, weights in (("θ1", start), ("θ2", end)):
        final |= _random_widths(spec, module, train, weights, name)
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
    |θ|.
    """
    parameters = {key for key, _ in module.named_parameters()}
    found: dict[float, list[Width]] = {rise: [] for rise in RISES}
    norm = 1.0
    for index in range(spec.directions):
        generator = torch.Generator().manual_seed(index)
        # Its other end lies backwards, so that the direction itself is the outward one, of a < 0.
        back = {k: v - _direction(v, generator) if k in parameters else v for k, v in weights.items()}
        alphas = [0.0, *(-a for a in spec.outward)]
        profile = interpolate(module, module.loss, train, weights, back, alphas=alphas, estimation=train)  # type: ignore[arg-type]
        norm = profile.norms[0]
        for rise in RISES:
            found[rise].append(profile.width(1, rise))
    values: dict[str, float] = {}
    for rise, widths in found.items():
        if widths:
            censored = any(width.censored for width in widths)
            mean = statistics.fmean(width.at_least / norm for width in widths)
            values |= _told("random width", name, rise, math.nan if censored else mean, mean)
    return values


def _direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Returns gaussian, each filter with the norm of the weight's own; 0 for vectors (biases, batch norm)."""
    if weight.dim() < 2:
        return torch.zeros_like(weight)
    draw = torch.randn(weight.shape, generator=generator)
    norms = weight.flatten(1).norm(dim=1) / draw.flatten(1).norm(dim=1).clamp(min=1e-12)
    return draw * norms.view(-1, *[1] * (weight.dim() - 1))
