"""What a call of a figure runs: its runs, those that its tuning chooses, and the lines between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.definition import Arm, Experiment, Figure, PlannedPath, PlannedRun, Specs
from three_factors.reproduce.engine.options import DataOptions, InputError, Options

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.results import Results
    from three_factors.reproduce.engine.spec import RunSpec
    from three_factors.reproduce.engine.table import Table


def resolve(
    own: tuple[str, ...], substitute: str, options: DataOptions, server: Any, say: Callable[..., None]
) -> Prepared:
    """The data set, by default the first of a script's own; the substitute, said loudly, if that is nowhere."""
    from three_factors.datamodules.prepared import cached
    from three_factors.datamodules.sources import DamagedData, DataError, find
    from three_factors.reproduce.engine.display import waiting

    name, data_dir = options.data or own[0], options.data_dir

    def ready(name: str) -> Prepared:
        known = cached(name, data_dir)
        if known is not None:
            return known
        if find(name, data_dir) is None:
            say(f"downloading {name} to {data_dir}")  # torchvision shows how far it is
            return server.prepare(name, data_dir)
        with waiting(f"preparing {name}: once, then it is kept"):
            return server.prepare(name, data_dir)

    why = "as asked for"
    try:
        source = ready(name)
    except DamagedData:
        raise  # data that are there but broken are not a case for a substitute
    except DataError as error:
        if options.data is not None:
            raise
        why = str(error)
        source = ready(substitute)
    if source.name not in own:
        wanted = " or ".join(own)
        say(
            f"\n  *** NOT {wanted.upper()}: these are the '{source.name}' ({why}).\n"
            f"  *** Nothing below is a result about {wanted}; no claim is judged on it.\n",
            style="bold yellow",
        )
    shape = f"{source.size}x{source.size}x{source.channels}"
    say(
        f"data: {source.name}, {source.train} + {source.test} images {shape}, "
        f"content {source.fingerprint} ({source.origin})"
    )
    return source


SOURCE = ("name", "fingerprint", "train", "test", "channels", "size", "classes")


def described(source: Prepared) -> dict[str, Any]:
    """What specs take from a data set: neither folder nor origin."""
    return {name: getattr(source, name) for name in SOURCE}


def measured(runs: Iterable[PlannedRun]) -> list[str]:
    """Keys of what is measured of runs after their training."""
    return sorted({measurement.key for run in runs for measurement in run.measurements})


class Plan:
    """The runs of a figure at a scale, on a data set, in an arm, with so many seeds."""

    def __init__(self, figure: Figure, options: Options, source: Prepared, arm: Arm) -> None:
        self.figure, self.options, self.source, self.arm = figure, options, source, arm
        self.experiment: Experiment = figure.experiment
        self.seeds = options.seeds or self.experiment.SETTINGS[options.scale].seeds

    def runs(self) -> list[PlannedRun]:
        """All that is known before anything has run: of a tuned figure, the tuning."""
        try:
            specs = self.arm.change(self.experiment.runs(self.options.scale, self.source))
            for spec in specs.values():
                spec.check_devices(self.options.devices * self.options.num_nodes)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        tuning = self.figure.tuning
        return self._seedwise(specs, range(self.seeds) if tuning is None else tuning.seeds(self.options.scale))

    def final(self, tuned: list[PlannedRun], table: Table | None) -> list[PlannedRun]:
        """The runs that the tuning's table chooses, or before there is one those that the paper chose."""
        tuning = self.figure.tuning
        if tuning is None:
            return []
        specs = {run.label: replace(run.spec, seed=0) for run in tuned}
        return self._seedwise(tuning.choose(self.options.scale, specs, table), range(self.seeds))

    def _seedwise(self, specs: Specs, seeds: Iterable[int]) -> list[PlannedRun]:
        """Seed by seed, so that an interrupted figure has whole seeds; the longest first within one."""
        longest_first = sorted(specs.items(), key=lambda item: -_work(item[1]))
        return [
            PlannedRun(label, seed, replace(spec, seed=seed), self.figure.measurements(self.options.scale, label))
            for seed in seeds
            for label, spec in longest_first
        ]

    def lines(self, planned: list[PlannedRun]) -> list[PlannedPath]:
        """The lines between runs: of a seed, and from a seed to the next one (from the last to the first)."""
        specs = [{run.label: run.spec for run in planned if run.seed == seed} for seed in range(self.seeds)]
        return [
            PlannedPath(label, seed, path)
            for seed in range(self.seeds)
            for label, path in self.figure.paths(
                self.options.scale, specs[seed], specs[(seed + 1) % self.seeds] if self.seeds > 1 else {}
            ).items()
        ]

    def paths(self, planned: list[PlannedRun], results: Results, say: Callable[..., None]) -> list[PlannedPath]:
        """The lines whose runs are done; says which are none because a run diverged."""
        found = []
        for line in self.lines(planned):
            ends = [results.finished(run, (), say) for run in (line.spec.start, line.spec.end)]
            if all(end is not None and end["status"] == "ok" for end in ends):
                found.append(line)
            elif None not in ends:
                say(f"no line '{line.label}' for seed {line.seed}: a run at its end diverged")
        return found

    def at_paper_scale(self) -> tuple[list[PlannedRun], list[PlannedPath]]:
        """The paper's own runs and the lines between them, for their number and hours."""
        name = self.source.name if self.source.name in self.figure.own else self.figure.data
        own = replace(self.source, name=name, train=10**9, test=10**9)  # only its shape is asked for
        paper = Plan(
            self.figure, replace(self.options, scale="paper", seeds=None, devices=1, num_nodes=1), own, self.arm
        )
        first = paper.runs()
        return first + paper.final(first, None), paper.lines(first)


def _work(spec: RunSpec) -> float:
    """A cheap guess at a run's cost, to order by: examples, and steps at the first batch size."""
    from three_factors.datamodules.schedules import as_schedule

    return spec.epochs * spec.data.train * (1 + 100 / as_schedule(spec.schedule.batch_size)(0.0))
