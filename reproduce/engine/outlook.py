"""What all figures would cost on this machine: hours for each, and for each of its arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.definition import Contents, Figure
from three_factors.reproduce.engine.experiment import PAPERS
from three_factors.reproduce.engine.options import ARCHIVED_SCALES, EPOCHS, InputError, Options

if TYPE_CHECKING:
    from three_factors.reproduce.engine.contract.spec import Item
    from three_factors.reproduce.engine.planning import Stage
    from three_factors.reproduce.engine.prospects import Prospects


@dataclass
class Costs:
    """Says what a figure costs.

    Attributes:
        name: of its script.
        runs: how many there are, in the paper's own protocol.
        done: how many of them are there.
        hours: arm -> of what is missing, each figure by itself.
    """

    name: str
    runs: int
    done: int
    hours: dict[str, float]


def outlook(contents: Contents, options: Options, say: Callable[..., None]) -> int:
    """Prints the table; nothing is trained but the steps that are timed. Returns the exit status."""
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.launch.server import Server

    server = Server()
    results = Results(options.out, Archive() if options.archive or options.scale in ARCHIVED_SCALES else None)
    found, seen, all_of_it = list[Costs](), set[str](), 0.0
    for name in contents.page:
        definition = contents.load(name)
        if not isinstance(definition, Figure):
            continue
        costs, shared = _of_figure(definition, options, server, results, say, seen)
        found.append(costs)
        all_of_it += shared
        say(_line(costs))
    _print(found, all_of_it, options, say)
    return 0


def _of_figure(
    definition: Figure, options: Options, server: Any, results: Any, say: Callable[..., None], seen: set[str]
) -> tuple[Costs, float]:
    """Returns a figure's costs, and the hours of its runs that are not `seen` in a figure before; adds them there."""
    from three_factors.reproduce.engine.figure import prospects_of, slots_of
    from three_factors.reproduce.engine.planning import FigurePlan

    # Data are not asked for: a forecast needs their shape alone, which a stand-in has.
    source = server.prepare(definition.substitute, options.data_dir)
    prospects = prospects_of(options, server, results, source, slots_of(options))
    costs = Costs(definition.name, 0, 0, {})
    new = 0.0
    for arm in (PAPERS, *definition.arms):
        try:
            plan = FigurePlan(definition, options, source, arm).at(options.scale)
            stages = plan.foreseen()
        except InputError as error:  # an arm that this scale's data do not allow
            say(f"{definition.name}: {error}")
            continue
        costs.hours[arm.name] = sum(_hours(prospects, stage, results.missing(stage.items, say)) for stage in stages)
        if arm.name == EPOCHS:
            everything = [item for stage in stages for item in stage.items]
            costs.runs, costs.done = len(everything), len(everything) - len(results.missing(everything, say))
            for stage in stages:
                fresh = [item for item in results.missing(stage.items, say) if item.spec.key not in seen]
                new += _hours(prospects, stage, fresh)
                seen |= _keys(stage.items)
    return costs, new


def _keys(items: Iterable[Item]) -> set[str]:
    return {item.spec.key for item in items}


def _hours(prospects: Prospects, stage: Stage, items: list[Item]) -> float:
    return prospects.wall_seconds(stage, items) / 3600 if items else 0.0


def _line(costs: Costs) -> str:
    arms = ", ".join(f"{name} {_told(hours)}" for name, hours in costs.hours.items() if name != EPOCHS)
    done = f", {costs.done} of them done" if costs.done else ""
    return f"{costs.name:<11} {costs.runs:>5} runs{done}: {_told(costs.hours.get(EPOCHS, 0.0))}" + (
        f"   (arms: {arms})" if arms else ""
    )


def _told(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 0.1 else f"{60 * hours:.1f} min"


def _print(found: list[Costs], all_of_it: float, options: Options, say: Callable[..., None]) -> None:
    arms: dict[str, float] = {}
    for costs in found:
        for name, hours in costs.hours.items():
            if name != EPOCHS:
                arms[name] = arms.get(name, 0.0) + hours
    say(f"all figures at scale {options.scale}: {_told(all_of_it)}; runs that several figures have are counted once")
    say("arms: " + ", ".join(f"{name} {_told(hours)}" for name, hours in arms.items()))
