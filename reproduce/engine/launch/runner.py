"""Runs specs, each in a process of its own, several at a time; retries a crashed one once.

One-device runs are forked from the server. Runs on several devices are started as `python reproduce/worker.py RUN_DIR`,
because Lightning's DDP starts that command again for every rank.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from filelock import Timeout

from three_factors.reproduce.engine.contract import names
from three_factors.reproduce.engine.contract.files import CHECKOUT
from three_factors.reproduce.engine.contract.job import PREEMPTED, SCHEDULERS, WATCH_STDIN
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.packing import Locks, PackTask, Work, locked, members_of
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task

ATTEMPTS = 2
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")  # a traceback's last line
POLL = 0.2  # seconds
SWEEP = 1.0  # seconds between looks at what others are at: hundreds of runs may be, on a shared file system
GRACE = 25.0  # seconds to save themselves that runs get; a scheduler's own patience is 30 as a rule


class Watcher:
    """Hears what happens; called from the runner's loop, every `POLL` seconds at least. This one says nothing."""

    def started(self, task: Work, slot: int, attempt: int) -> None: ...
    def polled(self, active: dict[int, Work]) -> None: ...
    def ended(self, slot: int, words: str) -> None: ...
    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None: ...
    def elsewhere(self, task: Work) -> None: ...
    def found(self, task: Task, result: dict[str, Any]) -> None: ...
    def failed(self, task: Work, slot: int, reason: str, again: bool) -> None: ...
    def told(self, words: str) -> None: ...


