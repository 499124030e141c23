"""Two batches and the two in one: their losses and gradients, and what of them makes the whole's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from three_factors.callbacks.functional.nests import joined, tensors_of
from three_factors.callbacks.functional.probes import Probe


class WrongLoss(ValueError):
    """A loss that does not treat examples as it is said to."""


class Sides:
    """The losses and gradients of two items and of both in one.

    Attributes:
        values: of one, the other, and the whole. slopes: their gradients in one vector each, divided by the largest
            number in them.
    """

    def __init__(self, way: Probe, one: Any, other: Any) -> None:
        self._way, self._parts = way, (one, other)
        (a, ga), (b, gb), (c, gc) = (way.slope(item) for item in (one, other, joined([one, other])))
        if way.by_example:
            ga, gb = ([_among(g, whole, place) for g, whole in zip(part, gc)] for place, part in ((0, ga), (1, gb)))
        flat = [torch.cat([g.reshape(-1) for g in slopes]) for slopes in (ga, gb, gc)]
        self.values = [a, b, c]
        self._scale = max(float(g.abs().max()) for g in flat)
        self.slopes = [g / (self._scale or 1.0) for g in flat]
        self._noise: float | None = None

    @property
    def telling(self) -> bool:
        """Tells whether there is something to compare: finite losses with a gradient."""
        return all(map(math.isfinite, (*self.values, self._scale))) and self._scale > 0

    def joined_by(self, first: float, second: float, tolerance: float | None = None) -> bool:
        """Tells whether the whole is first x one + second x the other, in loss and gradient, to rounding or
        `tolerance`.
        """
        eps = torch.finfo(self.slopes[0].dtype).eps
        (a, b, c), (ga, gb, gc) = self.values, self.slopes
        if abs(c - first * a - second * b) > (tolerance or 300 * eps) * (abs(first * a) + abs(second * b)) + eps**2:
            return False
        apart = float((gc - first * ga - second * gb).norm())
        length = max(float(g.norm()) for g in self.slopes)
        if apart <= (tolerance or 3e3 * eps) * length:
            return True
        return apart <= min(20 * self.noise, 0.3 * length)

    def mean(self, first: float, second: float) -> bool:
        """Tells whether these are the weights of a mean, and the whole is it (the root of a mean has others, that add
        up to
        less; its logarithm is not the mean of theirs)."""
        tolerance = max(3e3 * torch.finfo(self.slopes[0].dtype).eps, 1e-9)
        if not self._way.by_example:  # found to what rounding leaves
            tolerance = max(tolerance, 20 * self.noise, 1e-6)
        adds_up = abs(first + second - 1) <= tolerance
        return adds_up and first > 0 and second > -tolerance and self.joined_by(first, second, tolerance)

    def refuse_if_random(self) -> None:
        """Raises WrongLoss if the whole has another loss the second time."""
        again, value = self._way.slope(joined(list(self._parts)))[0], self.values[2]
        if abs(again - value) > 1e4 * torch.finfo(self.slopes[0].dtype).eps * abs(value):
            raise WrongLoss(
                "loss: is another one each time (it, or the module, draws random numbers in eval mode too); make it a "
                "function of the batch, or have it draw from a generator that it seeds itself"
            )

    @property
    def noise(self) -> float:
        """Estimates what rounding makes of the whole's gradient; where examples cancel, it is not small."""
        if self._way.by_example:
            return 0.0
        if self._noise is None:
            self.refuse_if_random()
            one, other = self._parts
            _, slopes = self._way.slope(joined([other, one]))
            turned = torch.cat([g.reshape(-1) for g in slopes]) / self._scale
            self._noise = float((turned - self.slopes[2]).norm())
        return self._noise

    def solved(self) -> tuple[float, float]:
        """Returns the factors for `joined_by`, by least squares."""
        size = max(map(abs, self.values)) or 1.0
        length = max(float(g.norm()) for g in self.slopes) or 1.0
        values = [torch.tensor([v / size], dtype=torch.float64, device=self.slopes[0].device) for v in self.values]
        rows = [torch.cat([g.double() / length, v]) for g, v in zip(self.slopes, values)]
        gram = torch.stack([torch.stack([x @ y for y in rows[:2]]) for x in rows[:2]])
        right = torch.stack([x @ rows[2] for x in rows[:2]])
        first, second = (torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right).tolist()
        return first, second


def _among(rows: Tensor, whole: Tensor, place: int) -> Tensor:
    """Returns a part's rows where they stand in the whole, zeros elsewhere."""
    found = torch.zeros_like(whole)
    (found[: len(rows)] if place == 0 else found[len(whole) - len(rows) :]).copy_(rows)
    return found


def sides_of(ways: Sequence[Probe], one: Any, other: Any, whole: Any = None) -> Sides | None:
    """Returns both batches and the two in one, by the first way that can take them; None if they do not fit together.

    `whole`: the two in one, to see whether examples meet in the module.
    """
    last: Exception = RuntimeError()
    for way in ways:
        try:
            items = way.item(one), way.item(other)
            if way.by_example and whole is not None and not alike(way.item(whole), items):
                continue
            return Sides(way, *items)
        except WrongLoss:
            raise
        except Exception as error:  # outputs, or batches, of any kind that cannot be joined: the next way
            last = error
    if isinstance(last, torch.OutOfMemoryError):
        raise last
    return None


def alike(whole: Any, parts: Sequence[Any]) -> bool:
    """Tells whether the outputs of a whole batch are those of its parts."""
    pairs = zip(tensors_of(whole[0]), tensors_of(joined(list(parts))[0]), strict=True)
    return all(_close(x, y) for x, y in pairs)


def _close(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or not (x.is_floating_point() or x.is_complex()):
        return x.shape == y.shape
    rounding = 1e4 * torch.finfo(x.dtype).eps
    return bool(torch.allclose(x, y, rtol=rounding, atol=rounding * float(x.abs().max()), equal_nan=True))
