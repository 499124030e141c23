"""What can be said before anything runs: devices, how much there is to do, how long it takes.

Times come from timed training steps of the very networks (`launch.forecast`); those of simulations from the ones that
are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from three_factors.reproduce.engine.console import duration, waiting
from three_factors.reproduce.engine.contract.files import CHECKOUT
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Item, PathSpec, RunSpec
from three_factors.reproduce.engine.launch import sharing
from three_factors.reproduce.engine.launch.devices import Hardware
from three_factors.reproduce.engine.launch.forecast import Forecast, steps_of, wall_time
from three_factors.reproduce.engine.launch.packing import PackTask, Work, formed
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task, once
from three_factors.reproduce.engine.options import EPOCHS, Scale
from three_factors.reproduce.engine.planning import FigurePlan, Plan, Stage, values_of
from three_factors.reproduce.theory.simulation import Simulation

START_UP = 8  # seconds: torch and Lightning are imported once, and the figure is drawn


class Prospects:
    """Tells how long work takes on this machine.

    Args:
        here: this machine's hardware.
        at_once: runs that go on at the same time without waiting.
        job: returns the job of runs with so many threads each.
        packs: how many packs go on at a time; None: none.
        lanes: runs that share a GPU.
    """

    def __init__(
        self,
        server: Server,
        results: Results,
        here: Hardware,
        at_once: int,
        job: Callable[[int | None], Job],
        packs: int | None = None,
        lanes: int = 1,
    ) -> None:
        from three_factors.datamodules.prepared import cache_folder

        self.server, self.results, self.here, self.at_once, self.job = server, results, here, at_once, job
        self.forecast = Forecast(cache_folder() / "timings.json", here, self._time_steps, lanes)
        self.packs, self.lanes = packs, lanes

    def _time_steps(self, spec: RunSpec, members: int) -> tuple[float, float]:
        """Returns seconds a step and seconds an example on this machine: of a run's network, or of a stack of it."""
        with waiting("timing steps of the network, for the forecast: once, then they are kept"):
            job = replace(self.job(1), accelerator=self.here.accelerator)
            if members > 1 or self.lanes == 1:
                return self.server.time_steps(spec.network, job, members, spec.precision)
            with sharing.shared(lambda words: None) as environment:
                return self.server.time_steps(
                    spec.network, job, members, spec.precision, self.lanes, environment=environment
                )

    def seconds(self, item: Item) -> float:
        """Returns how long an item takes from its start; of a simulation how many values it computes."""
        if isinstance(item.spec, RunSpec):
            return self.forecast.seconds(item.spec, item.measurements)
        if isinstance(item.spec, PathSpec):
            return self.forecast.path_seconds(item.spec)
        assert isinstance(item.spec, Simulation)
        return values_of(item.spec)

    def wall_seconds(self, stage: Stage, items: Sequence[Item]) -> float:
        """Returns wall-clock seconds for items of a stage: for all of each, or what is left where it is begun."""
        known: dict[str, float] = {}
        for item in items:
            if item.label not in known:
                known[item.label] = self.seconds(item)
        job = self.job(None)
        tasks = [Task(item, self.results.folder(item.spec), job) for item in once(items)]
        pack = self.packs is not None and not stage.alone
        work = formed(tasks, self.results.out, self.packs or 1) if pack else tasks
        packed = [self._of_pack(one) for one in work if isinstance(one, PackTask)]
        single = [known[one.item.label] * _left(one) for one in work if isinstance(one, Task)]
        if self.lanes > 1 and packed:  # a pack has a GPU to itself, and so has what is done beside it
            return wall_time(packed + [of / self.lanes for of in single], self.packs or 1)
        return wall_time(packed + single, self.here.count if stage.alone else self.at_once)

    def _of_pack(self, pack: PackTask) -> float:
        longest = max(pack.members, key=lambda task: steps_of(task.item.spec))  # type: ignore[arg-type]
        assert isinstance(longest.item.spec, RunSpec)
        members = len(pack.members)
        return _left(pack) * self.forecast.seconds(longest.item.spec, longest.item.measurements, members)

    def simulation_seconds(self, items: Sequence[Item], done: Sequence[Item], say: Callable[..., None]) -> float | None:
        """Returns wall-clock seconds for simulations at the rate of those that are done; None without any."""
        finished = [(item, self.results.finished(item, say)) for item in done]
        spent = sum(result["provenance"]["seconds"] for _, result in finished if result is not None)
        values = sum(self.seconds(item) for item, result in finished if result is not None)
        if not values:
            return None
        return wall_time([self.seconds(item) * spent / values for item in items], self.at_once)


def _left(work: Work) -> float:
    """Returns the share of a task that is left: all of it, unless there is something to resume from."""
    begun = isinstance(work.item.spec, RunSpec | Pack) and work.folder.resumable_files()
    return 1 - work.folder.fraction() if begun else 1.0


