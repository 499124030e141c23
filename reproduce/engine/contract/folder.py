"""A folder for each piece of work: OUT/runs/KEY/, OUT/paths/KEY/, OUT/simulations/KEY/.

result.json existing means done; measured-KEY.json existing means measured.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from three_factors.reproduce.engine.contract.files import lock, write_text
from three_factors.reproduce.engine.contract.job import Job, environment_of
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement
from three_factors.reproduce.engine.contract.spec import Spec
from three_factors.reproduce.engine.contract.steps import STEP_LOSSES
from three_factors.reproduce.engine.contract.stored import dumps

PATIENCE = 20.0  # seconds
SCRATCH = ("metrics.jsonl", STEP_LOSSES, "progress.json", "result.json")
MIRRORED = "wandb.json"  # of a run that W&B has whole
MADE = ("weights/*.pt", "measured-*.json", MIRRORED)  # of a training that is done
DRAFTS = (".*.draft", ".*.json*.*", ".*.pt.*", ".*.npy.*")  # of what a kill broke off in its writing
Say = Callable[[str], None]


def writing(folder: Path, patience: float = PATIENCE) -> FileLock:
    """Returns the lock of whoever writes a folder's files: the worker of a killed call may live a moment longer.

    Args:
        patience: seconds until filelock.Timeout.
    """
    return lock(folder, "worker", patience)


@dataclass(frozen=True)
class Folder(ABC):
    """The files of one piece of work; each kind of work has its own subclass.

    Attributes:
        place: the folder below OUT that holds those of this kind.
        noun: what they are, in the plural.
        current: the protocol that this code follows, of kinds that have one.
    """

    path: Path
    place: ClassVar[str]
    noun: ClassVar[str]
    current: ClassVar[int | None] = None

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def result(self) -> dict[str, Any] | None:
        """Returns the finished result, None if there is none yet. Raises ValueError if it is damaged."""
        file = self.path / "result.json"
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if result["key"] != self.path.name or result["status"] not in ("ok", "diverged"):
                raise ValueError("of another spec, or without an outcome")
            self._check(result)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error
        return dict(result)

    @abstractmethod
    def _check(self, result: dict[str, Any]) -> None:
        """Raises ValueError, KeyError, TypeError, IndexError or FileNotFoundError if the result is not whole."""

    @abstractmethod
    def describe(self, result: dict[str, Any]) -> str:
        """Says in a few words what a finished piece of work came to."""

    def complete(
        self, measurements: Sequence[AnyMeasurement] = (), *, every_step: bool = False
    ) -> dict[str, Any] | None:
        """Returns the result once everything is done; ValueError if it is damaged."""
        return self.result()

    def fraction(self) -> float:
        """Returns how far the work is, in [0, 1]; 0 where that is not known."""
        try:
            return float(json.loads((self.path / "progress.json").read_text())["fraction"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def try_lock(self) -> FileLock | None:
        """Locks the folder for one runner; None if another process holds it. The lock dies with the process."""
        held = lock(self.path, "claim", 0)
        try:
            held.acquire()
        except Timeout:
            return None
        return held

    def alone(self, patience: float = PATIENCE) -> FileLock:
        """Returns the lock of whoever writes the files; see `writing`."""
        return writing(self.path, patience)

    def prepare(self, spec: Spec, job: Job, measurements: Sequence[AnyMeasurement] = (), say: Say = print) -> None:
        """Writes spec and job for a worker, which goes on from what an earlier one of the same environment has left.

        Of another environment nothing is left. Raises filelock.Timeout while a worker is at it.
        """
        with self.alone(patience=0):
            self.path.mkdir(parents=True, exist_ok=True)
            self._clean(job, say)
            write_text(self.path / "spec.json", dumps(spec, indent=1) + "\n")
            write_text(self.path / "measurements.json", dumps(tuple(measurements), indent=1) + "\n")
            job.write(self.path)

    def _clean(self, job: Job, say: Say) -> None:
        """Removes what the next worker must not find."""
        try:
            done = self.result() is not None and self._as_asked(job)
        except ValueError:  # a first attempt left it damaged
            done = False
            self._forget_progress()
        before, here = environment_of(self.path), job.environment
        changed = [name for name, value in here.items() if before.get(name) != value]
        if changed and not done and (begun := self.resumable_files()):
            for file in begun:
                file.unlink()
            words = ", ".join(f"{name} {before.get(name)} then, {here[name]} now" for name in changed)
            say(f"{self.path.name} starts again, since what is there of it is of another environment: {words}")
        for pattern in DRAFTS:
            for file in self.path.rglob(pattern):
                file.unlink(missing_ok=True)
        if done:
            self._forget_progress()  # killed after the result was written
        else:
            for pattern in self._of_another_attempt():
                for file in self.path.glob(pattern):
                    file.unlink()

    def _as_asked(self, job: Job) -> bool:
        """Tells whether finished work has kept what a job asks for."""
        return True

    def _of_another_attempt(self) -> tuple[str, ...]:
        """Returns patterns of files that work which starts over must not find."""
        return (*SCRATCH, *MADE)

    def _forget_progress(self) -> None:  # noqa: B027  # not all work leaves something
        """Removes what an unfinished attempt resumes from."""

    def forget(self) -> None:
        """Makes the work count as not done from now on."""
        (self.path / "result.json").unlink(missing_ok=True)

    def resumable_files(self) -> list[Path]:
        """Returns the files that unfinished work resumes from; none if it would start over."""
        return []

    def set_aside(self) -> Path:
        """Moves a damaged folder out of the way and returns where it is now."""
        target = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{target.name.split('~')[0]}~{number}")
        self.path.rename(target)
        return target
