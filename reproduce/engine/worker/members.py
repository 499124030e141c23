"""What is recorded of a run: its rows, its milestones, whether it stops early, and what it came to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from torch import Tensor

from three_factors.callbacks.milestones import Milestones
from three_factors.reproduce.engine.contract.files import digest, read_lines, write_text
from three_factors.reproduce.engine.contract.spec import Keep, RunSpec
from three_factors.reproduce.engine.contract.steps import BETWEEN, DTYPE, OF_STEPS, STEP_LOSSES, evaluated, variance

LOSS, ACCURACY, BEST_OF = "train_subset/loss", "train_subset/accuracy", "val/accuracy"
EARLY = ("val", "train_subset", "train_clean", "train_wrong")  # what is evaluated early in a run
DIVERGED_ABOVE = 1.01  # times the first step's loss


def finite_only(values: dict[str, float]) -> dict[str, float | None]:
    """Replaces what is not finite by None: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


class Member:
    """The record of one run, whoever trains it: a Trainer of its own, or a pack of which it is a member.

    Args:
        path: the file of rows.
        spec: None for a training that is no run: then there are neither milestones nor evaluations within epochs.
        every_step: whether the loss of every step is kept, in a file beside `path`.
        world_size: devices, which decide the length of epochs.

    Attributes:
        rows: one an epoch, as they are in the file.
        points: epoch -> the steps of it after which it is evaluated before its end, each with the share that is over.
        milestones: those of validations, "end" and "initial", with their weights.
        diverged: a loss was not finite.
        stopped: nothing more is to be trained: diverged, or where the spec says so.
    """

    def __init__(
        self, path: Path, spec: RunSpec | None = None, *, every_step: bool = False, world_size: int = 1
    ) -> None:
        self.path, self.spec = path, spec
        self.kept = path.with_name(STEP_LOSSES) if every_step else None
        self.points = {} if spec is None else evaluated(spec, world_size)
        keep = (None if spec is None else spec.keep) or Keep(end=False)
        self.milestones = Milestones(best=keep.best, loss_levels=keep.loss_levels)
        self.rows: list[dict[str, Any]] = []
        self.first_loss = math.nan
        self.diverged = self.stopped = False
        self._between: list[dict[str, Any]] = []  # this epoch's evaluations so far
        self._file: TextIO | None = None
        self._steps: BinaryIO | None = None

    def parts(self, epoch: int, share: float) -> tuple[str, ...] | None:
        """Returns what is evaluated when a share of an epoch is done; None for all of it."""
        often = None if self.spec is None else self.spec.evaluations
        return EARLY if often is not None and epoch < often.until and share < 1 else None

    def between(self, place: dict[str, Any], found: dict[str, float], lengths: dict[str, float]) -> None:
        """Takes an evaluation within an epoch, or at the end of one that is not evaluated as a rule.

        Args:
            place: its epoch (a fraction), step and t_eta.
        """
        epoch = int(place["epoch"])
        if self.parts(epoch, place["epoch"] - epoch or 1.0) is not None:
            found = {name: value for name, value in found.items() if name.endswith("/accuracy")}
        else:
            found |= lengths
        self._between.append(place | finite_only(found))

    def close(
        self,
        place: dict[str, Any],
        losses: Sequence[float],
        last: tuple[float, int],
        lengths: dict[str, float],
        metrics: dict[str, float],
        *,
        write: bool = True,
    ) -> None:
        """Ends an epoch with its row.

        Args:
            place: the epoch (a count), step and t_eta.
            losses: of the epoch's steps.
            last: eta and S of the last of them.
            metrics: what was evaluated and logged in it.
            write: whether this process writes the files.
        """
        self.diverged = not all(math.isfinite(loss) for loss in losses)
        self.stopped = self.diverged or self._reached(metrics)
        if math.isnan(self.first_loss):
            self.first_loss = losses[0]
        row = place | finite_only(dict(zip(OF_STEPS, (variance(losses), *last)))) | finite_only(lengths)
        if self._between and self._between[-1]["epoch"] == row["epoch"]:
            row |= self._between.pop()
        if self._between:
            row[BETWEEN] = self._between
        self._between = []
        row |= finite_only(dict(sorted(metrics.items())))  # Lightning's order is another one after a resume
        if write:
            self.write(row, losses)
        self.rows.append(row)

    def _reached(self, metrics: dict[str, float]) -> bool:
        """Tells whether the spec stops the run where an evaluation has found these."""
        if self.spec is None:
            return False
        loss, accuracy = self.spec.stop_at_loss, self.spec.stop_at_accuracy
        at_loss = loss is not None and metrics.get(LOSS, math.inf) <= loss
        return at_loss or (accuracy is not None and metrics.get(ACCURACY, -math.inf) >= accuracy)

    def validated(self, epoch: int, metrics: dict[str, float], weights: Callable[[], dict[str, Tensor]]) -> None:
        """Keeps the weights of a validation where it is a milestone."""
        due = self.milestones.due(lambda: metrics[LOSS], BEST_OF, lambda: metrics[BEST_OF])
        if due:
            held = weights()
            for name in due:
                self.milestones.keep(name, held, {"epoch": epoch} | metrics)

    def write(self, row: dict[str, Any], losses: Sequence[float]) -> None:
        """Appends an epoch's row to its file."""
        self._file = self._file or self._cut()
        if self._steps is not None:  # before the row: where there is a row, there are its steps
            self._steps.write(np.asarray(losses, DTYPE).tobytes())
            self._steps.flush()
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def _cut(self) -> TextIO:
        """Returns the file of rows, to be appended to; opens that of steps.

        What a killed attempt wrote after its last checkpoint is cut off.
        """
        if self.kept is None:
            self.path.with_name(STEP_LOSSES).unlink(missing_ok=True)  # of an attempt that was asked for them
        else:
            self._steps = self.kept.open("ab")
            self._steps.truncate(DTYPE.itemsize * (self.rows[-1]["step"] if self.rows else 0))
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        return self.path.open("a", encoding="utf-8")

    def end(self) -> None:
        """Closes the files."""
        for file in (self._file, self._steps):
            if file is not None:
                file.close()
        self._file = self._steps = None

    def result(self, finite_weights: bool) -> dict[str, Any]:
        """Returns status and last values. Diverged: a loss or weight not finite, or a loss above the first step's.

        By more than a hundredth: a network that learns nothing stays at the loss of chance, and has not diverged. Rows
        and steps are on the disk before there is a result that counts them done.
        """
        last = self.rows[-1]
        final = last.get("train/loss")
        diverged = self.diverged or not finite_weights or final is None or final > DIVERGED_ABOVE * self.first_loss
        return {
            "status": "diverged" if diverged else "ok",
            "first_loss": self.first_loss if math.isfinite(self.first_loss) else None,
            "final": {k: v for k, v in last.items() if k not in (*OF_STEPS, BETWEEN)},
            "bytes": self.path.stat().st_size,
            "sha256": {file.name: digest(file, stored=True) for file in (self.path, self.kept) if file is not None},
        }

    def reached(
        self, at_start: dict[str, float], reached: dict[str, dict[str, float]]
    ) -> dict[str, dict[str, float | None]]:
        """Returns milestone -> what was logged there, with |θ| and |θ - θ0|.

        Args:
            at_start: those of the initial weights.
            reached: milestone -> its epoch and metrics.
        """
        of_rows: dict[float, dict[str, Any]] = {0: at_start}
        of_rows |= {row["epoch"]: {name: row[name] for name in at_start} for row in self.rows}
        return {name: finite_only(metrics) | of_rows[metrics["epoch"]] for name, metrics in reached.items()}

    def state_dict(self) -> dict[str, Any]:
        """Says how many rows are in the file, and what is not in it yet."""
        for file in (self._steps, self._file):
            if file is not None:
                os.fsync(file.fileno())  # before the checkpoint that counts its rows
        return {
            "rows": len(self.rows),
            "first_loss": self.first_loss,
            "diverged": self.diverged,
            "stopped": self.stopped,
            "between": self._between,
            "weights": self.milestones.weights,
            "reached": self.milestones.reached,
        }

    def load_state_dict(self, state_dict: dict[str, Any], *, read: bool = True) -> None:
        """Goes on from a checkpoint. Raises ValueError if there are fewer rows than it counts.

        Args:
            read: whether this process writes the files.
        """
        self.first_loss, self.diverged = state_dict["first_loss"], state_dict["diverged"]
        self.stopped, self._between = state_dict["stopped"], list(state_dict["between"])
        self.milestones.weights, self.milestones.reached = state_dict["weights"], state_dict["reached"]
        if read:
            self.rows = read_lines(self.path)[: state_dict["rows"]]
            if len(self.rows) < state_dict["rows"]:
                raise ValueError(f"{self.path} holds {len(self.rows)} rows, fewer than its checkpoint")
