"""How much each batch counts in the loss of all the data: what a loss does with examples is tried, not believed.

The loss of two batches in one, and its gradient, are compared with theirs. Where it is their mean by numbers of
examples, or their sum, that is what is used; where it is another weighted mean (class weights, ignored targets) the
weights are found from it; a loss that is none of these belongs to its batch as a whole, and is refused. So no result
depends on how the data are split into batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from callbacks.functional.attributes import attributes_kept
from callbacks.functional.called import Called
from callbacks.functional.inputs import distributed, gathered, of_all_ranks, stored
from callbacks.functional.nests import cut, joined, part_sizes, rebuilt, size_of, tensors_of
from callbacks.functional.objective import Objective


class WrongLoss(ValueError):
    """A loss that does not treat examples as it is said to."""


@dataclass(frozen=True)
class Probe:
    """A way of taking the loss's gradient.

    Attributes:
        item: what it is taken of, from a batch; items can be joined.
        slope: an item's loss, and its gradient in parts.
        by_example: every part has a row an example, those of both batches one after the other in the whole's.
    """

    item: Callable[[Any], Any]
    slope: Callable[[Any], tuple[float, list[Tensor]]]
    by_example: bool


def probes(called: Called, objective: Objective, leaves: Callable[[], dict[str, Tensor]]) -> list[Probe]:
    """Gradients in the module's outputs (one forward pass, exact also where examples cancel), then in its parameters.

    Args:
        leaves: the parameters to differentiate in, by name, as leaves of a graph.
    """

    def outputs(batch: Any) -> Any:
        with torch.no_grad(), attributes_kept(called.module):  # what a pass caches is no part of the next one
            return called(objective.output, batch, called.tensors() | leaves()), objective.target(batch)

    def in_outputs(item: Any) -> tuple[float, list[Tensor]]:
        output, target = item
        free = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors_of(output)]
        given = rebuilt(output, free)
        loss = called(lambda _, given: objective.of_output(given, (None, target)), given, called.tensors())
        return _differentiated(loss, [t for t in free if t.requires_grad])

    def in_parameters(batch: Any) -> tuple[float, list[Tensor]]:
        own = leaves()
        with attributes_kept(called.module):
            return _differentiated(called(objective, batch, called.tensors() | own), list(own.values()))

    by_outputs = [] if objective.loss is None else [Probe(outputs, in_outputs, True)]
    return [*by_outputs, Probe(lambda batch: batch, in_parameters, False)]


def _differentiated(loss: Tensor, wanted: list[Tensor]) -> tuple[float, list[Tensor]]:
    value = float(loss.detach())
    if not loss.requires_grad:
        return value, [torch.zeros_like(x) for x in wanted]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    slopes = [torch.zeros_like(x) if g is None else g.detach() for x, g in zip(wanted, found)]
    return value, [torch.view_as_real(g) if g.is_complex() else g for g in slopes]


def shares(objective: Objective, ways: Sequence[Probe], batches: Sequence[Any], sizes: Sequence[int]) -> list[float]:
    """The factors c of this rank's batches in L = Σ c_b L_b, the loss of all ranks' data; every rank must come here.

    A batch without a loss of its own (all its targets are ignored) counts 0.

    Args:
        ways: to take gradients, the first that can be used is.
        sizes: numbers of examples.

    Raises:
        WrongLoss: the loss is not what `reduction` or `weights` say, or no weighted mean at all.
    """
    number = sum(of_all_ranks(len(batches)))
    if objective.reduction == "batch":
        return [1 / number] * len(batches)
    if number > 1 and any(gathered(lambda: any(_meet(ways[0], b) for b in batches[:1] if ways[0].by_example))):
        ways = ways[1:]  # outputs do not tell: they depend on the batch themselves
    place, reference = _reference(ways, batches) if number > 1 else ((-1, -1), None)
    rank = torch.distributed.get_rank() if distributed() else 0

    def weighed() -> list[_Weight]:
        if number == 1:
            return [_single(objective, ways, batch, size) for batch, size in zip(batches, sizes)]
        found = []
        for i, (batch, size) in enumerate(zip(batches, sizes)):
            other = reference if place != (rank, i) else None
            found.append(_weight(objective, ways, other, batch, size))
        return found

    ranks = gathered(weighed)
    if objective.reduction == "sum":
        return [1.0] * len(batches)
    plain = all(weight.plain for of_rank in ranks for weight in of_rank)
    total = sum(weight.of(plain) for of_rank in ranks for weight in of_rank)
    return [weight.of(plain) / total if total else math.nan for weight in ranks[rank]]


def try_on(objective: Objective, ways: Sequence[Probe], batch: Any) -> None:
    """For a trial on one small batch: raises what `shares` of its halves would raise, in half of the passes."""
    size = size_of(batch)
    if objective.reduction == "batch" or size < 2:
        return
    one, other = _halves(batch, size)
    sides = _sides(ways, one, other, batch)
    if sides is not None:
        _compared(objective, sides, one, other, size - size // 2)


@dataclass(frozen=True)
class _Weight:
    """What a batch weighs in units of an example of the reference; `plain`: as many as it has examples."""

    size: int
    value: float
    plain: bool

    def of(self, plain: bool) -> float:
        return float(self.size) if plain else self.value


def check_parts(objective: Objective, batches: Sequence[Any]) -> None:
    """Raises WrongLoss where batches of several loaders mix them differently; every rank must come here.

    No weight of a batch is then right for the means over all of its parts.
    """
    if objective.reduction != "mean" or objective.weights is not None:
        return
    found = sorted({sizes for of_rank in of_all_ranks([part_sizes(b) for b in batches]) for sizes in of_rank if sizes})
    for one, other in itertools.pairwise(found):
        if len(one) != len(other) or any(a * other[0] != b * one[0] for a, b in zip(one, other)):
            raise WrongLoss(
                f"batches: of several loaders, with {' + '.join(map(str, one))} examples and with "
                f"{' + '.join(map(str, other))}: no weight is right for all parts; leave out the odd ones, give "
                "weights=f(batch), or reduction='batch'"
            )


def _reference(ways: Sequence[Probe], batches: Sequence[Any]) -> tuple[tuple[int, int], Any]:
    """(rank, index) and the first batch with a finite loss and a gradient; (-1, -1) and None if there is none."""

    def first() -> tuple[int, Any]:
        for i, batch in enumerate(batches):
            value, slopes = _slope(ways, batch)
            if math.isfinite(value) and any(bool(slope.any()) for slope in slopes):
                return i, stored(batch, torch.device("cpu"), None)
        return -1, None

    for rank, (i, batch) in enumerate(gathered(first)):
        if batch is not None:
            return (rank, i), batch
    return (-1, -1), None


def _meet(way: Probe, batch: Any) -> bool:
    """Whether examples meet in the module, so that its outputs depend on what else is in the batch."""
    size = size_of(batch)
    if size < 2:
        return False
    try:
        few = min(size, 4)
        parts = way.item(cut(batch, 0, few // 2)), way.item(cut(batch, few // 2, few))
        return not _like(way.item(cut(batch, 0, few)), parts)
    except Exception:  # what cannot be cut or joined here cannot be told by outputs
        return True


def _like(whole: Any, parts: Sequence[Any]) -> bool:
    """Whether the outputs of a whole batch are those of its parts."""
    pairs = zip(tensors_of(whole[0]), tensors_of(joined(list(parts))[0]), strict=True)
    return all(_close(x, y) for x, y in pairs)


def _close(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or not (x.is_floating_point() or x.is_complex()):
        return x.shape == y.shape
    rounding = 1e4 * torch.finfo(x.dtype).eps
    return bool(torch.allclose(x, y, rtol=rounding, atol=rounding * float(x.abs().max()), equal_nan=True))


def _slope(ways: Sequence[Probe], batch: Any) -> tuple[float, list[Tensor]]:
    """The loss and its gradient by the first way that can take the batch."""
    for way in ways[:-1]:
        try:
            return way.slope(way.item(batch))
        except Exception:  # see `_sides`
            continue
    return ways[-1].slope(ways[-1].item(batch))


def _weight(objective: Objective, ways: Sequence[Probe], reference: Any, batch: Any, size: int) -> _Weight:
    if reference is None:  # it is the reference itself, or none has a finite loss with a gradient: nothing to compare
        return _given(objective, batch, size)
    one = stored(reference, tensors_of(batch)[0].device, None)
    sides = _sides(ways, one, batch)
    if sides is None:
        return _inside(objective, ways, batch, _given(objective, batch, size))
    return _compared(objective, sides, one, batch, size)


def _given(objective: Objective, batch: Any, size: int) -> _Weight:
    """By what is said of it."""
    weight = float(size if objective.weights is None else objective.weights(batch))
    return _Weight(size, weight, objective.weights is None)


def _compared(objective: Objective, sides: _Sides, one: Any, batch: Any, size: int) -> _Weight:
    """What `batch` weighs beside `one`."""
    given = _given(objective, batch, size)
    if not sides.telling:
        nothing_counts = not math.isfinite(sides.values[1]) and math.isfinite(sides.values[2])
        return _Weight(size, 0.0, False) if nothing_counts else given
    n = size_of(one)
    if objective.weights is not None:
        if not sides.joined_by(*_normalised(objective.weights(one), given.value)):
            raise WrongLoss("weights: the loss of two batches in one is not the mean of theirs with these weights")
        return given
    if _as_said(objective, sides, n, size):
        return given
    first, second = sides.solved()
    if objective.reduction == "mean" and sides.mean(first, second):
        return _Weight(size, max(n * second / first, 0.0), False)
    sides.refuse_if_random()
    raise WrongLoss(
        "loss: of two batches in one is neither the (weighted) mean nor the sum of theirs; if it belongs to a batch as "
        "a whole (contrastive, normalised over the batch), pass reduction='batch' and batches as training has them"
    )


def _single(objective: Objective, ways: Sequence[Probe], batch: Any, size: int) -> _Weight:
    """Of the only batch: the loss of all the data is its own, but the mean must be no sum, and the sum no mean."""
    sides = _sides(ways, *_halves(batch, size), batch) if size > 1 else None
    if sides is not None and sides.telling:
        _as_said(objective, sides, size // 2, size - size // 2)
    return _Weight(size, float(size), True)


def _inside(objective: Objective, ways: Sequence[Probe], batch: Any, given: _Weight) -> _Weight:
    """Of a batch that does not fit together with others: only its own parts can be compared with it."""
    size = given.size
    sides = _sides(ways, *_halves(batch, size)) if objective.weights is None and size > 1 else None
    if sides is not None and sides.telling and not _as_said(objective, sides, size // 2, size - size // 2):
        sides.refuse_if_random()
        raise WrongLoss(
            "loss: is no mean over the examples of a batch, and batches of different shapes cannot be compared; "
            "give weights=f(batch), what each batch weighs in the mean"
        )
    return given


def _halves(batch: Any, size: int) -> tuple[Any, Any]:
    return cut(batch, 0, size // 2), cut(batch, size // 2, size)


def _as_said(objective: Objective, sides: _Sides, n: int, m: int) -> bool:
    """Whether the loss is what `reduction` says. Raises WrongLoss where it is the other one."""
    mean, total = _normalised(n, m), (1.0, 1.0)
    said, other = (total, mean) if objective.reduction == "sum" else (mean, total)
    if sides.joined_by(*said):
        return True
    if sides.joined_by(*other):
        is_now, better = ("the mean", "mean") if objective.reduction == "sum" else ("the sum", "sum")
        raise WrongLoss(
            f"reduction: {objective.reduction!r}, but the loss of two batches in one is {is_now} of theirs; "
            f"pass reduction={better!r}"
        )
    return False


def _normalised(one: float, other: float) -> tuple[float, float]:
    total = one + other
    return (one / total, other / total) if total else (0.5, 0.5)


def _sides(ways: Sequence[Probe], one: Any, other: Any, whole: Any = None) -> _Sides | None:
    """Both batches and the two in one, by the first way that can take them; None if they do not fit together.

    `whole`: the two in one, to see whether examples meet in the module.
    """
    last: Exception = RuntimeError()
    for way in ways:
        try:
            items = way.item(one), way.item(other)
            if way.by_example and whole is not None and not _like(way.item(whole), items):
                continue
            return _Sides(way, *items)
        except WrongLoss:
            raise
        except Exception as error:  # outputs, or batches, of any kind that cannot be joined: the next way
            last = error
    if isinstance(last, torch.OutOfMemoryError):
        raise last
    return None


class _Sides:
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
        """Whether there is something to compare: finite losses with a gradient."""
        return all(map(math.isfinite, (*self.values, self._scale))) and self._scale > 0

    def joined_by(self, first: float, second: float, tolerance: float | None = None) -> bool:
        """Whether the whole is first x one + second x the other, in loss and gradient, to rounding or `tolerance`."""
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
        """Whether these are the weights of a mean, and the whole is it (the root of a mean has others, that add up to
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
        """What rounding makes of the whole's gradient: near a minimum, where examples cancel, it is not small."""
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
        """The factors for `joined_by`, by least squares."""
        size = max(map(abs, self.values)) or 1.0
        length = max(float(g.norm()) for g in self.slopes) or 1.0
        values = [torch.tensor([v / size], dtype=torch.float64, device=self.slopes[0].device) for v in self.values]
        rows = [torch.cat([g.double() / length, v]) for g, v in zip(self.slopes, values)]
        gram = torch.stack([torch.stack([x @ y for y in rows[:2]]) for x in rows[:2]])
        right = torch.stack([x @ rows[2] for x in rows[:2]])
        first, second = (torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right).tolist()
        return first, second


def _among(rows: Tensor, whole: Tensor, place: int) -> Tensor:
    """A part's rows where they stand in the whole, zeros elsewhere."""
    found = torch.zeros_like(whole)
    (found[: len(rows)] if place == 0 else found[len(whole) - len(rows) :]).copy_(rows)
    return found
