"""What a schedule is: a function of the epoch, in some cases with known bounds, whose numbers are checked."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence

Schedule = Callable[[float], float]


def plain(value: object) -> int | float | None:
    """Returns a number as one of Python's own, which can be stored; None for what is no real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    # of an int and a float too: np.float64 is a subclass of float
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def plain_numbers(values: Iterable[object]) -> tuple[int | float, ...] | None:
    """Returns finite numbers as Python's own; None if any is none."""
    found = [plain(value) for value in values]
    finite = tuple(number for number in found if number is not None and math.isfinite(number))
    return finite if len(finite) == len(found) else None


def check_numbers(owner: object, *, positive: Sequence[str] = (), nonnegative: Sequence[str] = ()) -> None:
    """Raises ValueError naming the field of `owner` that is no finite number of its kind.

    A NumPy scalar among them becomes Python's own number, which can be stored.
    """
    for name in (*positive, *nonnegative):
        value, number = getattr(owner, name), plain(getattr(owner, name))
        if number is None or not math.isfinite(number) or number < 0 or (number == 0 and name in positive):
            kind = "positive" if name in positive else "non-negative"
            raise ValueError(f"{type(owner).__name__}.{name}: {value!r} is not a {kind} finite number")
        if number is not value:
            object.__setattr__(owner, name, number)


def check_milestones(owner: object, milestones: Sequence[float]) -> None:
    """Raises ValueError unless the milestones of `owner`, in epochs, are finite and increase from above 0.

    They become a tuple of Python's own numbers.
    """
    found = plain_numbers(milestones)
    if found is None or not all(m > 0 for m in found) or list(found) != sorted(set(found)):
        words = "do not increase from above 0, all finite"
        raise ValueError(f"{type(owner).__name__}.milestones: {milestones!r} {words}")
    object.__setattr__(owner, "milestones", found)


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
