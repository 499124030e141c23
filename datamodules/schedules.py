"""Schedules of the learning rate and of the batch size, and their exchange at equal noise.

A schedule is a pure function of the epoch progress t = examples consumed / N, in epochs. The same objects serve
the learning rate eta and the batch size S, so that either can be put in place of the other: SGD's noise is set
by the ratio n = eta/S (Jastrzębski et al. 2017, eq. 6), and `exchange` moves a variation from one to the other
while n(t) stays what it was.

Every dataclass here is frozen, validated, and importable by name, so that it can be hashed and stored. `bounds`
is the interval the values stay in. Any other `Callable[[float], float]` is a schedule too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Schedule = Callable[[float], float]


def _check(owner: object, *, positive: Sequence[str] = (), nonnegative: Sequence[str] = ()) -> None:
    for name in (*positive, *nonnegative):
        value = getattr(owner, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and name in positive):
            kind = "positive" if name in positive else "non-negative"
            raise ValueError(f"{type(owner).__name__}.{name}: {value!r} is not a {kind} finite number")


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float

    def __post_init__(self) -> None:
        _check(self, nonnegative=["value"])

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
        _check(self, positive=["period"], nonnegative=["high", "low", "phase"])

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
        _check(self, positive=["period"], nonnegative=["high", "low", "phase"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.low, self.high), max(self.low, self.high)

    def __call__(self, epoch: float) -> float:
        distance_from_peak = abs(2 * ((epoch / self.period + self.phase) % 1) - 1)
        return _between(self.high, self.low, distance_from_peak)


@dataclass(frozen=True)
class Steps:
    """`values[i]` from epoch `milestones[i-1]` until `milestones[i]`; one value more than milestones."""

    values: tuple[float, ...]
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(
                f"Steps.values: {len(self.values)} values need {len(self.values) - 1} milestones, "
                f"not {len(self.milestones)}"
            )
        if any(not (math.isfinite(v) and v >= 0) for v in self.values):
            raise ValueError(f"Steps.values: {self.values!r} are not all non-negative finite numbers")
        if list(self.milestones) != sorted(set(self.milestones)) or any(m <= 0 for m in self.milestones):
            raise ValueError(f"Steps.milestones: {self.milestones!r} do not increase from above 0")

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.values), max(self.values)

    def __call__(self, epoch: float) -> float:
        return self.values[sum(epoch >= m for m in self.milestones)]


@dataclass(frozen=True)
class StepEvery:
    """`start` multiplied by `factor` after every `every` epochs, and never beyond `limit`."""

    start: float
    factor: float
    every: float
    limit: float

    def __post_init__(self) -> None:
        _check(self, positive=["factor", "every"], nonnegative=["start", "limit"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.limit), max(self.start, self.limit)

    def __call__(self, epoch: float) -> float:
        low, high = self.bounds
        return min(max(self.start * self.factor ** (epoch // self.every), low), high)


@dataclass(frozen=True)
class Polynomial:
    """From `start` to `end` over `epochs` as start + (end-start) (t/epochs)^power; then `end`."""

    start: float
    end: float
    epochs: float
    power: float = 1.0

    def __post_init__(self) -> None:
        _check(self, positive=["epochs", "power"], nonnegative=["start", "end"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __call__(self, epoch: float) -> float:
        return _between(self.start, self.end, min(epoch / self.epochs, 1.0) ** self.power)


@dataclass(frozen=True)
class Exponential:
    """From `start` to `end` over `epochs` by a constant factor per epoch; then `end`."""

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        _check(self, positive=["start", "end", "epochs"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __call__(self, epoch: float) -> float:
        return self.start * (self.end / self.start) ** min(epoch / self.epochs, 1.0)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` over `epochs` along half a cosine (Loshchilov and Hutter 2017); then `end`."""

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        _check(self, positive=["epochs"], nonnegative=["start", "end"])

    @property
    def bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def __call__(self, epoch: float) -> float:
        return _between(self.end, self.start, _half_cosine(min(epoch / self.epochs, 1.0)))


@dataclass(frozen=True)
class WarmRestarts:
    """Half a cosine from `high` to `low` in every period, each period `growth` times the last (SGDR, 2017)."""

    high: float
    low: float
    period: float
    growth: float = 1.0

    def __post_init__(self) -> None:
        _check(self, positive=["period"], nonnegative=["high", "low"])
        if not (math.isfinite(self.growth) and self.growth >= 1):
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
    """Up from `start` to `peak` over the share `warmup` of `epochs`, down to `end`; half cosines (Smith 2018)."""

    start: float
    peak: float
    end: float
    epochs: float
    warmup: float = 0.3

    def __post_init__(self) -> None:
        _check(self, positive=["epochs"], nonnegative=["start", "peak", "end"])
        if not 0 < self.warmup < 1:
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


