"""From a figure's definition to its files: resolve the data, train what is missing, draw, judge, mirror.

This process never trains and never imports torch. It prints its first line before anything slow is imported.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from reproduce.engine import interrupts
from reproduce.engine.definition import Context, Experiment, Figure, PlannedPath, PlannedRun
from reproduce.engine.options import InputError, Options, parse, refuse

if TYPE_CHECKING:
    from datamodules.sources import Prepared
    from reproduce.engine.spec import RunSpec

__all__ = ["Figure", "main"]  # all that a figure's script needs
START_UP = 8  # seconds: torch and Lightning are imported once, and the figure is drawn


def main(figure: Figure, arguments: list[str] | None = None) -> NoReturn:
    """Runs a figure's command line and ends the process: 0 done, 1 runs missing, 2 bad input, 130 interrupted."""
    started = time.monotonic()
    interrupts.listen()
    try:
        options = parse(figure.doc, arguments)
        print(f"{figure.name}: {figure.title} (scale {options.scale})", flush=True)
        from datamodules.sources import DataError

        try:
            status = _Session(figure, options, started).run()
        except (InputError, DataError) as error:
            refuse(error)
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, the others start anew next time", file=sys.stderr)
        status = 130
    sys.stdout.flush()
    raise SystemExit(status)


def _work(spec: RunSpec) -> float:
    """A cheap guess at a run's cost, to order by: examples, and steps at the first batch size."""
    from datamodules.schedules import as_schedule

    return spec.epochs * spec.data.train * (1 + 100 / as_schedule(spec.schedule.batch_size)(0.0))