class Watchers(Watcher):
    """Several watchers as one; each hears everything, in their order."""

    def __init__(self, *watchers: Watcher) -> None:
        self.watchers = watchers

    def started(self, task: Work, slot: int, attempt: int) -> None:
        for watcher in self.watchers:
            watcher.started(task, slot, attempt)

    def ended(self, slot: int, words: str) -> None:
        for watcher in self.watchers:
            watcher.ended(slot, words)

    def polled(self, active: dict[int, Work]) -> None:
        for watcher in self.watchers:
            watcher.polled(active)

    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.finished(task, slot, seconds, result)

    def elsewhere(self, task: Work) -> None:
        for watcher in self.watchers:
            watcher.elsewhere(task)

    def found(self, task: Task, result: dict[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.found(task, result)

    def failed(self, task: Work, slot: int, reason: str, again: bool) -> None:
        for watcher in self.watchers:
            watcher.failed(task, slot, reason, again)

    def told(self, words: str) -> None:
        for watcher in self.watchers:
            watcher.told(words)


def _free_port() -> int:
    """Returns a port where the ranks of a run can meet, which no other run's ranks use."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def _last_words(log: Path) -> str:
    """Returns the error that a worker's log ends with, as ' (OSError: …)'; "" if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    errors = [line for line in lines[-40:] if ERROR.match(line)]
    return f" ({errors[-1][:200]})" if errors else ""


@dataclass
class _Active:
    task: Work
    attempt: int
    process: Any
    since: float
    held: Locks
    by_srun: bool = False
    told: set[str] = field(default_factory=set)  # members of a pack that are done
    look: float = 0.0  # when members are looked at again

    @property
    def sentinel(self) -> Any:
        return getattr(self.process, "sentinel", None)

    def exit_code(self) -> int | None:
        return self.process.exitcode if self.sentinel is not None else self.process.poll()

    def ask_to_exit(self) -> None:
        """Asks the run to save itself and to exit.

        Ranks that srun has started are asked by their standard input: srun would kill them on SIGTERM.
        """
        with suppress(ProcessLookupError, BrokenPipeError):
            if self.by_srun:
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()
            else:
                os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the run's whole process session; ranks of a multi-device run are in it."""
        for end in (os.killpg, os.kill):  # before a forked worker's setsid it has no group of its own
            with suppress(ProcessLookupError):
                end(self.process.pid, signal.SIGKILL)
        if self.sentinel is not None:
            self.process.join()
        else:
            self.process.wait()


class Runner:
    """Does tasks on `jobs` slots; slot i uses GPU i where there are GPUs, with more slots than GPUs a share of one.

    Args:
        environment: what forked processes get in theirs.
    """

    def __init__(
        self,
        server: Server,
        jobs: int,
        devices: int = 1,
        gpus: int = 0,
        num_nodes: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.server, self.jobs, self.devices, self.gpus, self.num_nodes = server, jobs, devices, gpus, num_nodes
        self.environment = dict(environment or {})
        self._elsewhere: set[str] = set()
        self._look_again = 0.0  # a moment before which nothing that is waiting will be free
        self._active: dict[int, _Active] = {}

    def run(self, tasks: Sequence[Work], watcher: Watcher) -> list[Task]:
        """Runs all tasks and returns those that failed twice. Whatever ends it leaves no process behind.

        What another call on the same folder is at is waited for, and taken over if that ends without a result. A pack
        that fails twice is halved, until a run that always fails is alone.
        """
        waiting: list[tuple[Work, int]] = [(task, 1) for task in tasks]
        failed: list[Task] = []
        active = self._active
        try:
            while waiting or active:
                for slot in range(self.jobs):
                    if slot in active:
                        continue
                    if (following := self._next(waiting, watcher)) is None:
                        break
                    active[slot] = self._start(*following, slot)
                    watcher.started(active[slot].task, slot, active[slot].attempt)
                self._wait(list(active.values()))
                watcher.polled({slot: run.task for slot, run in active.items()})
                interrupts.check()  # a watcher's library may have swallowed it
                for slot, run in list(active.items()):
                    self._members(run, watcher, slot)
                    if run.exit_code() is None:
                        continue
                    run.kill()  # a rank that survived the first one's death
                    run.held.release()
                    del active[slot]
                    if run.exit_code() == PREEMPTED:  # whoever wants the machine back wants all of it
                        raise interrupts.Terminated
                    reason = self._outcome(run, watcher, slot)
                    if reason is None:
                        continue
                    pack = isinstance(run.task, PackTask)
                    # A pack that has come to its end once more would come to the same end.
                    again = run.attempt < ATTEMPTS and not (pack and run.exit_code() == 0)
                    watcher.failed(run.task, slot, reason, again or pack)
                    if again:
                        waiting.insert(0, (run.task, run.attempt + 1))
                    elif isinstance(run.task, PackTask):
                        waiting[:0] = [(half, 1) for half in run.task.halves()]
                    else:
                        failed.append(run.task)
        except interrupts.Terminated:
            self.save_and_exit()
            raise
        finally:
            for run in active.values():
                run.kill()
                run.held.release()
        return failed

    def save_and_exit(self) -> None:
        """Lets the runs in progress save themselves and exit; what takes longer than `GRACE` is not waited for."""
        end = time.monotonic() + GRACE
        for run in self._active.values():
            run.ask_to_exit()
        while any(run.exit_code() is None for run in self._active.values()) and time.monotonic() < end:
            time.sleep(POLL)

    def _members(self, run: _Active, watcher: Watcher, slot: int) -> None:
        """Tells which members of a pack have been done since the last look."""
        over = run.exit_code() is not None
        if not isinstance(run.task, PackTask) or (time.monotonic() < run.look and not over):
            return
        run.look = time.monotonic() + SWEEP
        for task in run.task.members:
            if task.item.name in run.told or not (task.folder.path / "result.json").exists():
                continue
            with suppress(ValueError):  # damaged: the pack's end says so
                if (result := task.complete()) is not None:
                    run.told.add(task.item.name)
                    watcher.finished(task, slot, time.monotonic() - run.since, result)

    def _next(self, waiting: list[tuple[Work, int]], watcher: Watcher) -> tuple[Work, int, Locks] | None:
        """Takes the first task that no other call is at, prepared and with its lock; what is done there is found."""
        if time.monotonic() < self._look_again:
            return None
        for task, attempt in list(waiting):
            held = locked(task)
            if held is None and isinstance(task, PackTask) and (parts := self._parted(task)) is not None:
                place = waiting.index((task, attempt))
                waiting[place : place + 1] = [(part, 1) for part in parts]
                return self._next(waiting, watcher)
            try:
                if held is None:
                    raise Timeout(str(task.folder.path))
                with suppress(ValueError):  # a damaged result is no result
                    if attempt == 1 and (result := task.complete()) is not None:
                        held.release()
                        waiting.remove((task, attempt))
                        for one in members_of(task):
                            watcher.found(one, one.complete() or result)
                        continue
                task.prepare(watcher.told)
            except Timeout:  # another call, or a worker that somebody has started by hand
                if held is not None:
                    held.release()
                if task.item.name not in self._elsewhere:
                    watcher.elsewhere(task)
                self._elsewhere.add(task.item.name)
                continue
            waiting.remove((task, attempt))
            return task, attempt, held
        if waiting:
            self._look_again = time.monotonic() + SWEEP
        return None

    @staticmethod
    def _parted(pack: PackTask) -> list[Work] | None:
        """Returns a pack without the members that others are at, and these alone; None if only the pack itself is."""
        free, busy = list[Task](), list[Task]()
        for task in pack.members:
            held = task.folder.try_lock()
            (busy if held is None else free).append(task)
            if held is not None:
                held.release()
        if not busy:
            return None
        return [*([pack.of(free)] if free else []), *busy]

    def _outcome(self, run: _Active, watcher: Watcher, slot: int) -> str | None:
        """Returns None if the run has a result; otherwise why it has none."""
        try:
            result = run.task.complete()
        except ValueError as error:
            return str(error)
        if result is None:
            code = run.exit_code()
            if code is not None and code < 0:
                return f"killed by signal {-code}"
            return f"exit status {code}{_last_words(run.task.folder.log)}"
        seconds = time.monotonic() - run.since
        if isinstance(run.task, PackTask):
            watcher.ended(slot, f"{run.task.item.label}: {seconds:.0f} s")
        else:
            watcher.finished(run.task, slot, seconds, result)
        return None

    def _start(self, task: Work, attempt: int, held: Locks, slot: int) -> _Active:
        with task.folder.log.open("a", encoding="utf-8") as log:
            log.write(f"--- attempt {attempt}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            for one in members_of(task) if isinstance(task, PackTask) else ():
                log.write(f"{one.folder.path.name} {one.item.name}\n")
        path = task.folder.path.absolute()
        process: Any
        if self.devices * self.num_nodes == 1:
            gpu = slot % self.gpus if self.gpus else None
            process = self.server.start("serve_run", str(path), gpu, self.environment)
        else:
            process = self._start_command(path, slot, task.job.threads)
        return _Active(task, attempt, process, time.monotonic(), held, by_srun=self.num_nodes > 1)

    def _start_command(self, path: Path, slot: int, threads: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {WATCH_STDIN: "1", "MASTER_PORT": str(_free_port())}
        modules = names.registered_modules()
        if modules:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, str(CHECKOUT / "reproduce" / "worker.py"), str(path)]
        command += [word for module in modules for word in ("--import", module)]
        if self.num_nodes > 1:  # on the nodes of the allocation that we are in, beside the step that we may be
            per_node = [f"--ntasks-per-node={self.devices}", f"--cpus-per-task={threads}"]
            ranks = [f"--nodes={self.num_nodes}", f"--ntasks={self.num_nodes * self.devices}", *per_node]
            command = ["srun", "--overlap", "--kill-on-bad-exit=1", *ranks, *command]
        elif self.gpus:  # slot i takes the i-th group of the visible GPUs
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.gpus)))
            first = slot % max(1, self.gpus // self.devices) * self.devices
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[first : first + self.devices])
        with (path / "log.txt").open("a", encoding="utf-8") as log, interrupts.ignoring(*SCHEDULERS):
            return subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.PIPE,  # a byte asks the ranks to exit, its end tells them that we are gone
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @staticmethod
    def _wait(active: list[_Active]) -> None:
        sentinels = [run.sentinel for run in active if run.sentinel is not None]
        if len(sentinels) == len(active):
            wait(sentinels, timeout=POLL)
        else:
            time.sleep(POLL)
