"""Schedules made of other schedules: one after another, the inverse of one, the ratio of two."""

from __future__ import annotations

import math
from dataclasses import dataclass

from three_factors.datamodules.schedules.shapes import Constant, Cyclic, Steps, as_schedule
from three_factors.datamodules.schedules.values import Schedule, bounds, check_milestones, check_numbers


@dataclass(frozen=True)
class Chain:
    """Follows `parts[i]` from epoch `milestones[i-1]` on, each seeing the epochs since its own start.

    Numbers among the parts become constants.
    """

    parts: tuple[float | Schedule, ...]
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.milestones) + 1:
            raise ValueError(
                f"Chain.parts: {len(self.parts)} parts need {len(self.parts) - 1} milestones, "
                f"not {len(self.milestones)}"
            )
        check_milestones(self, self.milestones)
        if not all(callable(part) for part in self.parts):  # else they stay what they are, for who compares them
            parts = tuple(as_schedule(part, f"Chain.parts[{i}]") for i, part in enumerate(self.parts))
            object.__setattr__(self, "parts", parts)

    @property
    def bounds(self) -> tuple[float, float]:
        lows, highs = zip(*(bounds(as_schedule(part)) for part in self.parts))
        return min(lows), max(highs)

    def __call__(self, epoch: float) -> float:
        index = sum(epoch >= m for m in self.milestones)
        return as_schedule(self.parts[index])(epoch - (0.0, *self.milestones)[index])


@dataclass(frozen=True)
class Inverse:
    """Is product / of(t): what `exchange` puts in place of `of`. Infinite where `of` is 0."""

    of: Schedule
    product: float

    def __post_init__(self) -> None:
        check_numbers(self, positive=["product"])

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = bounds(self.of)
        return _over(self.product, high), _over(self.product, low)

    def __call__(self, epoch: float) -> float:
        return _over(self.product, self.of(epoch))


@dataclass(frozen=True)
class Ratio:
    """Is factor * over(t) / under(t): the exchange of two schedules that both vary."""

    over: Schedule
    under: Schedule
    factor: float

    def __post_init__(self) -> None:
        check_numbers(self, positive=["factor"])

    @property
    def bounds(self) -> tuple[float, float]:
        (over_low, over_high), (under_low, under_high) = bounds(self.over), bounds(self.under)
        return _over(self.factor * over_low, under_high), _over(self.factor * over_high, under_low)

    def __call__(self, epoch: float) -> float:
        return _over(self.factor * self.over(epoch), self.under(epoch))


def _over(value: float, divisor: float) -> float:
    """Returns value / divisor; infinite over 0."""
    return value / divisor if divisor else math.inf


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
