"""From a figure's definition to its files: resolve the data, train what is missing, draw, judge, mirror.

This process never trains and never imports torch. It prints its first line before anything slow is imported.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from three_factors.reproduce.engine import interrupts
from three_factors.reproduce.engine.definition import Context, Figure, PlannedPath, PlannedRun
from three_factors.reproduce.engine.ending import end_with
from three_factors.reproduce.engine.options import EPOCHS, Options, parse

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.planning import Plan
    from three_factors.reproduce.engine.runner import Runner
    from three_factors.reproduce.engine.slurm import SlurmRunner
    from three_factors.reproduce.engine.spec import RunSpec

__all__ = ["Figure", "main"]  # all that a figure's script needs
START_UP = 8  # seconds: torch and Lightning are imported once, and the figure is drawn


def main(figure: Figure, arguments: list[str] | None = None) -> NoReturn:
    """Runs a figure's command line and ends the process with the status of `ending.end_with`."""
    started = time.monotonic()
    interrupts.listen()

    def work() -> int:
        options = parse(figure.doc, arguments, arms=figure.arms)
        print(f"{figure.name}: {figure.title} (scale {options.scale})", flush=True)
        return _Session(figure, options, started).run()

    end_with(work)


def _counted(runs: list[PlannedRun]) -> str:
    labels, seeds = {run.label for run in runs}, {run.seed for run in runs}
    return f"{len(labels)} settings x {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


