"""A learning-rate and a batch-size schedule together: the noise that they set, and their exchange at equal noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from three_factors.datamodules.schedules.composed import Inverse, Ratio
from three_factors.datamodules.schedules.shapes import Constant, as_schedule
from three_factors.datamodules.schedules.values import Schedule, bounds, known_bounds


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

    An infinite value gives largest. Raises ValueError for NaN, and below 1/2 example.
    """
    if not value >= 0.5:
        raise ValueError(f"batch_size: {value!r} is no number of examples")
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
        ValueError: both vary and `to` is not given; the value that stays cannot be known from `bounds`; or a value is
            given for what varies afterwards, or where nothing varies.
    """
    old_lr, old_size = as_schedule(schedule.lr), as_schedule(schedule.batch_size)
    lr_varies, size_varies = not isinstance(old_lr, Constant), not isinstance(old_size, Constant)
    if to is None:
        if lr_varies and size_varies:
            raise ValueError("to: lr and batch_size both vary; say which of them shall vary alone")
        if not (lr_varies or size_varies):
            _refuse(lr=lr, batch_size=batch_size)
            return schedule
        to = "batch_size" if lr_varies else "lr"
    if to == "batch_size":
        _refuse(batch_size=batch_size)
        if isinstance(old_size, Constant):
            kept = bounds(old_lr)[1] if lr is None else lr
            return NoiseSchedule(kept, _inverse(old_lr, kept * old_size.value))
        kept = bounds(old_lr)[1] if lr is None else lr
        return NoiseSchedule(kept, Ratio(old_size, old_lr, kept))
    if to == "lr":
        _refuse(lr=lr)
        kept = bounds(old_size)[0] if batch_size is None else batch_size
        if isinstance(old_lr, Constant):
            return NoiseSchedule(_inverse(old_size, kept * old_lr.value), kept)
        return NoiseSchedule(Ratio(old_lr, old_size, kept), kept)
    raise ValueError(f"to: {to!r} is neither 'lr' nor 'batch_size'")


def _refuse(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: {value!r} was given to be held, but it is not {name} that the exchange holds")


def _inverse(schedule: Schedule, product: float) -> Schedule:
    """Returns product / schedule, where the inverse of an inverse is the schedule itself."""
    if isinstance(schedule, Inverse) and math.isclose(schedule.product, product, rel_tol=1e-12):
        return schedule.of
    return Inverse(schedule, product)
