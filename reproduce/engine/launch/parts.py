"""A call's runs in parts, for several machines or for hours in pieces: what goes together as a pack stays together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from three_factors.reproduce.engine.contract.packs import same_stack, stackable
from three_factors.reproduce.engine.contract.spec import Item, RunSpec
from three_factors.reproduce.engine.contract.steps import cost_of


def part_of(items: Sequence[Item], place: tuple[int, int]) -> list[Item]:
    """Returns the items of part k of n, in their order.

    Parts take about as long as one another, and do not hang on what is done already nor on the machine: the same
    command makes the same runs everywhere. A part may be empty, where there are fewer packs than parts.

    Args:
        items: all runs of the call.
        place: (k, n), k from 1.
    """
    number, count = place
    groups: dict[Any, list[Item]] = {}
    for item in items:
        spec = item.spec
        together = isinstance(spec, RunSpec) and stackable(spec)
        groups.setdefault((same_stack(spec), item.every_step) if together else spec.key, []).append(item)  # type: ignore[arg-type]
    costs = {key: sum(_cost(item) for item in group) for key, group in groups.items()}
    loads, chosen = [0.0] * count, set[str]()
    for key in sorted(groups, key=lambda key: -costs[key]):  # stable: equal ones in the call's order
        lightest = loads.index(min(loads))
        loads[lightest] += costs[key]
        if lightest == number - 1:
            chosen |= {item.spec.key for item in groups[key]}
    return [item for item in items if item.spec.key in chosen]


def _cost(item: Item) -> float:
    assert isinstance(item.spec, RunSpec)
    return cost_of(item.spec)
