"""Where a run ends: the evaluations that make its endpoint."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from three_factors.datamodules.schedules import (
    Chain,
    Cyclic,
    Inverse,
    NoiseSchedule,
    Ratio,
    Triangle,
    as_schedule,
)
from three_factors.reproduce.engine.contract.spec import RunSpec, Tenth

TAIL = 0.1  # of a run: evaluations in it make the endpoint
NEAR = 1.5  # times the lowest eta/S, or the highest over it: a phase of a cycle
GRID = 500  # places in the last tenth at which eta/S is compared


def of_what(spec: RunSpec) -> Tenth:
    """Returns where a run ends, as its evaluations there are placed: in the last tenth of its steps, unless it cycles.

    An S that cycles stands for an eta that does (`exchange`), whose steps are spread evenly over its epochs: the last
    tenth is of epochs, since in steps of its own it would be other ones and another t_eta than that run's. Where a
    cycle is at high noise in a part of it, the run ends in the low noise after that.
    """
    size = as_schedule(spec.schedule.batch_size)
    if low_noise_from(spec.schedule, spec.epochs) > (1 - TAIL) * spec.epochs:
        return "low noise"
    return "epochs" if cycles(size) else "steps"


def ends_from(spec: RunSpec) -> float:
    """Returns the epoch after which evaluations are of a run's end, where that is no matter of steps."""
    return max((1 - TAIL) * spec.epochs, low_noise_from(spec.schedule, spec.epochs))


@lru_cache(maxsize=256)
def low_noise_from(schedule: NoiseSchedule, epochs: int) -> float:
    """Returns the epoch from which eta/S of a cycle stays within `NEAR` of its lowest in the last tenth; else 0."""
    if not any(cycles(as_schedule(of), to_the_end=True) for of in (schedule.lr, schedule.batch_size)):
        return 0.0
    at = np.append(np.linspace((1 - TAIL) * epochs, epochs, GRID, endpoint=False), epochs - 1e-9)
    noise = np.array([schedule.noise_ratio(t) for t in at.tolist()])
    most = NEAR * noise.min()
    high = np.flatnonzero(noise > most)
    if not len(high):
        return 0.0
    before, after = at[high[-1]], at[min(high[-1] + 1, GRID)]
    while after - before > 1e-9 * epochs:
        middle = (before + after) / 2
        before, after = (middle, after) if schedule.noise_ratio(middle) > most else (before, middle)
    return float(after)


def cycles(schedule: Any, *, to_the_end: bool = False) -> bool:
    """Tells whether a schedule, or what it is made of, goes up and down; `to_the_end`: whether it ends so."""
    if isinstance(schedule, Inverse):
        return cycles(schedule.of, to_the_end=to_the_end)
    if isinstance(schedule, Ratio):
        return any(cycles(of, to_the_end=to_the_end) for of in (schedule.over, schedule.under))
    if isinstance(schedule, Chain):
        return not to_the_end and any(cycles(of) for of in schedule.parts)
    return isinstance(schedule, Cyclic | Triangle)
