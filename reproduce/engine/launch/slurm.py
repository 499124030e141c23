"""A figure's runs as array tasks of SLURM, through submitit: the twin of `runner` for clusters.

The figure's process submits, waits and shows progress; results come over the shared file system. An array task does
its runs with the same `Runner` as a laptop does, so that locks, retries and checkpoints are the same.
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from three_factors.reproduce.engine.contract.files import IMPORTABLE, lock, read_cache, write_json
from three_factors.reproduce.engine.contract.folder import Folder
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.packing import PackTask, Work, formed, members_of
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.options import InputError

POLL = 2.0  # seconds between looks at the results folder and the queue
LINGER = 90.0  # seconds that a network's file system may need to show what an ended task has written
WORTHWHILE = 600.0  # seconds of runs, by forecast, that an array task is filled with
TASKS = 500  # of an array at most; clusters have limits of about a thousand
LEAVE = 60  # seconds before the time limit, or the preemption, at which the runs save themselves
STAY = 900.0  # seconds: longer than a preemption's grace time
TIMEOUTS = 1_000  # how often a task may reach its time limit and go on in a next one


@dataclass(frozen=True)
class Allocation:
    """Describes what an array task asks for.

    Attributes:
        partition: the cluster's own choice if None.
        minutes: the task's time limit.
        num_nodes: nodes that a run trains on.
        devices: on each of them.
        gpus: whether they are GPUs.
    """

    partition: str | None = None
    minutes: int = 240
    num_nodes: int = 1
    devices: int = 1
    gpus: bool = False


def check() -> None:
    """Raises InputError if there is no SLURM here, or no submitit."""
    from importlib.util import find_spec
    from shutil import which

    if find_spec("submitit") is None:
        raise InputError("--slurm: submitit is not installed; pip install -e '.[slurm]'")
    missing = [command for command in ("sbatch", "squeue", "srun") if which(command) is None]
    if missing:
        raise InputError(f"--slurm: no {', '.join(missing)} on this machine")


class Runs:
    """One array task: what submitit calls on the cluster. Runs, or a pack, each in a process of its own."""

    def __init__(self, tasks: Sequence[Work], gpus: bool) -> None:
        self.tasks, self.gpus = list(tasks), gpus
        self.runner: Runner | None = None

    def __call__(self) -> list[str]:
        """Does the runs and returns the names of those that failed."""
        from three_factors.reproduce.engine.contract import provenance
        from three_factors.reproduce.engine.launch import devices

        hardware = devices.detect()
        if self.gpus and hardware.accelerator != "cuda":
            raise RuntimeError(f"--gpus: asked for, here is {hardware.describe()}")
        made = provenance.bits(hardware.arithmetic)
        tasks = [task.under(replace(task.job, made=made)) for task in self.tasks]
        job = tasks[0].job
        self.runner = Runner(Server(), 1, job.devices, job.devices if self.gpus else 0, job.num_nodes)
        try:
            return [task.item.name for task in self.runner.run(tasks, Plain())]
        except interrupts.Terminated:
            stay()
            raise

    def checkpoint(self) -> Any:
        """Returns, for submitit before a time limit or a preemption, what is to be done when the task is back."""
        from submitit.helpers import DelayedSubmission

        if self.runner is not None:
            self.runner.save_and_exit()
        return DelayedSubmission(Runs(self.tasks, self.gpus))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"runner": None}


class Plain(Watcher):
    """A watcher that writes into the array task's log."""

    def started(self, task: Work, slot: int, attempt: int) -> None:
        self.told(f"{task.item.name}: attempt {attempt}")

    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None:
        self.told(f"{task.item.name}: {result['status']} after {seconds:.0f} s")

    def elsewhere(self, task: Work) -> None:
        self.told(f"{task.item.name}: another task or call is at it; waiting")

    def found(self, task: Task, result: dict[str, Any]) -> None:
        self.told(f"{task.item.name}: was there")

    def failed(self, task: Work, slot: int, reason: str, again: bool) -> None:
        self.told(f"{task.item.name}: {reason}; {'once more' if again else 'given up'}")

    def told(self, words: str) -> None:
        print(words, flush=True)