@dataclass(frozen=True)
class Chain:
    """`parts[i]` from epoch `milestones[i-1]` on, each seeing the epochs since its own start."""

    parts: tuple[Schedule, ...]
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.milestones) + 1:
            raise ValueError(
                f"Chain.parts: {len(self.parts)} parts need {len(self.parts) - 1} milestones, "
                f"not {len(self.milestones)}"
            )
        if list(self.milestones) != sorted(set(self.milestones)) or any(m <= 0 for m in self.milestones):
            raise ValueError(f"Chain.milestones: {self.milestones!r} do not increase from above 0")

    @property
    def bounds(self) -> tuple[float, float]:
        lows, highs = zip(*(bounds(part) for part in self.parts))
        return min(lows), max(highs)

    def __call__(self, epoch: float) -> float:
        index = sum(epoch >= m for m in self.milestones)
        return self.parts[index](epoch - (0.0, *self.milestones)[index])


@dataclass(frozen=True)
class Inverse:
    """product / of(t): what `exchange` puts in place of `of`. Infinite where `of` is 0."""

    of: Schedule
    product: float

    def __post_init__(self) -> None:
        _check(self, positive=["product"])

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = bounds(self.of)
        return _over(self.product, high), _over(self.product, low)

    def __call__(self, epoch: float) -> float:
        return _over(self.product, self.of(epoch))


def _between(start: float, end: float, share: float) -> float:
    """Returns `start` at share 0, `end` at share 1, and never outside them by rounding."""
    return start * (1 - share) + end * share


def _over(value: float, divisor: float) -> float:
    """Returns value / divisor; infinite over 0."""
    return value / divisor if divisor else math.inf


def _half_cosine(share: float) -> float:
    """Returns 1 at share 0, 0 at share 1."""
    return (1 + math.cos(math.pi * share)) / 2


def as_schedule(value: float | Schedule, name: str = "schedule") -> Schedule:
    """Returns a number becomes a `Constant`; a callable stays itself. Raises ValueError naming `name` otherwise."""
    if callable(value):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: {value!r} is not a non-negative finite number")
        return Constant(value)
    raise ValueError(f"{name}: {value!r} is neither a number nor a function of the epoch")


class _Boundless(ValueError):
    """A schedule that does not say its bounds."""


def bounds(schedule: Schedule) -> tuple[float, float]:
    """Returns (lowest, highest) value of a schedule. Raises ValueError for a callable that does not say."""
    known: tuple[float, float] | None = getattr(schedule, "bounds", None)
    if known is None:
        raise _Boundless(f"schedule: {schedule!r} has no `bounds`; say which value stays constant")
    return known


def known_bounds(schedule: Schedule) -> tuple[float, float] | None:
    """Returns (lowest, highest) value, or None if the schedule, or one inside it, does not say."""
    try:
        return bounds(schedule)
    except _Boundless:
        return None


def steady(schedule: Schedule, start: float, stop: float) -> bool:
    """Tells whether a schedule is known to have one value from epoch `start` until before `stop`."""
    if isinstance(schedule, Constant):
        return True
    if isinstance(schedule, Cyclic):
        first, last = (2 * (t / schedule.period + schedule.phase) for t in (start, stop))  # in half cycles
        return math.ceil(last) - 1 == math.floor(first)
    if isinstance(schedule, Steps):
        return not any(start < milestone < stop for milestone in schedule.milestones)
    if isinstance(schedule, Inverse):
        return steady(schedule.of, start, stop)
    return isinstance(schedule, Ratio) and all(steady(of, start, stop) for of in (schedule.over, schedule.under))


class Setting(NamedTuple):
    """Describes what one optimisation step uses: the learning rate, and the number of examples over all devices."""

    lr: float
    batch_size: int


