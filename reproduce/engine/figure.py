"""From a definition to its files: resolve the data, do what is missing, draw, judge, mirror.

This process never trains and never imports torch. It prints its first line before anything slow is imported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from three_factors.reproduce.engine.definition import Context, Definition, Figure
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.ending import end_with
from three_factors.reproduce.engine.options import (
    ARCHIVED_SCALES,
    EPOCHS,
    OF_ALL,
    InputError,
    Options,
    check_place,
    parse,
)

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.contract.job import Job
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.contract.spec import Item
    from three_factors.reproduce.engine.judge.power import Hope
    from three_factors.reproduce.engine.launch.devices import Hardware
    from three_factors.reproduce.engine.launch.packing import Work
    from three_factors.reproduce.engine.launch.runner import Watcher
    from three_factors.reproduce.engine.launch.server import Server
    from three_factors.reproduce.engine.launch.slurm import SlurmRunner
    from three_factors.reproduce.engine.planning import Plan, Stage
    from three_factors.reproduce.engine.prospects import Prospects


def main(definition: Definition, arguments: list[str] | None = None) -> NoReturn:
    """Runs a script's command line and ends the process with the status of `ending.end_with`."""
    started = time.monotonic()
    interrupts.listen()

    def work() -> int:
        arms = [arm.name for arm in definition.arms]
        options = parse(definition.doc, arguments, flags=(*OF_ALL, *definition.flags), arms=arms)
        print(f"{definition.name}: {definition.title} (scale {options.scale})", flush=True)
        return _Session(definition, options, started).run()

    end_with(work)


