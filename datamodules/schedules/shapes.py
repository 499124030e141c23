"""Schedules of one quantity by a formula of the epoch progress: constant, cyclic, in steps, falling, warmed up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from three_factors.datamodules.schedules.values import (
    Schedule,
    check_milestones,
    check_numbers,
    plain,
    plain_numbers,
)


@dataclass(frozen=True)
class Constant:
    """Is always `value`."""

    value: float

    def __post_init__(self) -> None:
        check_numbers(self, nonnegative=["value"])

    @property
    def bounds(self) -> tuple[float, float]:
        return self.value, self.value

    def __call__(self, epoch: float) -> float:
        return self.value


@dataclass(frozen=True)
class Cyclic:
    """Holds `high` for the first half of every period and `low` for the second; `period` is in epochs.

    `phase` is in periods: with 0.5 the cycle starts at `low`.
    """

    high: float
    low: float
    period: float
    phase: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, positive=["period"], nonnegative=["high", "low", "phase"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.low, self.high), max(self.low, self.high)

    def __call__(self, epoch: float) -> float:
        return self.high if (epoch / self.period + self.phase) % 1 < 0.5 else self.low


@dataclass(frozen=True)
class Triangle:
    """Rises linearly from `low` to `high` over half a period (epochs) and falls back: Smith 2015's triangular CLR.

    `phase` is in periods: with 0.5 the cycle starts at `high`.
    """

    high: float
    low: float
    period: float
    phase: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, positive=["period"], nonnegative=["high", "low", "phase"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.low, self.high), max(self.low, self.high)

    def __call__(self, epoch: float) -> float:
        distance_from_peak = abs(2 * ((epoch / self.period + self.phase) % 1) - 1)
        return _between(self.high, self.low, distance_from_peak)


@dataclass(frozen=True)
class Steps:
    """Is `values[i]` from epoch `milestones[i-1]` until `milestones[i]`; one value more than milestones."""

    values: tuple[float, ...]
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(
                f"Steps.values: {len(self.values)} values need {len(self.values) - 1} milestones, "
                f"not {len(self.milestones)}"
            )
        values = plain_numbers(self.values)
        if values is None or not all(v >= 0 for v in values):
            raise ValueError(f"Steps.values: {self.values!r} are not all non-negative finite numbers")
        object.__setattr__(self, "values", values)
        check_milestones(self, self.milestones)

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.values), max(self.values)

    def __call__(self, epoch: float) -> float:
        return self.values[sum(epoch >= m for m in self.milestones)]


@dataclass(frozen=True)
class StepEvery:
    """Multiplies `start` by `factor` after every `every` epochs, and never goes beyond `limit`.

    ValueError for a limit on the side that it moves away from: it would stay at `start`.
    """

    start: float
    factor: float
    every: float
    limit: float

    def __post_init__(self) -> None:
        check_numbers(self, positive=["factor", "every"], nonnegative=["start", "limit"])
        if (self.factor - 1) * (self.limit - self.start) < 0:
            raise ValueError(f"StepEvery.limit: {self.limit!r} is never reached from {self.start!r} by {self.factor!r}")

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.limit), max(self.start, self.limit)

    def __call__(self, epoch: float) -> float:
        low, high = self.bounds
        try:
            value = self.start * self.factor ** (epoch // self.every)
        except OverflowError:  # of the power, long after the limit
            return high if self.start else low
        return min(max(value, low), high)


@dataclass(frozen=True)
class Polynomial:
    """Goes from `start` to `end` over `epochs` as start + (end-start) (t/epochs)^power; then `end`."""

    start: float
    end: float
    epochs: float
    power: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, positive=["epochs", "power"], nonnegative=["start", "end"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __call__(self, epoch: float) -> float:
        return _between(self.start, self.end, min(epoch / self.epochs, 1.0) ** self.power)


@dataclass(frozen=True)
class Exponential:
    """Goes from `start` to `end` over `epochs` by a constant factor per epoch; then `end`."""

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        check_numbers(self, positive=["start", "end", "epochs"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __call__(self, epoch: float) -> float:
        return self.start * (self.end / self.start) ** min(epoch / self.epochs, 1.0)


@dataclass(frozen=True)
class Cosine:
    """Goes from `start` to `end` over `epochs` along half a cosine (Loshchilov and Hutter 2017); then `end`."""

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        check_numbers(self, positive=["epochs"], nonnegative=["start", "end"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __call__(self, epoch: float) -> float:
        return _between(self.end, self.start, _half_cosine(min(epoch / self.epochs, 1.0)))


@dataclass(frozen=True)
class WarmRestarts:
    """Falls along half a cosine from `high` to `low` in every period, each `growth` times the last (SGDR, 2017)."""

    high: float
    low: float
    period: float
    growth: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, positive=["period", "growth"], nonnegative=["high", "low"])
        if self.growth < 1:
            raise ValueError(f"WarmRestarts.growth: {self.growth!r} is below 1")

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.low, self.high), max(self.low, self.high)

    def __call__(self, epoch: float) -> float:
        start, period = 0.0, self.period
        if self.growth == 1:
            start = epoch // period * period
        while epoch >= start + period:
            start, period = start + period, period * self.growth
        return _between(self.low, self.high, _half_cosine((epoch - start) / period))


@dataclass(frozen=True)
class OneCycle:
    """Rises from `start` to `peak` over the share `warmup` of `epochs`, falls to `end`; half cosines (Smith 2018)."""

    start: float
    peak: float
    end: float
    epochs: float
    warmup: float = 0.3

    def __post_init__(self) -> None:
        check_numbers(self, positive=["epochs", "warmup"], nonnegative=["start", "peak", "end"])
        if self.warmup >= 1:
            raise ValueError(f"OneCycle.warmup: {self.warmup!r} is not between 0 and 1")

    @property
    def bounds(self) -> tuple[float, float]:
        values = self.start, self.peak, self.end
        return min(values), max(values)

    def __call__(self, epoch: float) -> float:
        share = min(epoch / self.epochs, 1.0)
        if share < self.warmup:
            return _between(self.peak, self.start, _half_cosine(share / self.warmup))
        return _between(self.end, self.peak, _half_cosine((share - self.warmup) / (1 - self.warmup)))


def _between(start: float, end: float, share: float) -> float:
    """Returns `start` at share 0, `end` at share 1; between them it may lie outside both by rounding."""
    return start * (1 - share) + end * share


def _half_cosine(share: float) -> float:
    """Returns 1 at share 0, 0 at share 1."""
    return (1 + math.cos(math.pi * share)) / 2


def as_schedule(value: float | Schedule, name: str = "schedule") -> Schedule:
    """Returns a number as a `Constant`, and a callable itself. Raises ValueError naming `name` for anything else."""
    if callable(value):
        return value
    number = plain(value)
    if number is not None:
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name}: {value!r} is not a non-negative finite number")
        return Constant(number)
    raise ValueError(f"{name}: {value!r} is neither a number nor a function of the epoch")