def announce(
    plan: Plan,
    prospects: Prospects,
    say: Callable[..., None],
    *,
    dry_run: bool,
    plot_only: bool,
    only: Callable[[Stage], Stage] = lambda stage: stage,
) -> int:
    """Says how much there is to do, and the expected time; returns how many items are there already.

    Of a tuned figure the final runs are those that the paper chose.

    Args:
        only: what of a stage is done.
    """
    results, (first, *later) = prospects.results, map(only, plan.foreseen())
    final, lines = later or (Stage([]), Stage([]))
    everything = first.items + final.items
    todo = results.missing(everything, say)
    counted = f"{_counted(first.items)} to tune, then {_counted(final.items)}" if final.items else _counted(first.items)
    cached, begun = len(everything) - len(todo), sum(bool(results.folder(i.spec).resumable_files()) for i in todo)
    if not everything:
        say("nothing is in this part")
        return 0
    where = str(results.folder(everything[0].spec).path.parent)
    where += f" and the archive ({results.archived})" if results.archived else ""
    what = "missing" if plot_only else f"to {plan.verb}"
    say(
        f"{plan.noun}: {len(everything)} = {counted}; {cached} cached in {where}, {len(todo)} {what}"
        + (f" ({begun} of them begun)" if begun else "")
    )
    if todo:
        for protocol, count in sorted(results.other_protocols().items()):
            say(f"{count} there of protocol {protocol} stay as they are: this code would train them otherwise")
    if dry_run:
        _list(everything, prospects, say)
    _expect(todo, first, lines, prospects, say, plot_only=plot_only)
    return cached


def _counted(items: Sequence[Item]) -> str:
    labels, seeds = {item.label for item in items}, {item.seed for item in items}
    return f"{len(labels)} settings x {len(seeds)} seed{'s' if len(seeds) != 1 else ''}"


def _list(items: Sequence[Item], prospects: Prospects, say: Callable[..., None]) -> None:
    """Lists the settings, each with its steps and its cost."""
    first = {item.label: item for item in reversed(items)}
    width = max(map(len, first))
    for label, item in sorted(first.items(), key=lambda pair: items.index(pair[1])):
        spec = item.spec
        if isinstance(spec, Simulation):
            say(f"  {label:<{width}} {spec.steps:>9} steps of {spec.chains} chains")
        elif isinstance(spec, RunSpec):
            cost = duration(prospects.seconds(item))
            say(f"  {label:<{width}} {spec.epochs:>5} epochs {steps_of(spec):>8} steps  {cost:>8} a run")


def _expect(
    todo: list[Item], first: Stage, lines: Stage, prospects: Prospects, say: Callable[..., None], *, plot_only: bool
) -> None:
    """Says how long what is left will take."""
    lacking = prospects.results.missing(lines.items, say)
    if plot_only or not (todo or lacking):
        return
    if todo and isinstance(todo[0].spec, Simulation):
        say(f"to compute: {sum(map(prospects.seconds, todo)):.3g} values")
        return
    seconds = prospects.wall_seconds(first, todo)
    between = prospects.wall_seconds(lines, lacking)
    words = f", {duration(between)} of it for {len(lacking)} lines between runs" if lacking else ""
    say(f"expected time: {duration(START_UP + seconds + between)}{words}")


def larger_scales(
    script: Path, arm: str, plan: Plan, prospects: Prospects, done: Sequence[Item], say: Callable[..., None]
) -> None:
    """Says the commands of larger scales and their time on this machine: of scale gpu where there is a large GPU."""
    scale = plan.scale
    if scale in ("smoke", "quick") and prospects.here.large and isinstance(plan, FigurePlan):
        _command(script, arm, plan, "gpu", prospects, done, say)
    _command(script, arm, plan, "paper", prospects, done, say)


def _command(
    script: Path,
    arm: str,
    plan: Plan,
    scale: Scale,
    prospects: Prospects,
    done: Sequence[Item],
    say: Callable[..., None],
) -> None:
    stages = plan.at(scale).foreseen()
    items = [item for stage in stages if not stage.alone for item in stage.items]
    flags = f"--scale {scale}" + (f" --arm {arm}" if arm != EPOCHS else "")
    if prospects.here.accelerator == "cpu" and isinstance(plan, FigurePlan):  # by default it would be refused here
        flags += f" --precision {plan.options.precision or 'float32'}"
    shown = script.relative_to(CHECKOUT) if script.is_relative_to(CHECKOUT) else script.name
    command = f"{scale} scale: python {shown} {flags}    {len(items)} {plan.noun}"
    try:
        if isinstance(items[0].spec, Simulation):
            total = prospects.simulation_seconds(items, done, say)
        else:
            total = sum(prospects.wall_seconds(stage, stage.items) for stage in stages if stage.items)
        if total is None:
            say(command)
        elif total < 3600:
            say(f"{command}, about {duration(total)} on this machine")
        else:
            say(f"{command}, about {total / 3600:,.0f} h ({duration(total)}) on this machine")
    except RuntimeError as error:  # the full network does not fit here, but the figure is done
        say(f"{command}, not timed here ({error})")
