"""The results folder: OUT/runs/KEY/ for runs, OUT/FIGURE/SCALE/ for figures.

result.json existing means trained; measured-KEY.json existing means measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.files import lock, read_cache, read_lines, write_json, write_text
from three_factors.reproduce.engine.spec import Measurement, PathSpec, RunSpec
from three_factors.reproduce.engine.stored import dumps
from three_factors.reproduce.theory.simulate import Simulation

Spec = RunSpec | PathSpec | Simulation
PATIENCE = 20.0  # seconds
SCRATCH = ("metrics.jsonl", "progress.json", "result.json")
MIRRORED = "wandb.json"  # of a run that W&B has whole
MADE = ("weights/*.pt", "measured-*.json", MIRRORED)  # of a training that is done
DRAFTS = (".*.draft", ".*.json*.*", ".*.pt.*", ".*.npy.*")  # of what a kill broke off in its writing


@dataclass(frozen=True)
class RunFolder:
    """One run's files."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """Of a training that is not done; of the environment in environment.json."""
        return self.path / "training.ckpt"

    def result(self) -> dict[str, Any] | None:
        """The finished result, None if there is none yet. Raises ValueError if it is damaged."""
        file = self.path / "result.json"
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if result["key"] != self.path.name or result["status"] not in ("ok", "diverged"):
                raise ValueError("not this run's result")
            epochs = result["final"]["epoch"]
            rows = read_lines(self.path / "metrics.jsonl")
            if not rows or rows[-1]["epoch"] != epochs:
                raise ValueError(f"metrics.jsonl does not reach epoch {epochs}")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error
        return result

    def weights(self, milestone: str) -> Path:
        """The state dictionary that `KeepWeights` had at a milestone; absent if it was not reached."""
        return self.path / "weights" / f"{milestone}.pt"

    def measured(self, measurement: Measurement) -> dict[str, dict[str, Any]] | None:
        """milestone -> what was measured there; None if it is not done, ValueError if it is damaged."""
        file = self.path / f"measured-{measurement.key}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return dict(found["milestones"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error

    def milestones(self, measurements: Sequence[Measurement], result: dict[str, Any]) -> dict[str, float]:
        """'end hessian/frobenius' and the like: what was logged and measured at milestones that were reached."""
        found: dict[str, float] = {}
        for at in (result.get("milestones", {}), *(self.measured(m) or {} for m in measurements)):
            for name, values in at.items():
                found |= {f"{name} {key}": value for key, value in values.items() if value is not None}
        return found

    def complete(self, measurements: Sequence[Measurement]) -> dict[str, Any] | None:
        """The result once it has been measured as well; a run that diverged is not measured."""
        result = self.result()
        if result is None or result["status"] == "diverged":
            return result
        return None if any(self.measured(m) is None for m in measurements) else result

    def rows(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "metrics.jsonl")

    def fraction(self) -> float:
        """How far the run is, in [0, 1]; 0 where that is not known."""
        try:
            return float(json.loads((self.path / "progress.json").read_text())["fraction"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def claim(self) -> FileLock | None:
        """The right to run here, until it is released or this process ends, however; None while another has it."""
        claim = lock(self.path, "claim", 0)
        try:
            claim.acquire()
        except Timeout:
            return None
        return claim

    def alone(self, patience: float = PATIENCE) -> FileLock:
        """Held by whoever writes the run's files: the worker of a call that was killed may live a moment longer.

        patience: seconds until filelock.Timeout.
        """
        return lock(self.path, "worker", patience)

    def prepare(
        self,
        spec: Spec,
        job: dict[str, Any],
        measurements: Sequence[Measurement] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        """Makes the folder ready for a run from its checkpoint, if that is of the same environment, or from its start.

        Or for what is to be measured of a finished one. Raises filelock.Timeout while a worker is at it.
        """
        with self.alone(patience=0):
            self.path.mkdir(parents=True, exist_ok=True)
            self._prepare(spec, job, measurements, say)

    def _prepare(
        self, spec: Spec, job: dict[str, Any], measurements: Sequence[Measurement], say: Callable[[str], None]
    ) -> None:
        try:
            trained = self.result() is not None
        except ValueError:  # a first attempt left it damaged
            trained = False
            self.checkpoint.unlink(missing_ok=True)
        if trained:
            self.checkpoint.unlink(missing_ok=True)  # killed after the result was written
        before = environment(read_cache(self.path / "job.json"))
        changed = [name for name, value in environment(job).items() if before.get(name) != value]
        if changed and not trained and (begun := self.begun()):
            for file in begun:
                file.unlink()
            words = ", ".join(f"{name} {before.get(name)} then, {environment(job)[name]} now" for name in changed)
            say(f"{self.path.name} starts again, since what is there of it is of another environment: {words}")
        for pattern in DRAFTS:
            for file in self.path.rglob(pattern):
                file.unlink(missing_ok=True)
        if not trained and not self.checkpoint.exists():
            for pattern in (*SCRATCH, *MADE):
                for file in self.path.glob(pattern):
                    file.unlink()
        write_text(self.path / "spec.json", dumps(spec, indent=1) + "\n")
        write_text(self.path / "measurements.json", dumps(tuple(measurements), indent=1) + "\n")
        write_json(self.path / "job.json", job)

    def forget(self) -> None:
        """The run counts as not trained from now on."""
        (self.path / "result.json").unlink(missing_ok=True)

    def begun(self) -> list[Path]:
        """What a run that is not done goes on from."""
        done = (self.path / "result.json").exists()
        return [self.checkpoint] if self.checkpoint.exists() and not done else []

    def set_aside(self) -> Path:
        """Moves a damaged folder out of the way and returns where it is now."""
        target = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{target.name.split('~')[0]}~{number}")
        self.path.rename(target)
        return target


class PathFolder(RunFolder):
    """A path's files: OUT/paths/KEY/. It lies beside the runs whose ends it joins."""

    def points(self, name: str) -> Path:
        """The points of a profile, as they come."""
        return self.path / f"{name}.jsonl"

    def begun(self) -> list[Path]:
        return sorted(self.path.glob("*.jsonl"))

    def result(self) -> dict[str, Any] | None:
        file = self.path / "result.json"
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if result["key"] != self.path.name or not result["final"] or not result["profiles"]:
                raise ValueError("not this path's result")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error
        return result

    def run(self, spec: RunSpec) -> RunFolder:
        """The folder of a run in the same results folder."""
        return RunFolder(self.path.parent.parent / "runs" / spec.key)


class SimulationFolder(RunFolder):
    """A simulation's files: OUT/simulations/KEY/, with the chains at the recorded steps in samples.npy."""

    @property
    def samples(self) -> Path:
        return self.path / "samples.npy"

    def result(self) -> dict[str, Any] | None:
        file = self.path / "result.json"
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if result["key"] != self.path.name or result["bytes"] != self.samples.stat().st_size:
                raise ValueError("not this simulation's result")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error
        return result


class Results:
    """All runs below one OUT folder."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def folder(self, spec: Spec) -> RunFolder:
        if isinstance(spec, PathSpec):
            return PathFolder(self.out / "paths" / spec.key)
        if isinstance(spec, Simulation):
            return SimulationFolder(self.out / "simulations" / spec.key)
        return RunFolder(self.out / "runs" / spec.key)

    def other_protocols(self) -> dict[int, int]:
        """protocol -> runs of it that are here, of protocols that this code does not follow."""
        found: dict[int, int] = {}
        for kind, current in (("runs", RunSpec.current_protocol), ("paths", PathSpec.current_protocol)):
            for file in (self.out / kind).glob("*/spec.json"):
                protocol = read_cache(file).get("protocol")
                if isinstance(protocol, int) and protocol != current:
                    found[protocol] = found.get(protocol, 0) + 1
        return found

    def finished(
        self, spec: Spec, measurements: Sequence[Measurement], say: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """The run's result if it is done and measured; a damaged one is told, set aside, and counts as absent."""
        folder = self.folder(spec)
        try:
            return folder.complete(measurements)
        except ValueError as error:
            claim = folder.claim()
            if claim is None:
                say(f"damaged result: {error}; another call is at it")
                return None
        try:  # another call may have been here first
            return folder.complete(measurements)
        except ValueError as error:
            say(f"damaged result: {error}; set aside as {folder.set_aside().name}, to be trained again")
            return None
        finally:
            claim.release()


def job_data(
    data: Prepared, accelerator: str, devices: int, threads: int, made: dict[str, Any] | None = None, num_nodes: int = 1
) -> dict[str, Any]:
    """What `worker` reads as its Job. made: hardware, versions and code."""
    return {
        "data": asdict(data),
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": num_nodes,
        "threads": threads,
        "made": made or {},
    }


def environment(job: dict[str, Any]) -> dict[str, Any]:
    """What of a job may change the bits of a run: a half-done one goes on only where all of it is the same."""
    names = ("accelerator", "devices", "num_nodes", "threads")
    return {name: job.get(name) for name in names} | job.get("made", {})
