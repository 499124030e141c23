"""The steps of a run: eta and S of each follow from its spec; the losses of all are kept only where a figure asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from three_factors.datamodules.plan import epoch_edges
from three_factors.datamodules.schedules import Constant, Schedule, as_schedule, steady
from three_factors.reproduce.engine.contract.ends import ends_from, of_what
from three_factors.reproduce.engine.contract.spec import RunSpec

STEP_VARIANCE = "train/step_variance"  # of the losses of an epoch's steps
LR, BATCH_SIZE = "noise/lr", "noise/batch_size"  # of an epoch's last step
OF_PLAN = ("epoch", "step", "t_eta", LR, BATCH_SIZE)  # what of a row follows from the spec
OF_STEPS = (STEP_VARIANCE, LR, BATCH_SIZE)  # what a row keeps of its epoch's steps
BETWEEN = "between"  # in an epoch's row: the evaluations before its end
WEIGHT_NORM, DISTANCE = "weights/norm", "weights/distance"  # |θ| and |θ - θ0|
STEP_LOSSES = "steps.f32"  # the loss of every step, little-endian float32
DTYPE = np.dtype("<f4")


@dataclass(frozen=True)
class Steps:
    """Describes every step of a training.

    Attributes:
        epoch: int (steps,), from 1.
        lr: eta, float (steps,).
        batch_size: S over all devices, int (steps,).
    """

    epoch: np.ndarray
    lr: np.ndarray
    batch_size: np.ndarray


def planned(spec: RunSpec, epochs: int | None = None, world_size: int = 1) -> Steps:
    """Returns the steps of a run up to the end of an epoch; of all of it by default."""
    wanted = range(spec.epochs if epochs is None else epochs)
    lr, size = as_schedule(spec.schedule.lr), as_schedule(spec.schedule.batch_size)
    if isinstance(lr, Constant) and isinstance(size, Constant):  # every epoch is like the first
        rates, sizes = of_epoch(spec, 0, world_size)
        numbers = np.repeat(np.arange(1, len(wanted) + 1), len(sizes))
        return Steps(numbers, np.tile(rates, len(wanted)), np.tile(sizes, len(wanted)))
    found = [of_epoch(spec, epoch, world_size) for epoch in wanted]
    numbers = np.repeat(np.arange(1, len(found) + 1), [len(sizes) for _, sizes in found])
    return Steps(numbers, *(np.concatenate(parts) if found else np.empty(0) for parts in zip(*found, strict=True)))


@lru_cache(maxsize=64)
def evaluated(spec: RunSpec, world_size: int = 1) -> dict[int, dict[int, float]]:
    """Returns epoch (from 0) -> the steps of it, from 1, after which it is evaluated besides `evaluate_every`.

    Of each step the share of the epoch that is over then: of its steps where S stands, else of its examples.
    """
    often = spec.evaluations
    if often is None:
        return {}
    counts = lengths(spec, world_size)
    ends = np.cumsum(counts)
    starts, total, wanted = ends - counts, int(ends[-1]), set[int]()
    for epoch in range(min(often.until, spec.epochs)):
        wanted |= {int(starts[epoch] + round(counts[epoch] * k / often.early)) for k in range(1, often.early + 1)}
    if often.tenth == "steps":
        wanted |= {total - round(total * i / (10 * often.last)) for i in range(often.last)}
    else:
        for i in range(often.last):
            place = spec.epochs - (spec.epochs - ends_from(spec)) * i / often.last
            epoch = math.ceil(place) - 1
            away = np.abs(_edges(spec, epoch, world_size) - (place - epoch) * spec.data.train)
            wanted.add(int(starts[epoch] + away.argmin()))
    regular = set(ends[spec.evaluate_every - 1 :: spec.evaluate_every].tolist())
    found: dict[int, dict[int, float]] = {}
    for step in sorted(wanted - regular):
        epoch = int(np.searchsorted(ends, step))
        if step > starts[epoch]:
            done = int(step - starts[epoch])
            found.setdefault(epoch, {})[done] = _share(spec, epoch, done, int(counts[epoch]), world_size)
    return found


def _share(spec: RunSpec, epoch: int, done: int, count: int, world_size: int) -> float:
    """Returns which share of an epoch is over after so many of its steps."""
    if isinstance(as_schedule(spec.schedule.batch_size), Constant) and of_what(spec) == "steps":
        return done / count
    return float(_edges(spec, epoch, world_size)[done] / spec.data.train)


def lengths(spec: RunSpec, world_size: int = 1) -> np.ndarray:
    """Returns the steps of every epoch, (epochs,)."""
    size, limits = as_schedule(spec.schedule.batch_size), (world_size, spec.max_batch_size)
    if isinstance(size, Constant):  # every epoch is like the first
        return np.repeat(_counted(size, spec.data.train, 1, *limits), spec.epochs)
    return np.array(_counted(size, spec.data.train, spec.epochs, *limits))


@lru_cache(maxsize=256)
def _counted(size: Schedule, train: int, epochs: int, smallest: int, largest: int | None) -> tuple[int, ...]:
    """Counts steps; seeds have the same."""
    of_epoch = (epoch_edges(train, size, epoch, smallest=smallest, largest=largest) for epoch in range(epochs))
    return tuple(len(edges) - 1 for edges in of_epoch)


def of_plan(spec: RunSpec, epochs: int, world_size: int = 1) -> list[dict[str, Any]]:
    """Returns what of a run's rows follows from its spec, `OF_PLAN`, in the order of `RunFolder.rows`.

    Evaluations within epochs have no eta and S of a last step.
    """
    steps, between = planned(spec, epochs, world_size), evaluated(spec, world_size)
    ends = np.searchsorted(steps.epoch, np.arange(1, epochs + 1), side="right").tolist()
    t_eta, found, start = np.cumsum(steps.lr), list[dict[str, Any]](), 0
    for epoch, end in enumerate(ends):
        for step, share in between.get(epoch, {}).items():
            if step == end - start:
                continue  # in the epoch's own row
            place = (epoch + share, start + step, float(t_eta[start + step - 1]))
            found.append(dict(zip(OF_PLAN, place)))
        last = float(steps.lr[end - 1]), int(steps.batch_size[end - 1])
        found.append(dict(zip(OF_PLAN, (epoch + 1, end, float(t_eta[end - 1]), *last))))
        start = end
    return found


def expanded(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the evaluations within an epoch, and the epoch's row after them."""
    between = row.pop(BETWEEN, [])
    return [*between, row]