class SlurmRunner:
    """Submits tasks and waits for them; `run` is `Runner.run`.

    Tasks that an earlier call has submitted, and that the queue still has, are waited for and not submitted again.

    Args:
        weights: forecast seconds, by label: short runs share an array task.
        at_once: array tasks that may run at a time.
        detach: raise `interrupts.Submitted` in place of waiting.
        packs: whether runs that go together are one task.
    """

    def __init__(
        self,
        out: Path,
        allocation: Allocation,
        weights: dict[str, float],
        at_once: int = TASKS,
        *,
        detach: bool = False,
        packs: bool = False,
    ) -> None:
        self.out, self.folder, self.allocation, self.weights = out, out / "slurm", allocation, weights
        self.at_once, self.detach, self.packs = at_once, detach, packs

    def run(self, tasks: list[Task], watcher: Watcher) -> list[Task]:
        """Does all tasks on the cluster. Returns those that ended without a result."""
        file = self.folder / "jobs.json"
        with lock(file, "lock"):  # another figure may submit the same runs at this moment
            known, queued = read_cache(file), queue()
            if queued is None:
                raise InputError("--slurm: squeue does not answer")
            place = {task.item.name: _submitted(task, known) for task in tasks}
            gone = [task for task in tasks if place[task.item.name] not in queued]
            # An earlier call's run may have ended, and left the queue, since this call looked for its result.
            new = [task for task in gone if not place[task.item.name] or _result(task) is None]
            work: list[Work] = formed(new, self.out, 1) if self.packs else list(new)
            if new:
                groups = self._groups(work)
                for group, element in zip(groups, self._submit(groups)):
                    runs = [task for one in group for task in members_of(one)]
                    place |= {task.item.name: element for task in runs}
                    known |= {_key(task.folder): {"element": element, "measured": _measured(task)} for task in runs}
                # Killed before this line, tasks lack what submitit gives them at the end: they wait, and fail.
                write_json(file, known)
        arrays = sorted({element.split("_")[0] for element in place.values()}, key=int)
        watcher.told(f"SLURM: {len(new)} runs submitted, {len(tasks) - len(new)} were; jobs {', '.join(arrays)}")
        if self.detach:
            raise interrupts.Submitted
        try:
            return self._wait([*work, *(task for task in tasks if task not in new)], place, watcher)
        except KeyboardInterrupt:
            watcher.told(f"the runs go on; to end them: scancel {' '.join(arrays)}")
            raise

    def _groups(self, work: list[Work]) -> list[list[Work]]:
        """Groups runs in their order, as many together as make a task worthwhile; a pack is a task."""
        seconds = [sum(self.weights[task.item.name] for task in members_of(one)) for one in work]
        target, filled = max(WORTHWHILE, sum(seconds) / TASKS), float("inf")
        groups: list[list[Work]] = []
        for one, long in zip(work, seconds):
            alone = isinstance(one, PackTask)
            if alone or filled + long > target:
                groups.append([])
                filled = 0.0
            groups[-1].append(one)
            filled = float("inf") if alone else filled + long
        return groups

    def _submit(self, groups: list[list[Work]]) -> list[str]:
        """Submits one array and returns the id of each element."""
        import submitit
        from submitit.core.utils import FailedJobError

        a = self.allocation
        executor = submitit.SlurmExecutor(folder=self.folder / "tasks", max_num_timeout=TIMEOUTS)
        threads = groups[0][0].job.threads
        executor.update_parameters(
            job_name="three-factors",
            time=a.minutes,
            nodes=a.num_nodes,
            ntasks_per_node=1,
            cpus_per_task=max(1, threads * a.devices),
            array_parallelism=self.at_once,
            signal_delay_s=LEAVE,
            stderr_to_stdout=True,
            setup=[f"export PYTHONPATH={shlex.quote(str(IMPORTABLE))}${{PYTHONPATH:+:$PYTHONPATH}}"],
            # The first node alone runs the array task; runs over several nodes are its own steps.
            srun_args=["--nodes=1", "--ntasks=1"],
            additional_parameters={"requeue": True},
            **({"partition": a.partition} if a.partition else {}),
            **({"gpus_per_node": a.devices} if a.gpus else {}),
        )
        try:  # submitit prints what sbatch says, beside raising it
            with redirect_stderr(io.StringIO()), executor.batch():
                jobs = [executor.submit(Runs(group, a.gpus)) for group in groups]
        except (FailedJobError, subprocess.CalledProcessError) as error:
            raise InputError(f"--slurm: sbatch refused: {' '.join(str(error).split())[-300:]}") from error
        return [str(job.job_id) for job in jobs]

    @staticmethod
    def _tell(elements: dict[str, str] | None, ours: set[str], before: set[str], watcher: Watcher) -> set[str]:
        """Says why tasks do not start, when that changes."""
        if elements is None:
            return before
        held = [elements[element] for element in ours if elements.get(element)]
        for reason in sorted(set(held) - before):
            watcher.told(f"SLURM: {held.count(reason)} tasks are pending ({reason})")
        return set(held)

    def _wait(self, work: list[Work], place: dict[str, str], watcher: Watcher) -> list[Task]:
        reasons: set[str] = set()
        waiting = {task.item.name: task for one in work for task in members_of(one)}
        slots = {task.item.name: slot for slot, one in enumerate(work) for task in members_of(one)}
        since, gone, failed = dict[int, float](), dict[str, float](), []
        while waiting:
            elements, now = queue(), time.monotonic()
            reasons = self._tell(elements, {place[label] for label in waiting}, reasons, watcher)
            for element in {place[label] for label in waiting}:
                if elements is None or element in elements:
                    gone.pop(element, None)
                else:
                    gone.setdefault(element, now)
            for label, task in list(waiting.items()):
                slot, element = slots[label], place[label]
                if slot not in since and (work[slot].folder.path / "log.txt").exists():
                    since[slot] = now
                    watcher.started(work[slot], slot, 1)
                if (result := _result(task)) is not None:
                    if slot in since:
                        watcher.finished(task, slot, now - since[slot], result)
                    else:
                        watcher.found(task, result)
                    del waiting[label]
                    continue
                if now - gone.get(element, now) > LINGER:
                    if slot not in since:
                        watcher.started(task, slot, 1)
                    watcher.failed(task, slot, f"SLURM task {element} {ending(element)}", False)
                    failed.append(task)
                    del waiting[label]
            at_it = {slots[label] for label in waiting}
            for slot in [slot for slot in since if slot not in at_it]:
                watcher.ended(slot, "")
                del since[slot]
            watcher.polled({slot: work[slot] for slot in since})
            interrupts.check()
            if waiting:
                time.sleep(POLL)
        return failed


