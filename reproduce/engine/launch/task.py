"""Task: an item of work, with its folder and environment."""

from __future__ import annotations

from collections.abc import Callable
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
