"""Which runs are made as packs: one process trains and measures all runs of a pack as a stack."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.packs import Pack, same_stack, stackable
from three_factors.reproduce.engine.contract.spec import Item, RunSpec
from three_factors.reproduce.engine.contract.stored import loads
from three_factors.reproduce.engine.launch.task import Task

MOST = 128  # members of a pack
ALWAYS = "THREE_FACTORS_PACKS"
# On a CPU a step of wide layers is arithmetic, which is no faster in a stack (1.1 x slower at 512); of narrower ones
# much of it is overhead, which a stack has once (tests/benchmarks/README.md).
WIDEST = 256


@dataclass(frozen=True)
class PackTask:
    """Runs that are made as one pack; to the runner a task like others."""

    members: tuple[Task, ...]
    folder: PackFolder

    @property
    def job(self) -> Job:
        return self.members[0].job

    @property
    def item(self) -> Item:
        first = self.members[0].item
        return Item(f"pack of {len(self.members)}, {first.label}, …,", first.seed, Pack.of(self.specs))

    @property
    def specs(self) -> list[RunSpec]:
        return [task.item.spec for task in self.members if isinstance(task.item.spec, RunSpec)]

    def under(self, job: Job) -> PackTask:
        """Returns the same in another environment."""
        return replace(self, members=tuple(task.under(job) for task in self.members))

    def complete(self) -> dict[str, Any] | None:
        """Returns a result if all members are done and measured."""
        found = [task.complete() for task in self.members]
        return None if None in found else {"key": self.folder.path.name, "status": "ok"}

    def prepare(self, say: Callable[[str], None]) -> None:
        """Makes the folders of pack and members ready for a worker. Raises filelock.Timeout while one is at any."""
        for task in self.members:
            task.prepare(say)
        every_step = any(task.item.every_step for task in self.members)
        self.folder.prepare(self.item.spec, replace(self.job, every_step=every_step), (), say)

    def halves(self) -> list[Task | PackTask]:
        """Returns what is left to be done of it as two tasks."""
        left = [task for task in self.members if not _done(task)]
        middle = (len(left) + 1) // 2
        return [self.of(part) for part in (left[:middle], left[middle:]) if part]

    def of(self, members: Sequence[Task]) -> Task | PackTask:
        """Returns some of the members as a pack of their own, or a single one as it is."""
        return members[0] if len(members) == 1 else pack_of(members, self.folder.path.parent.parent)


Work = Task | PackTask


def _done(task: Task) -> bool:
    try:
        return task.complete() is not None
    except ValueError:  # damaged
        return False


def members_of(work: Work) -> tuple[Task, ...]:
    """Returns the runs of a pack; of a single one itself."""
    return work.members if isinstance(work, PackTask) else (work,)


class Locks:
    """The locks of all folders of a task, which are held together."""

    def __init__(self, held: Sequence[FileLock]) -> None:
        self.held = list(held)

    def release(self) -> None:
        for lock in self.held:
            lock.release()


def locked(work: Work) -> Locks | None:
    """Locks a task's folders for one runner; None if another process has any of them."""
    held: list[FileLock] = []
    for folder in (work.folder, *(task.folder for task in members_of(work) if task is not work)):
        one = folder.try_lock()
        if one is None:
            Locks(held).release()
            return None
        held.append(one)
    return Locks(held)


def pack_of(members: Sequence[Task], out: Path) -> PackTask:
    """Returns the pack of these runs."""
    ordered = tuple(sorted(members, key=lambda task: task.item.spec.key))
    key = Pack(tuple(task.item.spec.key for task in ordered)).key
    return PackTask(ordered, PackFolder(out / PackFolder.place / key))


def wins(spec: RunSpec, accelerator: str) -> bool:
    """Tells whether a run is made faster in a pack."""
    network = spec.network
    if accelerator == "cuda" or not isinstance(network, MLPNetwork):
        return accelerator == "cuda"
    return max(network.hidden, default=0) <= WIDEST


def formed(tasks: Sequence[Task], out: Path, at_once: int) -> list[Work]:
    """Returns the tasks with those that go together as packs, where they were first.

    Packs that are begun, and whose members are all wanted, stay as they are. Where the environment's `ALWAYS` is set,
    as tests have it, also those go together that are no faster for it.

    Args:
        at_once: tasks that are done at the same time: a group makes as many packs, so that none of them waits.
    """
    always = bool(os.environ.get(ALWAYS))
    keys = {task.item.spec.key: task for task in tasks}
    packs = [pack_of([keys[key] for key in pack.keys], out) for pack in _begun(out) if set(pack.keys) <= set(keys)]
    begun = {task.item.spec.key for pack in packs for task in pack.members}
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        spec = task.item.spec
        if not isinstance(spec, RunSpec) or spec.key in begun or task.job.world_size > 1:
            continue
        if stackable(spec) and (always or wins(spec, task.job.accelerator)):
            groups.setdefault((same_stack(spec), task.item.every_step), []).append(task)
    for group in groups.values():
        parts = max(min(at_once, len(group) // 2), -(-len(group) // MOST))
        packs += [pack_of(group[i::parts], out) for i in range(parts) if len(group) > 1]
    place = {task.item.spec.key: pack for pack in packs for task in pack.members}
    found: list[Work] = []
    for task in tasks:
        pack = place.get(task.item.spec.key)
        if pack is None:
            found.append(task)
        elif not any(one is pack for one in found):
            found.append(pack)
    return found


def _begun(out: Path) -> list[Pack]:
    """Returns the packs that can be gone on with."""
    found = []
    for file in sorted((out / PackFolder.place).glob("*/training.ckpt")):
        try:
            pack = loads((file.parent / "spec.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(pack, Pack) and pack.key == file.parent.name:
            found.append(pack)
    return found