def _key(folder: Folder) -> str:
    return f"{folder.path.parent.name}/{folder.path.name}"


def _measured(task: Task) -> list[str]:
    return [measurement.key for measurement in task.item.measurements]


def _result(task: Task) -> dict[str, Any] | None:
    """Returns what `Task.complete` does; a damaged result is as good as none."""
    with suppress(ValueError):
        return task.complete()
    return None


def _submitted(task: Task, known: dict[str, Any]) -> str:
    """Returns the element that a task was submitted as, with all its measurements; "" if it was not."""
    there = known.get(_key(task.folder))
    if not isinstance(there, dict) or not set(_measured(task)) <= set(there.get("measured", ())):
        return ""
    return str(there["element"])


def stay() -> None:
    """Waits until SLURM ends this task, which has been asked to exit: before a requeue it still counts as running.

    A task that ended by itself in the grace time of a preemption would count as failed, and not be requeued. After
    `STAY` nobody has wanted the place: a signal by hand, which does end it.
    """
    names, end = os.environ, time.monotonic() + STAY
    element = names.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_TASK_ID" in names:
        element = f"{names['SLURM_ARRAY_JOB_ID']}_{names['SLURM_ARRAY_TASK_ID']}"
    while time.monotonic() < end and state(element) in ("RUNNING", None):  # None: slurmctld does not answer
        time.sleep(POLL)


def queue() -> dict[str, str] | None:
    """Returns array element -> why it is pending, or "", of this user's jobs; None if SLURM does not answer now."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.strip().split("|") for line in answer.stdout.splitlines() if line.strip())
    return {element: reason if state == "PENDING" else "" for element, state, reason in lines}


def state(element: str) -> str | None:
    """Returns RUNNING, CANCELLED and the like; None if SLURM knows nothing of it, or does not answer."""
    command = ["scontrol", "--oneliner", "show", "job", element]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        fields = dict(part.split("=", 1) for part in answer.partition("\n")[0].split() if "=" in part)
        return fields.get("JobState")
    return None


def ending(element: str) -> str:
    """Says how an element ended."""
    ended = state(element)
    return f"ended as {ended.lower()}" if ended else "is no longer in the queue"
