"""Task: an item of work, with its folder and environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from three_factors.reproduce.engine.contract.folder import Folder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.spec import Item


@dataclass(frozen=True)
class Task:
    """An item to be done in `folder`, in the environment that `job` is."""

    item: Item
    folder: Folder
    job: Job

    def under(self, job: Job) -> Task:
        """Returns the same in another environment."""
        return replace(self, job=job)

    def complete(self) -> dict[str, Any] | None:
        """Returns the result if it is done and measured; ValueError if it is damaged."""
        return self.folder.complete(self.item.measurements, every_step=self.item.every_step)

    def prepare(self, say: Callable[[str], None]) -> None:
        """Makes the folder ready for a worker. Raises filelock.Timeout while one is at it."""
        job = replace(self.job, every_step=self.item.every_step)
        self.folder.prepare(self.item.spec, job, self.item.measurements, say)


def once(items: Iterable[Item]) -> list[Item]:
    """Returns an item a spec, with all that any of its labels measures or keeps of the run.

    Two labels may name one run: it is made once, and both read it. As two tasks each would wait for the other's lock.
    """
    found: dict[str, Item] = {}
    for item in items:
        first = found.setdefault(item.spec.key, item)
        if first is not item:
            measured = {one.key: one for one in (*first.measurements, *item.measurements)}
            every_step = first.every_step or item.every_step
            found[item.spec.key] = replace(first, measurements=tuple(measured.values()), every_step=every_step)
    return list(found.values())