class _Session:
    """One call of a script: its options, and what does its work on this machine."""

    def __init__(self, definition: Definition, options: Options, started: float) -> None:
        from three_factors.reproduce.engine.console import say
        from three_factors.reproduce.engine.contract import archive as archived
        from three_factors.reproduce.engine.contract.results import Results
        from three_factors.reproduce.engine.launch.server import Server
        from three_factors.reproduce.engine.planning import plan_of
        from three_factors.reproduce.engine.source import resolve
        from three_factors.reproduce.engine.watch import mirror

        self.definition, self.options, self.started, self.say = definition, options, started, say
        arm = definition.arm(options.arm)  # refused before anything is read
        check_place(options.out / definition.name)
        mirror.check(options.wandb)
        trains = isinstance(definition, Figure)
        self.slots = slots_of(options, trains=trains)
        self.hardware = self.slots.hardware
        archive = archived.Archive() if options.archive or options.scale in ARCHIVED_SCALES else None
        self.server, self.results = Server(), Results(options.out, archive)
        self.source = resolve(definition, options, self.server, say, archive)
        self.plan: Plan = plan_of(definition, options, self.source, arm)
        self.context = Context(
            definition, options, self.source, self.plan.seeds, self.hardware.describe(), arm, self.plan.regime()
        )
        check_place(options.out / definition.name / self.context.folder)
        self.prospects = prospects_of(options, self.server, self.results, self.source, self.slots)
        self.packs = self.prospects.packs

    def run(self) -> int:
        """Does everything; returns the exit status."""
        from three_factors.reproduce.engine import judging, prospects

        options = self.options
        self._say_where()
        cached = prospects.announce(
            self.plan, self.prospects, self.say, dry_run=options.dry_run, plot_only=options.plot_only, only=self._only
        )
        if options.dry_run:
            self._say_paper([])
            return 0
        if options.plot_only and not cached:
            self.say("nothing to draw: without --plot-only the runs are made")
            return 1
        hopes = judging.powers(self.context, self.say)
        mirror, items, made = self._mirror(), list[Any](), False
        try:
            for stage in map(self._only, self.plan.stages(self.results, self.say)):
                made |= self._make(stage, mirror)
                items += stage.items
                interrupts.check()
            if options.part is not None:
                return self._left(items)
            missing = self._conclude(items, hopes, mirror, made=made)
        finally:
            mirror.close()
        self.say(f"done in {time.monotonic() - self.started:.1f} s")
        return 1 if missing else 0

    def _only(self, stage: Stage) -> Stage:
        """Returns what of a stage is done: all of it, or a part of the runs; lines belong to the whole."""
        from three_factors.reproduce.engine.launch.parts import part_of

        place = self.options.place()
        if place is None:
            return stage
        return replace(stage, items=[] if stage.alone else part_of(stage.items, place))

    def _left(self, items: list[Item]) -> int:
        """Says what became of a part; returns the exit status."""
        missing = self.results.missing(items, self.say)
        done = f"{len(items) - len(missing)} of its {len(items)} runs are done"
        self.say(f"part {self.options.part}: {done}; without --part the same command draws and judges what is there")
        self.say(f"done in {time.monotonic() - self.started:.1f} s")
        return 1 if missing else 0

    def _say_where(self) -> None:
        options, arm = self.options, self.context.arm
        what = "array task" if options.slurm else "run"
        each = f"{options.devices} device{'s' if options.devices > 1 else ''}"
        jobs, at_once = self.slots.jobs, self.slots.at_once
        slots = f"{jobs} {what}{'s' if jobs > 1 else ''} at a time, each on {each}"
        crowded = f"; only {at_once} can go at full speed" if at_once < jobs else ""
        self.say(f"device: {self.hardware.describe()}; {slots}{crowded}")
        if arm.name != EPOCHS:
            self.say(f"arm: {arm.name} ({arm.words})")
        if self.plan.told:
            self.say(self.plan.told)

    def _say_paper(self, done: Sequence[Item]) -> None:
        from three_factors.reproduce.engine.prospects import larger_scales

        if self.options.scale != "paper":
            larger_scales(self.definition.file, self.options.arm, self.plan, self.prospects, done, self.say)

    def _make(self, stage: Stage, mirror: Any) -> bool:
        """Does what is missing of a stage, mirrors the rest. Returns whether there was anything to do.

        What fails twice is said, and missing afterwards.
        """
        from three_factors.reproduce.engine.contract.spec import RunSpec
        from three_factors.reproduce.engine.launch import packing
        from three_factors.reproduce.engine.launch.runner import Watchers
        from three_factors.reproduce.engine.launch.task import Task, once
        from three_factors.reproduce.engine.watch.display import Display

        todo = [] if self.options.plot_only else once(self.results.missing(stage.items, self.say))
        if todo and self.source is not None and not self.source.folder:
            raise InputError(
                f"--data-dir: {len(todo)} {self.plan.noun} are not in the archive, and need the images of "
                f"{self.source.name}, which are not to be had"
            )
        trained = [item.spec for item in todo if isinstance(item.spec, RunSpec)]
        if self.hardware.accelerator == "cpu" and any(spec.precision == "tf32" for spec in trained):
            raise InputError(
                f"--precision: tf32, as at scale {self.options.scale} by default, is for GPUs, and here are "
                f"{self.hardware.describe()}; --precision float32 trains on them, other runs than the archive's"
            )
        if todo:
            if stage.words:
                self.say(f"{stage.words}: {len(todo)}")
            job = self.job(alone=stage.alone)
            tasks = [Task(item, self.results.folder(item.spec), job) for item in todo]
            weights = {item.name: self.prospects.seconds(item) for item in todo}
            with Display(weights) as display:
                watchers = Watchers(display, mirror) if stage.mirrored else display
                if self.options.slurm:  # which packs by itself
                    self._cluster(weights, alone=stage.alone).run(tasks, watchers)
                else:
                    work = tasks if self.packs is None else packing.formed(tasks, self.options.out, self.packs)
                    self._work(work, watchers, alone=stage.alone)
            self.results.forget()  # a line may have found that a run's weights are lost
        for item in stage.items if stage.mirrored else ():
            result = self.results.finished(item, self.say)
            if result is not None and "archive" not in result:  # W&B may not have seen it, or only offline
                mirror.copy(item, self.results.folder(item.spec), result)
        return bool(todo)

    def _conclude(self, items: list[Item], hopes: dict[str, Hope], mirror: Any, *, made: bool) -> list[Item]:
        """Judges, draws and writes what is there. Returns the items that are missing."""
        from three_factors.reproduce.engine import judging
        from three_factors.reproduce.engine.publish import outputs

        missing = self.results.missing(items, self.say)
        evidence = self.plan.evidence(items, self.results, self.say)
        outputs.report(items, evidence, missing, self.say)
        if not evidence.labels:
            return missing
        seconds = time.monotonic() - self.started if made else 0.0
        hopes = {} if missing else hopes  # they are about the whole experiment
        judged = judging.looked_at(self.context, items, evidence, missing, hopes)
        found = outputs.publish(self.context, items, evidence, missing, judged, seconds)
        name = self.definition.name
        self.say(f"written: {found.folder}/{{{name}.png,{name}.svg,{','.join(outputs.FILES)}}}")
        mirror.figure(found.picture, found.frame, found.claims)
        if not self.options.plot_only:
            self._say_paper(items)
        return missing

    def job(self, *, alone: bool = False) -> Job:
        """Returns what runs get besides their specs; `alone` on one device."""
        from three_factors.reproduce.engine.contract import provenance

        job = job_of(self.options, self.source, self.slots, alone=alone)
        return replace(job, made=provenance.bits(self.hardware.arithmetic))

    def _work(self, work: Sequence[Work], watcher: Watcher, *, alone: bool) -> None:
        """Does it here. Several single runs share a GPU, a pack has one to itself."""
        from three_factors.reproduce.engine.launch import sharing
        from three_factors.reproduce.engine.launch.packing import PackTask
        from three_factors.reproduce.engine.launch.runner import Runner

        options, gpus = self.options, self.hardware.count if self.hardware.accelerator == "cuda" else 0
        devices, nodes = (1, 1) if alone else (options.devices, options.num_nodes)
        packed = any(isinstance(one, PackTask) for one in work)
        jobs = self.slots.jobs
        if gpus and packed and options.jobs is None:
            jobs = min(jobs, gpus)
        crowded = gpus > 0 and jobs > gpus and devices == 1
        with sharing.shared(self.say) if crowded else nullcontext(dict[str, str]()) as environment:
            Runner(self.server, jobs, devices, gpus, nodes, environment).run(work, watcher)

    def _cluster(self, weights: dict[str, float], *, alone: bool) -> SlurmRunner:
        """Returns what does the runs on a cluster."""
        from three_factors.reproduce.engine.launch.slurm import Allocation, SlurmRunner

        options = self.options
        devices, nodes = (1, 1) if alone else (options.devices, options.num_nodes)
        allocation = Allocation(options.partition, options.time or Allocation.minutes, nodes, devices, options.gpus)
        packs = self.packs is not None
        return SlurmRunner(options.out, allocation, weights, self.slots.jobs, detach=options.detach, packs=packs)

    def _mirror(self) -> Any:
        from three_factors.reproduce.engine.watch.mirror import Mirror

        options, context, name = self.options, self.context, self.definition.name
        place = {"figure": name, "scale": options.scale, "arm": options.arm, "own_data": context.own_data}
        mode = "disabled" if options.plot_only else options.wandb  # what is only drawn again is there already
        tags = [name, options.scale, context.data]
        return Mirror(mode, options.out, f"{name}-{context.folder}", tags, place, self.say)


