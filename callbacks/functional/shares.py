"""How much each batch counts in the loss of all the data: what a loss does with examples is tried, not believed.

The loss of two batches in one, and its gradient, are compared with theirs. Where it is their mean by numbers of
examples, or their sum, that is what is used; where it is another weighted mean (class weights, ignored targets) the
weights are found from it; a loss that is none of these belongs to its batch as a whole, and is refused. So no result
depends on how the data are split into batches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from three_factors.callbacks.functional.inputs import distributed, gathered, of_all_ranks, stored
from three_factors.callbacks.functional.nests import cut, part_sizes, size_of, tensors_of
from three_factors.callbacks.functional.objective import Objective
from three_factors.callbacks.functional.probes import Probe
from three_factors.callbacks.functional.sides import Sides, WrongLoss, alike, sides_of


def shares(objective: Objective, ways: Sequence[Probe], batches: Sequence[Any], sizes: Sequence[int]) -> list[float]:
    """Returns the factors c of this rank's batches in L = Σ c_b L_b, the loss of all ranks' data; every rank must come
    here.

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
    """Raises, for a trial on one small batch, what `shares` of its halves would raise, in half of the passes."""
    size = size_of(batch)
    if objective.reduction == "batch" or size < 2:
        return
    one, other = _halves(batch, size)
    sides = sides_of(ways, one, other, batch)
    if sides is not None:
        _compared(objective, sides, one, other, size - size // 2)


@dataclass(frozen=True)
class _Weight:
    """Describes what a batch weighs in units of an example of the reference; `plain`: as many as it has examples."""

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
    """Returns (rank, index) and the first batch with a finite loss and a gradient.

    (-1, -1) and None if there is none.
    """

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
    """Tells whether examples meet in the module, so that its outputs depend on what else is in the batch."""
    size = size_of(batch)
    if size < 2:
        return False
    try:
        few = min(size, 4)
        parts = way.item(cut(batch, 0, few // 2)), way.item(cut(batch, few // 2, few))
        return not alike(way.item(cut(batch, 0, few)), parts)
    except Exception:  # what cannot be cut or joined here cannot be told by outputs
        return True


def _slope(ways: Sequence[Probe], batch: Any) -> tuple[float, list[Tensor]]:
    """Returns the loss and its gradient by the first way that can take the batch."""
    for way in ways[:-1]:
        try:
            return way.slope(way.item(batch))
        except Exception:  # see `sides_of`
            continue
    return ways[-1].slope(ways[-1].item(batch))


def _weight(objective: Objective, ways: Sequence[Probe], reference: Any, batch: Any, size: int) -> _Weight:
    if reference is None:  # it is the reference itself, or none has a finite loss with a gradient: nothing to compare
        return _given(objective, batch, size)
    one = stored(reference, tensors_of(batch)[0].device, None)
    sides = sides_of(ways, one, batch)
    if sides is None:
        return _inside(objective, ways, batch, _given(objective, batch, size))
    return _compared(objective, sides, one, batch, size)


def _given(objective: Objective, batch: Any, size: int) -> _Weight:
    """Returns the factors by what is said of the loss."""
    weight = float(size if objective.weights is None else objective.weights(batch))
    return _Weight(size, weight, objective.weights is None)


def _compared(objective: Objective, sides: Sides, one: Any, batch: Any, size: int) -> _Weight:
    """Returns what `batch` weighs beside `one`."""
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
    """Returns the factor of the only batch, whose loss is that of all the data; a mean must still be no sum."""
    sides = sides_of(ways, *_halves(batch, size), batch) if size > 1 else None
    if sides is not None and sides.telling:
        _as_said(objective, sides, size // 2, size - size // 2)
    return _Weight(size, float(size), True)


def _inside(objective: Objective, ways: Sequence[Probe], batch: Any, given: _Weight) -> _Weight:
    """Returns the factor of a batch that does not fit together with others: only its parts are compared with it."""
    size = given.size
    sides = sides_of(ways, *_halves(batch, size)) if objective.weights is None and size > 1 else None
    if sides is not None and sides.telling and not _as_said(objective, sides, size // 2, size - size // 2):
        sides.refuse_if_random()
        raise WrongLoss(
            "loss: is no mean over the examples of a batch, and batches of different shapes cannot be compared; "
            "give weights=f(batch), what each batch weighs in the mean"
        )
    return given


def _halves(batch: Any, size: int) -> tuple[Any, Any]:
    return cut(batch, 0, size // 2), cut(batch, size // 2, size)


def _as_said(objective: Objective, sides: Sides, n: int, m: int) -> bool:
    """Tells whether the loss is what `reduction` says. Raises WrongLoss where it is the other one."""
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
