"""A run's rows as it goes: metrics.jsonl, exact across kills, and what its result is in the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from three_factors.callbacks import HessianMonitor, NoiseScheduler
from three_factors.reproduce.engine.contract.files import read_lines, write_text
from three_factors.reproduce.engine.contract.steps import (
    BETWEEN,
    DISTANCE,
    DTYPE,
    KEPT,
    OF_STEPS,
    WEIGHT_NORM,
    variance,
)

EARLY = ("val", "train_subset", "train_clean", "train_wrong")
DIVERGED_ABOVE = 1.01  # times the first step's loss


def finite_only(values: dict[str, float]) -> dict[str, float | None]:
    """Replaces what is not finite by None: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _length(parts: Sequence[Tensor]) -> float:
    return float(torch.stack([part.double().square().sum() for part in parts]).sum().sqrt())


class Recorder(Checkpoint):
    """Appends a row an epoch: evaluations, t_eta, |θ|, |θ - θ0|, eta and S of the last step, variance of step losses.

    Losses stay tensors until the epoch ends, so a GPU is not waited for. A loss that is not finite ends the run.
    As one of Lightning's checkpoint callbacks it comes after the module has logged an epoch's means.

    Args:
        path: the file of rows.
        watch: whose measurements are rows' as well.
        every_step: whether the loss of every step is kept, in a file beside `path`.
        points: epoch -> steps of it after which it is evaluated before its end, as `steps.evaluated` has them.
        until: within the first so many epochs these are of accuracies alone, as `Evaluations` says.
        start: θ0, a tensor a parameter, from which distances are taken; none are without it.
    """

    def __init__(
        self,
        path: Path,
        noise: NoiseScheduler,
        watch: HessianMonitor | None = None,
        *,
        every_step: bool = False,
        points: Mapping[int, Sequence[int]] | None = None,
        until: int = 0,
        start: Sequence[Tensor] = (),
    ) -> None:
        self.path, self.noise, self.watch = path, noise, watch
        self.points, self.until, self.start = points or {}, until, start
        self.kept = path.with_name(KEPT) if every_step else None
        self.rows: list[dict[str, Any]] = []
        self.first_loss = math.nan
        self.diverged = False
        self._earlier: list[float] = []  # losses of this epoch before the training was resumed
        self._losses: list[Tensor] = []
        self._between: list[dict[str, Any]] = []  # this epoch's evaluations so far
        self._last = 0.0, 0  # eta and S of the last step
        self._file: TextIO | None = None
        self._steps: BinaryIO | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs.get("mean", outputs["loss"]))
        self._last = self.noise.lr, self.noise.batch_size
        if batch_idx + 1 in self.points.get(trainer.current_epoch, ()):
            self._evaluate(trainer, pl_module, (batch_idx + 1) / trainer.num_training_batches)

    def _evaluate(self, trainer: pl.Trainer, module: Any, share: float) -> None:
        """Evaluates when a share of the epoch's steps is done."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        early = trainer.current_epoch < self.until and share < 1
        with trainer.precision_plugin.forward_context():
            found = module.evaluate(data.val_dataloader(), *((EARLY,) if early else ()))
        if early:
            found = {name: value for name, value in found.items() if name.endswith("/accuracy")}
        else:
            found |= self.weights(module)
        place = {"epoch": trainer.current_epoch + share, "step": trainer.global_step, "t_eta": self.noise.t_eta}
        self._between.append(place | finite_only(found))

    def weights(self, module: pl.LightningModule) -> dict[str, float]:
        """Returns |θ| and the distance from the start."""
        own = [p.detach() for p in module.parameters()]
        found = {WEIGHT_NORM: _length(own)}
        if self.start:
            self.start = [begun.to(now.device) for begun, now in zip(self.start, own)]
            found[DISTANCE] = _length([now - begun for now, begun in zip(own, self.start)])
        return found

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        recent = torch.stack(self._losses).double()
        losses = torch.cat([recent.new_tensor(self._earlier), recent])
        if trainer.world_size > 1:  # each rank's loss is scaled so that the mean over ranks is the global batch's
            torch.distributed.all_reduce(losses)
            losses /= trainer.world_size
        values = losses.tolist()
        self.diverged = not all(math.isfinite(v) for v in values)
        trainer.should_stop = trainer.should_stop or self.diverged
        if math.isnan(self.first_loss):
            self.first_loss = values[0]
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "t_eta": self.noise.t_eta,
            **finite_only(dict(zip(OF_STEPS, (variance(values), *self._last)))),
            **finite_only(self.weights(pl_module)),
        }
        if self._between and self._between[-1]["epoch"] == row["epoch"]:  # where Lightning does not evaluate
            row |= self._between.pop()
        if self._between:
            row[BETWEEN] = self._between
        self._earlier, self._losses, self._between = [], [], []
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}  # every rank: it may reduce
        if trainer.is_global_zero:
            self._write(row, values, logged, trainer.check_val_every_n_epoch or 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for file in (self._file, self._steps):
            if file is not None:
                file.close()

    def _write(self, row: dict[str, Any], losses: list[float], logged: dict[str, float], every: int) -> None:
        """Writes the epoch's row, with what is logged; evaluations and curvature may be of an earlier epoch."""
        names = [n for n in logged if row["epoch"] % every == 0 or n.startswith("train/")]
        metrics = {name: logged[name] for name in names if not (self.watch and self.watch.logs(name))}
        if self.watch and self.watch.history and self.watch.history[-1]["epoch"] == row["epoch"]:
            metrics |= {k: v for k, v in self.watch.history[-1].items() if self.watch.logs(k)}
        row |= finite_only(dict(sorted(metrics.items())))  # Lightning's order is another one after a resume
        self._file = self._file or self._cut()
        if self._steps is not None:  # before the row: where there is a row, there are its steps
            self._steps.write(np.asarray(losses, DTYPE).tobytes())
            self._steps.flush()
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.rows.append(row)

    def _cut(self) -> TextIO:
        """Returns the file of rows, to be appended to; opens that of steps.

        What a killed attempt wrote after its last checkpoint is cut off.
        """
        if self.kept is None:
            self.path.with_name(KEPT).unlink(missing_ok=True)  # of an attempt that was asked for them
        else:
            self._steps = self.kept.open("ab")
            self._steps.truncate(DTYPE.itemsize * (self.rows[-1]["step"] if self.rows else 0))
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        return self.path.open("a", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """Says how many rows are in the file, and what of every rank is not in it yet."""
        for file in (self._steps, self._file):
            if file is not None:
                os.fsync(file.fileno())  # before the checkpoint that counts its rows
        own = self._earlier + [float(loss) for loss in self._losses]
        losses: list[list[float]] = [own]
        if torch.distributed.is_initialized():
            losses = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(losses, own)
        return {
            "rows": len(self.rows),
            "first_loss": self.first_loss,
            "diverged": self.diverged,
            "losses": losses,
            "last": self._last,
            "between": self._between,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.first_loss, self.diverged = state_dict["first_loss"], state_dict["diverged"]
        self._earlier = state_dict["losses"][rank]
        self._last, self._between = tuple(state_dict["last"]), list(state_dict["between"])
        if rank == 0:
            self.rows = read_lines(self.path)[: state_dict["rows"]]
            if len(self.rows) < state_dict["rows"]:
                raise ValueError(f"{self.path} holds {len(self.rows)} rows, fewer than its checkpoint")

    def result(self, finite_weights: bool) -> dict[str, Any]:
        """Status and last values. Diverged: a loss or weight not finite, or a loss above that of the first step.

        By more than a hundredth: a network that learns nothing stays at the loss of chance, and has not diverged.
        """
        last = self.rows[-1]
        final = last.get("train/loss")
        diverged = self.diverged or not finite_weights or final is None or final > DIVERGED_ABOVE * self.first_loss
        return {
            "status": "diverged" if diverged else "ok",
            "first_loss": self.first_loss if math.isfinite(self.first_loss) else None,
            "final": {k: v for k, v in last.items() if k not in (*OF_STEPS, BETWEEN)},
            "bytes": self.path.stat().st_size,
        }
