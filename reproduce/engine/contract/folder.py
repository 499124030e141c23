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

import numpy as np
from filelock import FileLock, Timeout

from three_factors.reproduce.engine.contract.files import digest, lock, read_lines, write_text
from three_factors.reproduce.engine.contract.job import Job, environment_of
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.spec import AnyMeasurement, PathSpec, RunSpec, Spec
from three_factors.reproduce.engine.contract.steps import DTYPE, KEPT, expanded, light
from three_factors.reproduce.engine.contract.stored import dumps
from three_factors.reproduce.theory.simulation import Simulation

PATIENCE = 20.0  # seconds
SCRATCH = ("metrics.jsonl", KEPT, "progress.json", "result.json")
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


class RunFolder(Folder):
    """A run's files: its rows in metrics.jsonl, weights at milestones, measurements."""

    place, noun = "runs", "runs"
    current = RunSpec.current_protocol

    @property
    def checkpoint(self) -> Path:
        """Returns the file of a training that is not done, in the environment of the folder's job."""
        return self.path / "training.ckpt"

    def _check(self, result: dict[str, Any]) -> None:
        """Looks at sizes and hashes, where the result tells them: what was done is known without parsing it."""
        rows, epochs = self.path / "metrics.jsonl", result["final"]["epoch"]
        if "bytes" not in result:  # until 0.1
            last = read_lines(rows)[-1:]
            if not last or last[0]["epoch"] != epochs:
                raise ValueError(f"{rows.name} does not reach epoch {epochs}")
        elif rows.stat().st_size != result["bytes"]:
            raise ValueError(f"{rows.name} has not the {result['bytes']} bytes that were written")
        kept = self.path / KEPT
        if kept.exists() and kept.stat().st_size != DTYPE.itemsize * result["final"]["step"]:
            raise ValueError(f"{KEPT} has not {result['final']['step']} steps")
        written = result.get("sha256", {})  # not before 0.2
        for file in (rows, kept):
            if file.name in written and file.exists() and digest(file) != written[file.name]:
                raise ValueError(f"{file.name} is not what was written")
        if "bytes" in result and rows.name not in written:
            _check_rows(rows, epochs)

    def describe(self, result: dict[str, Any]) -> str:
        final, first = result["final"], result.get("first_loss")
        last = final.get("train/loss")
        if result["status"] == "diverged":
            if last is not None and first is not None and last > first:
                return f"diverged: loss {last:.3g} from {first:.3g}"
            return f"diverged: not finite, epoch {final['epoch']}"  # a step's loss, or the weights
        return f"train loss {last:7.4f}  test {100 * final['test/accuracy']:6.2f} %"

    def weights(self, milestone: str) -> Path:
        """Returns the file of the state dictionary at a milestone; absent if that was not reached."""
        return self.path / "weights" / f"{milestone}.pt"

    def measured(self, measurement: AnyMeasurement) -> dict[str, dict[str, Any]] | None:
        """Returns milestone -> what was measured there; None if it is not done, ValueError if it is damaged."""
        file = self.path / f"measured-{measurement.key}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return dict(found["milestones"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error

    def milestones(self, measurements: Sequence[AnyMeasurement], result: dict[str, Any]) -> dict[str, float]:
        """Returns 'end hessian/frobenius' and the like: what was logged and measured at milestones."""
        found: dict[str, float] = {}
        for at in (result.get("milestones", {}), *(self.measured(m) or {} for m in measurements)):
            for name, values in at.items():
                found |= {f"{name} {key}": value for key, value in values.items() if value is not None}
        return found

    def complete(
        self, measurements: Sequence[AnyMeasurement] = (), *, every_step: bool = False
    ) -> dict[str, Any] | None:
        """Returns the result once it has been measured as well, and has kept every step's loss if that is asked for.

        Of a run that diverged nothing more is asked.
        """
        result = self.result()
        if result is None or result["status"] == "diverged":
            return result
        if every_step and not self._has_steps(result):
            return None
        return None if any(self.measured(m) is None for m in measurements) else result

    def _has_steps(self, result: dict[str, Any]) -> bool:
        return (self.path / KEPT).exists() or "bytes" not in result

    def _as_asked(self, job: Job) -> bool:
        result = self.result()
        return result is None or result["status"] == "diverged" or not job.every_step or self._has_steps(result)

    def rows(self) -> list[dict[str, Any]]:
        """Returns what was recorded, a row an epoch; before it one for each evaluation within the epoch."""
        return [row for of_epoch in read_lines(self.path / "metrics.jsonl") for row in expanded(light(of_epoch))]

    def step_losses(self) -> np.ndarray | None:
        """Returns the loss of every step, float32 (steps,); None if they were not kept."""
        file = self.path / KEPT
        if file.exists():
            return np.fromfile(file, DTYPE)
        rows = read_lines(self.path / "metrics.jsonl")
        if not rows or "steps" not in rows[0]:
            return None
        return np.array([loss for row in rows for loss in row["steps"]["loss"]], dtype=DTYPE)

    def resumable_files(self) -> list[Path]:
        done = (self.path / "result.json").exists()
        return [self.checkpoint] if self.checkpoint.exists() and not done else []

    def _of_another_attempt(self) -> tuple[str, ...]:
        return () if self.checkpoint.exists() else super()._of_another_attempt()

    def _forget_progress(self) -> None:
        self.checkpoint.unlink(missing_ok=True)


