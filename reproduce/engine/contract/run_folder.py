"""The folder of a training run, OUT/runs/KEY/: a row an epoch, weights at milestones, what was measured there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from three_factors.reproduce.engine.contract.files import digest, read_lines
from three_factors.reproduce.engine.contract.folder import Folder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.contract.steps import DTYPE, STEP_LOSSES, expanded, light


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
        kept = self.path / STEP_LOSSES
        if kept.exists() and kept.stat().st_size != DTYPE.itemsize * result["final"]["step"]:
            raise ValueError(f"{STEP_LOSSES} has not {result['final']['step']} steps")
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
        return (self.path / STEP_LOSSES).exists() or "bytes" not in result

    def _as_asked(self, job: Job) -> bool:
        result = self.result()
        return result is None or result["status"] == "diverged" or not job.every_step or self._has_steps(result)

    def rows(self) -> list[dict[str, Any]]:
        """Returns what was recorded, a row an epoch; before it one for each evaluation within the epoch."""
        return [row for of_epoch in read_lines(self.path / "metrics.jsonl") for row in expanded(light(of_epoch))]

    def step_losses(self) -> np.ndarray | None:
        """Returns the loss of every step, float32 (steps,); None if they were not kept."""
        file = self.path / STEP_LOSSES
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