def whole(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows at the ends of epochs."""
    return [row for row in rows if row["epoch"] == int(row["epoch"])]


def first_lr(spec: RunSpec, world_size: int = 1) -> float:
    """Returns eta of the first step."""
    return float(of_epoch(spec, 0, world_size)[0][0])


def of_epoch(spec: RunSpec, epoch: int, world_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns eta and S of an epoch's steps: eta/S is the schedule's at each step's start."""
    n = spec.data.train
    edges = _edges(spec, epoch, world_size)
    sizes = np.diff(edges)
    if all(steady(as_schedule(of), epoch, epoch + 1) for of in (spec.schedule.lr, spec.schedule.batch_size)):
        return np.full(len(sizes), spec.schedule.setting(epoch, int(sizes[0])).lr), sizes
    rates = [spec.schedule.setting(epoch + start / n, int(size)).lr for start, size in zip(edges.tolist(), sizes)]
    return np.array(rates), sizes


def _edges(spec: RunSpec, epoch: int, world_size: int) -> np.ndarray:
    """Returns the examples of an epoch that are over before each of its steps and at its end, (steps + 1,)."""
    size = as_schedule(spec.schedule.batch_size)
    return epoch_edges(spec.data.train, size, epoch, smallest=world_size, largest=spec.max_batch_size)


def variance(losses: Sequence[float]) -> float:
    """Returns the variance of an epoch's step losses about a straight line; NaN for fewer than 4 steps."""
    if len(losses) < 4:
        return math.nan
    at = np.arange(len(losses)) - (len(losses) - 1) / 2
    left = np.asarray(losses) - np.mean(losses)
    left = left - at * (at @ left) / (at @ at)
    return float(left @ left) / (len(losses) - 2)


def light(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as rows are now. Until 0.1 a row held its epoch's steps whole."""
    steps = row.pop("steps", None)
    if steps is not None:
        found = variance([math.nan if loss is None else loss for loss in steps["loss"]])
        kept = (found if math.isfinite(found) else None, steps["lr"][-1], steps["batch_size"][-1])
        row |= dict(zip(OF_STEPS, kept))
    return row


def cost_of(spec: RunSpec) -> float:
    """Guesses a run's cost, to order and to divide by: examples, and steps at the first batch size."""
    return spec.epochs * spec.data.train * (1 + 100 / as_schedule(spec.schedule.batch_size)(0.0))