def _check_rows(file: Path, epochs: int) -> None:
    """Raises ValueError unless the last row can be read, and nothing is left blank as a power loss leaves it."""
    content = file.read_bytes()
    last = content[content.rfind(b"\n", 0, -1) + 1 :]
    try:
        whole = last.endswith(b"\n") and b"\0" not in content and json.loads(last)["epoch"] == epochs
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{file.name} has lost rows before epoch {epochs}")


class PathFolder(Folder):
    """A line's files. It lies beside the runs whose ends it joins."""

    place, noun = "paths", "lines"
    current = PathSpec.current_protocol

    def _check(self, result: dict[str, Any]) -> None:
        if not result["final"] or not result["profiles"]:
            raise ValueError("without a profile")

    def describe(self, result: dict[str, Any]) -> str:
        final = result["final"]
        return f"loss at the ends {final['loss θ1']:.3f} and {final['loss θ2']:.3f}, barrier {final['barrier']:.2f}"

    def points(self, name: str) -> Path:
        """Returns the file of a profile's points, written as they come."""
        return self.path / f"{name}.jsonl"

    def resumable_files(self) -> list[Path]:
        return sorted(self.path.glob("*.jsonl"))

    def run(self, spec: RunSpec) -> RunFolder:
        """Returns the folder of a run in the same results folder."""
        return RunFolder(self.path.parent.parent / RunFolder.place / spec.key)


class SimulationFolder(Folder):
    """A simulation's files, with the chains at the recorded steps in samples.npy."""

    place, noun = "simulations", "simulations"

    @property
    def samples(self) -> Path:
        return self.path / "samples.npy"

    def _check(self, result: dict[str, Any]) -> None:
        if result["bytes"] != self.samples.stat().st_size:
            raise ValueError("without all its samples")

    def describe(self, result: dict[str, Any]) -> str:
        return "simulated"


class PackFolder(Folder):
    """A pack's files: its checkpoint, and what its members have written so far. They end in folders of their own."""

    place, noun = "packs", "packs"

    @property
    def checkpoint(self) -> Path:
        """Returns the file of a training that is not done."""
        return self.path / "training.ckpt"

    @property
    def drafts(self) -> Path:
        """Returns the folder in which members are written until they end."""
        return self.path / "members"

    def run(self, key: str) -> RunFolder:
        """Returns a member's folder, in the same results folder."""
        return RunFolder(self.path.parent.parent / RunFolder.place / key)

    def _check(self, result: dict[str, Any]) -> None:
        """A pack has nothing beside its members, which are looked at themselves."""

    def describe(self, result: dict[str, Any]) -> str:
        return "all its runs are done"

    def resumable_files(self) -> list[Path]:
        return [self.checkpoint] if self.checkpoint.exists() else []

    def _of_another_attempt(self) -> tuple[str, ...]:
        if self.checkpoint.exists():
            return ("result.json",)
        return ("result.json", "progress.json", "members/*/*.*", "members/*/weights/*")

    def _forget_progress(self) -> None:
        self.checkpoint.unlink(missing_ok=True)


FOLDERS: dict[type, type[Folder]] = {
    RunSpec: RunFolder,
    PathSpec: PathFolder,
    Simulation: SimulationFolder,
    Pack: PackFolder,
}
