"""Schedules of the learning rate and of the batch size, and their exchange at equal noise.

A schedule is a pure function of the epoch progress t = examples consumed / N, in epochs. The same objects serve
the learning rate eta and the batch size S, so that either can be put in place of the other: SGD's noise is set
by the ratio n = eta/S (Jastrzębski et al. 2017, eq. 6), and `exchange` moves a variation from one to the other
while n(t) stays what it was.

Every dataclass here is frozen, validated, and importable by name, so that it can be hashed and stored. `bounds`
is the interval the values stay in. Any other `Callable[[float], float]` is a schedule too.
"""

from three_factors.datamodules.schedules.composed import Chain, Inverse, Ratio, steady
from three_factors.datamodules.schedules.noise import NoiseSchedule, Setting, exchange, round_batch_size
from three_factors.datamodules.schedules.shapes import (
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    OneCycle,
    Polynomial,
    StepEvery,
    Steps,
    Triangle,
    WarmRestarts,
    as_schedule,
)
from three_factors.datamodules.schedules.values import Schedule, bounds, known_bounds

__all__ = [
    "Chain",
    "Constant",
    "Cosine",
    "Cyclic",
    "Exponential",
    "Inverse",
    "NoiseSchedule",
    "OneCycle",
    "Polynomial",
    "Ratio",
    "Schedule",
    "Setting",
    "StepEvery",
    "Steps",
    "Triangle",
    "WarmRestarts",
    "as_schedule",
    "bounds",
    "exchange",
    "known_bounds",
    "round_batch_size",
    "steady",
]
