"""KeepWeights: copies of the weights at milestones of a training, to be measured afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

LEVEL = re.compile(r"loss ([0-9.e-]+)")


def loss_level(name: str) -> float | None:
    """x of a milestone 'loss x'; None for another one. Raises ValueError if it is no milestone."""
    if name in ("initial", "best", "end"):
        return None
    match = LEVEL.fullmatch(name)
    try:
        level = float(match[1]) if match else 0.0
    except ValueError:
        level = 0.0
    if level <= 0:
        raise ValueError(f"at: {name!r} is none of 'initial', 'best', 'end', 'loss x' with x > 0")
    return level


class KeepWeights(pl.Callback):
    """Keeps state dictionaries, on the CPU, of the module at

    - "initial": the start of the fit; "end": its end;
    - "best": the validation with the highest `best_of`, the first of equal ones;
    - "loss x": the first validation at which `loss_of` is at most x. Where runs differ in how far they have trained,
      this is where their curvature can be compared.

    Attributes:
        weights: milestone -> state dictionary; milestones that were not reached are missing.
        reached: milestone -> epoch (a count) and the metrics logged there.
    """

    def __init__(self, at: Iterable[str], *, best_of: str = "val/accuracy", loss_of: str = "train_subset/loss") -> None:
        self.at, self.best_of, self.loss_of = tuple(at), best_of, loss_of
        self.levels = {name: level for name in self.at if (level := loss_level(name)) is not None}
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.reached: dict[str, dict[str, float]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "initial" in self.at and "initial" not in self.weights:  # else a checkpoint has brought it
            self._keep("initial", trainer, pl_module, 0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.training:
            return
        epoch = trainer.current_epoch + 1
        for name, level in self.levels.items():
            if name not in self.weights and self._metric(trainer, self.loss_of) <= level:
                self._keep(name, trainer, pl_module, epoch)
        if "best" in self.at:
            value = self._metric(trainer, self.best_of)
            if "best" not in self.reached or value > self.reached["best"][self.best_of]:
                self._keep("best", trainer, pl_module, epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "end" in self.at:
            self._keep("end", trainer, pl_module, trainer.current_epoch)

    def _metric(self, trainer: pl.Trainer, name: str) -> float:
        if name not in trainer.callback_metrics:
            raise ValueError(f"metric: {name!r} is not logged; there are {', '.join(trainer.callback_metrics)}")
        return float(trainer.callback_metrics[name])

    def _keep(self, name: str, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
        self.weights[name] = {k: v.detach().to("cpu", copy=True) for k, v in module.state_dict().items()}
        self.reached[name] = {"epoch": epoch} | {k: float(v) for k, v in trainer.callback_metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "reached": self.reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights, self.reached = state_dict["weights"], state_dict["reached"]