class _Session:
    """One call of a figure's script."""

    def __init__(self, figure: Figure, options: Options, started: float) -> None:
        from reproduce.engine import devices, wandb_mirror
        from reproduce.engine.display import say
        from reproduce.engine.forecast import Forecast
        from reproduce.engine.results import Results
        from reproduce.engine.runner import Server

        self.figure, self.options, self.started, self.say = figure, options, started, say
        self.experiment: Experiment = figure.experiment
        self.hardware = devices.detect()
        devices.check(options.devices, self.hardware)
        wandb_mirror.check(options.wandb)
        self.jobs = options.jobs or max(1, self.hardware.count // options.devices)
        self.at_once = min(self.jobs, max(1, self.hardware.count // options.devices))  # what runs without waiting
        self.server, self.results = Server(), Results(options.out)
        self.forecast = Forecast(
            None if options.dry_run else options.out,
            self.hardware,
            lambda spec: self.server.time_steps(spec.network, self.job(threads=1)),
        )

    def run(self) -> int:
        from reproduce.engine import outputs

        self.source = self.resolve()
        planned = self.plan()
        todo = [run for run in planned if self.results.finished(run.spec, run.measurements, self.say) is None]
        self.announce(planned, todo)
        if self.options.dry_run:
            self.paper_command()
            return 0
        plans = outputs.power(self.figure, self.options, self.seeds, self.say) if self.own_data else []
        self.mirror = self.open_mirror()
        try:
            if todo and not self.options.plot_only:
                self.train(todo)
            self.mirror_cached(planned)
            interrupts.check()
            paths = self.plan_paths(planned)
            new = [path for path in paths if self.results.finished(path.spec, (), self.say) is None]
            if new and not self.options.plot_only:
                self.follow(new)
            missing = self.conclude(planned, paths, plans, trained=bool(todo or new) and not self.options.plot_only)
        finally:
            self.mirror.close()
        if not self.options.plot_only:
            self.paper_command()
        self.say(f"done in {time.monotonic() - self.started:.1f} s")
        return 1 if missing else 0

    # -- what is to be run

    def resolve(self) -> Prepared:
        """The data set; the figure's substitute, said loudly, if its own is nowhere and none was named."""
        from datamodules.sources import DamagedData, DataError, cached

        name, data_dir = self.options.data or self.figure.data, self.options.data_dir
        why = "as asked for"
        try:
            source = cached(name, data_dir) or self.server.prepare(name, data_dir)
        except DamagedData:
            raise  # data that are there but broken are not a case for a substitute
        except DataError as error:
            if self.options.data is not None:
                raise
            why = str(error)
            source = cached(self.figure.substitute, data_dir) or self.server.prepare(self.figure.substitute, data_dir)
        self.own_data = source.name == self.figure.data
        if not self.own_data:
            self.say(
                f"\n  *** NOT {self.figure.data.upper()}: these are the '{source.name}' ({why}).\n"
                f"  *** Nothing below is a result about {self.figure.data}; no claim is judged on it.\n",
                style="bold yellow",
            )
        shape = f"{source.size}x{source.size}x{source.channels}"
        self.say(
            f"data: {source.name}, {source.train} + {source.test} images {shape}, "
            f"content {source.fingerprint}, from {source.origin}"
        )
        return source

    def plan(self) -> list[PlannedRun]:
        """All runs, seed by seed, so that an interrupted figure has whole seeds; the longest first within one."""
        try:
            specs = self.experiment.runs(self.options.scale, self.source)
            for spec in specs.values():
                spec.check_devices(self.options.devices)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        self.seeds = self.options.seeds or self.experiment.SETTINGS[self.options.scale].seeds
        measurements = self.figure.measurements(self.options.scale)
        longest_first = sorted(specs.items(), key=lambda item: -_work(item[1]))
        return [
            PlannedRun(label, seed, replace(spec, seed=seed), measurements)
            for seed in range(self.seeds)
            for label, spec in longest_first
        ]

    def plan_paths(self, planned: list[PlannedRun]) -> list[PlannedPath]:
        """The lines between runs of a seed that are done and did not diverge."""
        found = []
        for seed in range(self.seeds):
            specs = {run.label: run.spec for run in planned if run.seed == seed}
            for label, path in self.figure.paths(self.options.scale, specs).items():
                ends = [self.results.finished(run, (), self.say) for run in (path.start, path.end)]
                if all(end is not None and end["status"] == "ok" for end in ends):
                    found.append(PlannedPath(label, seed, path))
        return found

    def announce(self, planned: list[PlannedRun], todo: list[PlannedRun]) -> None:
        from reproduce.engine.display import duration
        from reproduce.engine.forecast import steps_of, wall_time

        slots = f"{self.jobs} run{'s' if self.jobs > 1 else ''} at a time, each on {self.options.devices}"
        crowded = f"; only {self.at_once} can go at full speed" if self.at_once < self.jobs else ""
        self.say(f"device: {self.hardware.describe()}; {slots}{crowded}")
        arms = {run.label: run.spec for run in planned if run.seed == 0}
        self.say(
            f"runs: {len(planned)} = {len(arms)} arms x {self.seeds} seed{'s' if self.seeds > 1 else ''}; "
            f"{len(planned) - len(todo)} cached in {self.options.out / 'runs'}, "
            f"{len(todo)} {'missing' if self.options.plot_only else 'to train'}"
        )
        if self.options.dry_run:
            width = max(map(len, arms))
            for label, spec in arms.items():
                cost = duration(self.forecast.seconds(spec, planned[0].measurements))
                self.say(f"  {label:<{width}} {spec.epochs:>5} epochs {steps_of(spec):>8} steps  {cost:>8} a run")
        if todo and not self.options.plot_only:
            seconds = [self.forecast.seconds(run.spec, run.measurements) for run in todo]
            self.say(f"expected time: {duration(START_UP + wall_time(seconds, self.at_once))}")

    def paper_command(self) -> None:
        """The paper-scale command, and its hours on this machine from timed steps of the full network."""
        from reproduce.engine.display import duration
        from reproduce.engine.forecast import wall_time

        if self.options.scale == "paper":
            return
        own = replace(self.source, name=self.figure.data, train=10**9, test=10**9)  # only its shape is asked for
        specs = self.experiment.runs("paper", own)
        seeds = self.experiment.SETTINGS["paper"].seeds
        command = f"paper scale: python reproduce/{self.figure.name}.py --scale paper    {len(specs) * seeds} runs"
        try:
            total = wall_time(
                [self.forecast.seconds(spec, self.figure.measurements("paper")) for spec in specs.values()] * seeds,
                self.at_once,
            )
            self.say(f"{command}, about {total / 3600:,.0f} h ({duration(total)}) on this machine")
        except RuntimeError as error:  # the full network does not fit here, but the figure is done
            self.say(f"{command}, not timed here ({error})")

    def conclude(
        self, planned: list[PlannedRun], paths: list[PlannedPath], plans: list[Any], *, trained: bool
    ) -> list[str]:
        """Draws, judges and writes what is there. Returns the runs that are missing."""
        from reproduce.engine import outputs

        table, missing = outputs.collect(self.figure, planned, self.results, self.say, paths)
        if missing:
            plans = []  # they are about the whole experiment
        context = Context(self.figure, self.options, self.source, self.seeds, self.hardware.describe())
        outputs.report(planned, table, missing, self.say)
        if table.frame.empty:
            return missing
        folder, claims = outputs.write(context, planned, table, missing, plans)
        self.say(f"written: {folder}/{{{self.figure.name}.png,{self.figure.name}.svg,{','.join(outputs.FILES)}}}")
        if trained or self.mirror.figure_wanted():
            self.mirror.figure(folder / f"{self.figure.name}.png", table.frame, claims)
        return missing

    # -- running

    def job(self, threads: int | None = None) -> dict[str, Any]:
        from reproduce.engine.results import job_data

        spare = max(1, self.hardware.count // (self.jobs * self.options.devices))
        if self.hardware.accelerator == "cuda":
            spare = 1
        return job_data(self.source, self.hardware.accelerator, self.options.devices, threads or spare)

    def open_mirror(self) -> Any:
        from reproduce.engine.wandb_mirror import Mirror

        options = self.options
        group = f"{self.figure.name}-{options.scale}" + ("" if self.own_data else f"-{self.source.name}")
        tags = [self.figure.name, options.scale, self.source.name]
        mode = "disabled" if options.plot_only else options.wandb  # what is only drawn again is there already
        return Mirror(mode, options.out, group, tags, self.say)

    def config(self, run: PlannedRun) -> dict[str, Any]:
        """What W&B shows of a run: its spec, and where it belongs."""
        from reproduce.engine.spec import encode

        place = {
            "figure": self.figure.name,
            "scale": self.options.scale,
            "arm": run.label,
            "key": run.spec.key,
        }
        return encode(run.spec) | place | {"own_data": self.own_data}

    def train(self, todo: list[PlannedRun]) -> None:
        """Trains what is missing; what fails twice is said, and missing afterwards."""
        from reproduce.engine.display import Display
        from reproduce.engine.runner import Runner, Task

        job = self.job()
        by_name = {run.name: run for run in todo}
        tasks = [
            Task(
                run.name,
                folder := self.results.folder(run.spec),
                partial(folder.prepare, run.spec, job, run.measurements),
                run.measurements,
            )
            for run in todo
        ]
        weights = {run.name: self.forecast.seconds(run.spec, run.measurements) for run in todo}
        with Display(weights, self.mirror, lambda name: self.config(by_name[name])) as display:
            Runner(self.server, self.jobs, self.options.devices, self.gpus).run(tasks, display)

    def follow(self, todo: list[PlannedPath]) -> None:
        """Evaluates the lines between runs, each on one device."""
        from reproduce.engine.display import Display
        from reproduce.engine.runner import Runner, Task
        from reproduce.engine.wandb_mirror import Mirror

        self.say(f"lines between runs: {len(todo)}")
        job = self.job() | {"devices": 1}
        tasks = [
            Task(path.name, folder := self.results.folder(path.spec), partial(folder.prepare, path.spec, job))
            for path in todo
        ]
        weights = {path.name: self.forecast.path_seconds(path.spec) for path in todo}
        nowhere = Mirror("disabled", self.options.out, "", [], self.say)  # their numbers are in the figure's table
        with Display(weights, nowhere, lambda name: {}) as display:
            Runner(self.server, self.jobs, 1, self.gpus).run(tasks, display)

    @property
    def gpus(self) -> int:
        return self.hardware.count if self.hardware.accelerator == "cuda" else 0

    def mirror_cached(self, planned: list[PlannedRun]) -> None:
        """Finished runs that W&B has not seen, or that it saw only offline and now is online."""
        for run in planned:
            folder = self.results.folder(run.spec)
            result = self.results.finished(run.spec, run.measurements, self.say)
            if result is not None and self.mirror.wanted(folder):
                self.mirror.start(run.name, folder, self.config(run))
                self.mirror.finish(folder, result["status"], folder.milestones(run.measurements, result))