@dataclass(frozen=True)
class Slots:
    """Describes the room that there is for runs.

    Attributes:
        jobs: runs at a time.
        at_once: of them, those that go on without waiting for one another.
        here: this machine's hardware.
        hardware: what runs get.
    """

    jobs: int
    at_once: int
    here: Hardware
    hardware: Hardware


def job_of(options: Options, source: Prepared | None, slots: Slots, threads: int | None = None, *, alone: bool) -> Job:
    """Returns what runs get without what the code is: that takes a second to find out, and forecasts do without."""
    from three_factors.reproduce.engine.contract.job import Job

    hardware = slots.hardware
    spare = 1 if hardware.accelerator == "cuda" else max(1, hardware.count // (slots.jobs * options.devices))
    devices, nodes = (1, 1) if alone else (options.devices, options.num_nodes)
    return Job(source, hardware.accelerator, devices, nodes, threads or spare)


def prospects_of(
    options: Options, server: Server, results: Results, source: Prepared | None, slots: Slots
) -> Prospects:
    """Returns what tells how long the work of a call takes here."""
    from three_factors.reproduce.engine.prospects import Prospects

    lanes = max(1, slots.at_once // slots.here.count) if slots.here.accelerator == "cuda" else 1
    alone = 1 if options.slurm else max(1, slots.at_once // lanes)  # packs at a time
    packs = None if options.no_packs else alone

    def job(threads: int | None) -> Job:
        return job_of(options, source, slots, threads, alone=False)

    return Prospects(server, results, slots.here, slots.at_once, job, packs, lanes)


def slots_of(options: Options, *, trains: bool = True) -> Slots:
    """Returns the room that a call's work has, here or on a cluster."""
    from three_factors.reproduce.engine.launch import devices, slurm

    here = devices.detect() if trains else devices.cpu()
    if options.slurm:
        slurm.check()
        jobs = options.jobs or slurm.TASKS
        return Slots(jobs, jobs, here, devices.of_slurm(options.gpus, options.partition))
    devices.check(options.devices, here)
    # One run over several nodes takes all of this one's devices.
    slots = max(1, here.count // options.devices) if options.num_nodes == 1 else 1
    if options.devices == options.num_nodes == 1:
        slots *= here.lanes
    jobs = options.jobs or slots
    return Slots(jobs, min(jobs, slots), here, here)