@dataclass(frozen=True)
class NoiseSchedule:
    """A learning-rate and a batch-size schedule that are followed together, at n(t) = lr(t) / batch_size(t).

    `lr` and `batch_size` are schedules; numbers become constants. `batch_size` is global (over all devices).
    """

    lr: float | Schedule
    batch_size: float | Schedule

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", as_schedule(self.lr, "lr"))
        object.__setattr__(self, "batch_size", as_schedule(self.batch_size, "batch_size"))
        lr, size = known_bounds(as_schedule(self.lr)), known_bounds(as_schedule(self.batch_size))
        if lr is not None and lr[1] == 0:
            raise ValueError("lr: 0 at all times trains nothing")
        if size is not None and size[0] < 0.5:
            raise ValueError(f"batch_size: falls to {size[0]!r}, below 1 example")

    def noise_ratio(self, epoch: float) -> float:
        """Returns n(t) = eta(t)/S(t), per example, before S is rounded."""
        lr, batch_size = as_schedule(self.lr), as_schedule(self.batch_size)
        return lr(epoch) / batch_size(epoch)

    def setting(self, epoch: float, batch_size: int) -> Setting:
        """Returns the step that keeps eta/S = n(t) with the whole number of examples that the batch really has."""
        return Setting(self.noise_ratio(epoch) * batch_size, batch_size)

    def scaled(self, factor: float) -> NoiseSchedule:
        """Multiplies constant eta and S by `factor`, at the same noise (the right panel of the paper's Fig. 4)."""
        if not (isinstance(self.lr, Constant) and isinstance(self.batch_size, Constant)):
            raise ValueError("scaled: only a constant schedule can be scaled; exchange() moves a variation")
        return NoiseSchedule(self.lr.value * factor, self.batch_size.value * factor)


def round_batch_size(value: float, smallest: int, largest: int) -> int:
    """Returns the whole number of examples nearest to `value` in [smallest, largest].

    An infinite value gives largest.
    """
    return largest if value >= largest else max(round(value), smallest)


def exchange(
    schedule: NoiseSchedule,
    to: Literal["lr", "batch_size"] | None = None,
    *,
    lr: float | None = None,
    batch_size: float | None = None,
) -> NoiseSchedule:
    """Moves a variation from the learning rate to the batch size, or back, at equal eta/S at every t.

    A varying eta at constant S becomes a constant eta (its highest value, or `lr`) with S(t) = eta/n(t); a varying
    S at constant eta becomes a constant S (its lowest value, or `batch_size`) with eta(t) = n(t) S. Where eta is 0
    the exchanged S is infinite, which the loader reads as 'the largest batch allowed'. A constant schedule comes
    back as it is. This is Section 4.2's exchange, for any schedule.

    `to` says what varies afterwards; it is needed only if both vary now, and then the other one is held.

    Raises:
        ValueError: both vary and `to` is not given; or the value that stays cannot be known from `bounds`.
    """
    old_lr, old_size = as_schedule(schedule.lr), as_schedule(schedule.batch_size)
    lr_varies, size_varies = not isinstance(old_lr, Constant), not isinstance(old_size, Constant)
    if to is None:
        if lr_varies and size_varies:
            raise ValueError("to: lr and batch_size both vary; say which of them shall vary alone")
        if not (lr_varies or size_varies):
            return schedule
        to = "batch_size" if lr_varies else "lr"
    if to == "batch_size":
        if isinstance(old_size, Constant):
            kept = bounds(old_lr)[1] if lr is None else lr
            return NoiseSchedule(kept, _inverse(old_lr, kept * old_size.value))
        kept = bounds(old_lr)[1] if lr is None else lr
        return NoiseSchedule(kept, Ratio(old_size, old_lr, kept))
    if to == "lr":
        kept = bounds(old_size)[0] if batch_size is None else batch_size
        if isinstance(old_lr, Constant):
            return NoiseSchedule(_inverse(old_size, kept * old_lr.value), kept)
        return NoiseSchedule(Ratio(old_lr, old_size, kept), kept)
    raise ValueError(f"to: {to!r} is neither 'lr' nor 'batch_size'")


@dataclass(frozen=True)
class Ratio:
    """factor * over(t) / under(t): the exchange of two schedules that both vary."""

    over: Schedule
    under: Schedule
    factor: float

    def __post_init__(self) -> None:
        _check(self, positive=["factor"])

    @property
    def bounds(self) -> tuple[float, float]:
        (over_low, over_high), (under_low, under_high) = bounds(self.over), bounds(self.under)
        return _over(self.factor * over_low, under_high), _over(self.factor * over_high, under_low)

    def __call__(self, epoch: float) -> float:
        return _over(self.factor * self.over(epoch), self.under(epoch))


def _inverse(schedule: Schedule, product: float) -> Schedule:
    """Returns product / schedule, where the inverse of an inverse is the schedule itself."""
    if isinstance(schedule, Inverse) and math.isclose(schedule.product, product, rel_tol=1e-12):
        return schedule.of
    return Inverse(schedule, product)
