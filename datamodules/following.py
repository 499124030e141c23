"""How a loader with an epoch plan hears of the epochs: Lightning tells its sampler, not its batch sampler."""

from __future__ import annotations

from collections.abc import Callable


class Ear:
    """Stands where Lightning looks for a sampler, and passes on the epoch that it is told at every epoch's start."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self.set_epoch = hear

    @property
    def sampler(self) -> Ear:
        """Returns itself: Lightning looks at `loader.batch_sampler.sampler`."""
        return self


class EpochNames:
    """Translates the epochs that Lightning names into those of a plan.

    A loader that was made for an epoch (`placed`) takes the first number that it hears for that epoch's name: after
    a checkpoint of an epoch's end was resumed under `max_steps`, Lightning names epochs one too high. One that was
    made for no epoch in particular takes the names as they are.
    """

    def __init__(self, epoch: int, *, placed: bool) -> None:
        self._epoch, self._placed = epoch, placed
        self._ahead: int | None = None
        self._last: int | None = None

    def translate(self, name: int) -> tuple[int, bool]:
        """Returns the plan's epoch, and whether it is the one that follows the last one told."""
        if self._ahead is None:
            self._ahead = name - self._epoch if self._placed else 0
        successive = self._last is not None and name == self._last + 1
        self._last = name
        return name - self._ahead, successive