class _Session:
    """One call of a figure's script."""

    source: Prepared
    plan: Plan

    def __init__(self, figure: Figure, options: Options, started: float) -> None:
        from three_factors.datamodules.prepared import cache_folder
        from three_factors.reproduce.engine import devices, slurm, wandb_mirror
        from three_factors.reproduce.engine.display import say
        from three_factors.reproduce.engine.forecast import Forecast
        from three_factors.reproduce.engine.results import Results
        from three_factors.reproduce.engine.server import Server

        self.figure, self.options, self.started, self.say = figure, options, started, say
        self.here = self.hardware = devices.detect()
        wandb_mirror.check(options.wandb)
        if options.slurm:
            slurm.check()
            self.hardware = devices.of_slurm(options.gpus, options.partition)
            self.jobs = self.at_once = options.jobs or slurm.TASKS
        else:
            devices.check(options.devices, self.hardware)
            # One run over several nodes takes all of this one's devices.
            slots = max(1, self.hardware.count // options.devices) if options.num_nodes == 1 else 1
            self.jobs = options.jobs or slots
            self.at_once = min(self.jobs, slots)  # what runs without waiting
        self.server, self.results = Server(), Results(options.out)
        self.forecast = Forecast(cache_folder() / "timings.json", self.here, self.time_steps)

    def run(self) -> int:
        from three_factors.reproduce.engine import outputs, power
        from three_factors.reproduce.engine.arms import chosen
        from three_factors.reproduce.engine.planning import Plan, resolve

        arm = chosen(self.options, self.figure)  # refused before anything is read
        self.source = resolve(self.figure.own, self.figure.substitute, self.options, self.server, self.say)
        self.plan = Plan(self.figure, self.options, self.source, arm)
        planned = self.plan.runs()
        cached = self.announce(planned, self.plan.final(planned, None))
        if self.options.dry_run:
            self.paper_command()
            return 0
        if self.options.plot_only and not cached:
            self.say("nothing to draw: without --plot-only the runs are trained")
            return 1
        plans = power.plans(self.context, self.say)
        self.mirror = self.open_mirror()
        try:
            trained = self.make(planned)
            if self.figure.tuning is not None:
                table, missing = outputs.collect(self.figure, planned, self.results, self.say)
                if not missing:
                    final = self.plan.final(planned, table)
                    trained |= self.make(final)
                    planned = planned + final
            interrupts.check()
            paths = self.plan.paths(planned, self.results, self.say)
            trained |= self.follow(paths)
            missing = self.conclude(planned, paths, plans, trained=trained)
        finally:
            self.mirror.close()
        if not self.options.plot_only:
            self.paper_command()
        self.say(f"done in {time.monotonic() - self.started:.1f} s")
        return 1 if missing else 0

    @property
    def context(self) -> Context:
        return Context(
            self.figure, self.options, self.source, self.plan.seeds, self.hardware.describe(), self.plan.arm
        )  # fmt: skip

    def missing(self, planned: list[PlannedRun]) -> list[PlannedRun]:
        return [run for run in planned if self.results.finished(run.spec, run.measurements, self.say) is None]

    def make(self, planned: list[PlannedRun]) -> bool:
        """Trains and measures what is missing, mirrors the rest. Returns whether there was anything to train."""
        todo = [] if self.options.plot_only else self.missing(planned)
        if todo:
            self.train(todo)
        self.mirror_cached(planned)
        return bool(todo)

    def announce(self, planned: list[PlannedRun], final: list[PlannedRun]) -> int:
        """Device, runs and the expected time; of a tuned figure, with the final runs that the paper chose.

        Returns how many runs are there already.
        """
        from three_factors.reproduce.engine.display import duration
        from three_factors.reproduce.engine.forecast import steps_of, wall_time

        options = self.options
        what = "array task" if options.slurm else "run"
        each = f"{options.devices} device{'s' if options.devices > 1 else ''}"
        slots = f"{self.jobs} {what}{'s' if self.jobs > 1 else ''} at a time, each on {each}"
        crowded = f"; only {self.at_once} can go at full speed" if self.at_once < self.jobs else ""
        self.say(f"device: {self.hardware.describe()}; {slots}{crowded}")
        if options.arm != EPOCHS:
            self.say(f"arm: {options.arm} ({self.plan.arm.words})")
        everything, todo = planned + final, self.missing(planned + final)
        counted = f"{_counted(planned)} to tune, then {_counted(final)}" if final else _counted(planned)
        cached, begun = len(everything) - len(todo), sum(bool(self.results.folder(run.spec).begun()) for run in todo)
        self.say(
            f"runs: {len(everything)} = {counted}; {cached} cached in {options.out / 'runs'}, "
            f"{len(todo)} {'missing' if options.plot_only else 'to train'}"
            + (f" ({begun} of them begun)" if begun else "")
        )
        if todo:
            for protocol, count in sorted(self.results.other_protocols().items()):
                self.say(f"{count} there of protocol {protocol} stay as they are: this code would train them otherwise")
        if options.dry_run:
            first = {run.label: run for run in reversed(everything)}
            width = max(map(len, first))
            for label, run in sorted(first.items(), key=lambda item: everything.index(item[1])):
                cost = duration(self.forecast.seconds(run.spec, run.measurements))
                steps = steps_of(run.spec)
                self.say(f"  {label:<{width}} {run.spec.epochs:>5} epochs {steps:>8} steps  {cost:>8} a run")
        lines = [line for line in self.plan.lines(planned) if self.results.finished(line.spec, (), self.say) is None]
        if (todo or lines) and not options.plot_only:
            seconds = wall_time([self.seconds_left(run) for run in todo], self.at_once)
            between = self.seconds_between(lines)
            words = f", {duration(between)} of it for {len(lines)} lines between runs" if lines else ""
            self.say(f"expected time: {duration(START_UP + seconds + between)}{words}")
        return cached

    def time_steps(self, spec: RunSpec) -> tuple[float, float]:
        """Seconds a step and seconds an example of a run's network on this machine."""
        from three_factors.reproduce.engine.display import waiting

        with waiting("timing steps of the network, for the forecast: once, then they are kept"):
            return self.server.time_steps(spec.network, self.job(threads=1) | {"accelerator": self.here.accelerator})

    def seconds_left(self, run: PlannedRun) -> float:
        """Of a run that is to be done, or to be gone on with."""
        folder = self.results.folder(run.spec)
        share = 1 - folder.fraction() if folder.begun() else 1.0
        return share * self.forecast.seconds(run.spec, run.measurements)

    def seconds_between(self, lines: list[PlannedPath]) -> float:
        """Of evaluating lines between runs, each on one device."""
        from three_factors.reproduce.engine.forecast import wall_time

        known: dict[str, float] = {}  # those of a label differ in their seed alone
        for line in lines:
            if line.label not in known:
                known[line.label] = self.forecast.path_seconds(line.spec)
        return wall_time([known[line.label] for line in lines], self.here.count)

    def paper_command(self) -> None:
        """The paper-scale command, and its hours on this machine from timed steps of the full network."""
        from three_factors.reproduce.engine.display import duration
        from three_factors.reproduce.engine.forecast import wall_time

        if self.options.scale == "paper":
            return
        (runs, lines), arm = self.plan.at_paper_scale(), self.options.arm
        flags = "--scale paper" + (f" --arm {arm}" if arm != EPOCHS else "")
        command = f"paper scale: python reproduce/{self.figure.name}.py {flags}    {len(runs)} runs"
        try:
            known: dict[str, float] = {}  # runs of an arm differ in their seed alone
            for run in runs:
                if run.label not in known:
                    known[run.label] = self.forecast.seconds(run.spec, run.measurements)
            total = wall_time([known[run.label] for run in runs], self.at_once) + self.seconds_between(lines)
            self.say(f"{command}, about {total / 3600:,.0f} h ({duration(total)}) on this machine")
        except RuntimeError as error:  # the full network does not fit here, but the figure is done
            self.say(f"{command}, not timed here ({error})")

    def conclude(
        self, planned: list[PlannedRun], paths: list[PlannedPath], plans: list[Any], *, trained: bool
    ) -> list[str]:
        """Draws, judges and writes what is there. Returns the runs that are missing."""
        from three_factors.reproduce.engine import outputs

        table, missing = outputs.collect(self.figure, planned, self.results, self.say, paths)
        if missing:
            plans = []  # they are about the whole experiment
        outputs.report(planned, table, missing, self.say)
        if table.frame.empty:
            return missing
        seconds = time.monotonic() - self.started if trained else 0.0
        folder, claims, picture = outputs.write(self.context, planned, table, missing, plans, seconds)
        self.say(f"written: {folder}/{{{self.figure.name}.png,{self.figure.name}.svg,{','.join(outputs.FILES)}}}")
        self.mirror.figure(picture, table.frame, claims)
        return missing

    # -- running

    def job(self, threads: int | None = None) -> dict[str, Any]:
        from three_factors.reproduce.engine import provenance
        from three_factors.reproduce.engine.results import job_data

        spare = max(1, self.hardware.count // (self.jobs * self.options.devices))
        if self.hardware.accelerator == "cuda":
            spare = 1
        return job_data(
            self.source, self.hardware.accelerator, self.options.devices, threads or spare,
            provenance.bits(self.hardware.name), self.options.num_nodes,
        )  # fmt: skip

    def runner(self, weights: dict[str, float], devices: int, num_nodes: int) -> Runner | SlurmRunner:
        """What does the runs: here, or on a cluster."""
        from three_factors.reproduce.engine.runner import Runner
        from three_factors.reproduce.engine.slurm import Allocation, SlurmRunner

        o = self.options
        if not o.slurm:
            return Runner(self.server, self.jobs, devices, self.gpus, num_nodes)
        allocation = Allocation(o.partition, o.time or Allocation.minutes, num_nodes, devices, o.gpus)
        return SlurmRunner(o.out, allocation, weights, self.jobs, detach=o.detach)

    def open_mirror(self) -> Any:
        from three_factors.reproduce.engine.wandb_mirror import Mirror

        options = self.options
        group, tags = f"{self.figure.name}-{self.context.folder}", [self.figure.name, options.scale, self.source.name]
        mode = "disabled" if options.plot_only else options.wandb  # what is only drawn again is there already
        return Mirror(mode, options.out, group, tags, self.say)

    def config(self, run: PlannedRun) -> dict[str, Any]:
        """What W&B shows of a run: its spec, and where it belongs."""
        from three_factors.reproduce.engine.stored import encode

        place = {
            "figure": self.figure.name,
            "scale": self.options.scale,
            "label": run.label,
            "arm": self.options.arm,
            "key": run.spec.key,
        }
        return encode(run.spec) | place | {"own_data": self.context.own_data}

    def train(self, todo: list[PlannedRun]) -> None:
        """Trains what is missing; what fails twice is said, and missing afterwards."""
        from three_factors.reproduce.engine.display import Display
        from three_factors.reproduce.engine.runner import Task

        job = self.job()
        by_name = {run.name: run for run in todo}
        tasks = [Task(run.name, self.results.folder(run.spec), run.spec, job, run.measurements) for run in todo]
        weights = {run.name: self.forecast.seconds(run.spec, run.measurements) for run in todo}
        with Display(weights, self.mirror, lambda name: self.config(by_name[name])) as display:
            self.runner(weights, self.options.devices, self.options.num_nodes).run(tasks, display)

    def follow(self, paths: list[PlannedPath]) -> bool:
        """Evaluates the lines between runs that are missing, each on one device. Returns whether there were any."""
        from three_factors.reproduce.engine.display import Display
        from three_factors.reproduce.engine.runner import Task
        from three_factors.reproduce.engine.wandb_mirror import Mirror

        todo = [path for path in paths if self.results.finished(path.spec, (), self.say) is None]
        if not todo or self.options.plot_only:
            return False
        self.say(f"lines between runs: {len(todo)}")
        job = self.job() | {"devices": 1, "num_nodes": 1}
        tasks = [Task(path.name, self.results.folder(path.spec), path.spec, job) for path in todo]
        weights = {path.name: self.forecast.path_seconds(path.spec) for path in todo}
        nowhere = Mirror("disabled", self.options.out, "", [], self.say)  # their numbers are in the figure's table
        with Display(weights, nowhere, lambda name: {}) as display:
            self.runner(weights, 1, 1).run(tasks, display)
        return True

    @property
    def gpus(self) -> int:
        return self.hardware.count if self.hardware.accelerator == "cuda" else 0

    def mirror_cached(self, planned: list[PlannedRun]) -> None:
        """Finished runs that W&B has not seen, or that it saw only offline and now is online."""
        for run in planned:
            folder = self.results.folder(run.spec)
            result = self.results.finished(run.spec, run.measurements, self.say)
            if result is not None and self.mirror.wanted(folder):
                reached = folder.milestones(run.measurements, result)
                self.mirror.copy(run.name, folder, self.config(run), result["status"], reached)
