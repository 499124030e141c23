"""KeepWeights: copies of the weights at milestones of a training, to be measured afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor


class KeepWeights(pl.Callback):
    """Keeps state dictionaries of the module, on the CPU, at the milestones asked for.

        keep = KeepWeights(best=True, loss_levels=(0.1, 0.01))
        pl.Trainer(callbacks=[keep]).fit(module, data)
        HessianMonitor().measure(module_with(keep.weights["loss 0.1"]), batches)

    Args:
        initial, end: at the start and at the end of the fit.
        best: at the validation with the highest `best_of`, the first of equal ones.
        loss_levels: "loss x" is the first validation at which `loss_of` is at most x (by default the loss on a training
            subset, which this project's data modules evaluate with `watch=`). Where runs differ in how far
            they have trained, this is where their curvature can be compared.

    Attributes:
        weights: milestone -> state dictionary; milestones that were not reached are missing.
        reached: milestone -> epoch (a count) and what the validation there has logged; what was logged before it is of
            other weights.
    """

    def __init__(
        self,
        *,
        initial: bool = False,
        best: bool = False,
        end: bool = True,
        loss_levels: Iterable[float] = (),
        best_of: str = "val/accuracy",
        loss_of: str = "train_subset/loss",
    ) -> None:
        self.initial, self.best, self.end, self.best_of, self.loss_of = initial, best, end, best_of, loss_of
        self.levels = {f"loss {level:g}": level for level in loss_levels}
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.reached: dict[str, dict[str, float]] = {}
        self._before: dict[str, Tensor] = {}
        self._last: dict[str, float] = {}  # the latest validation's epoch and metrics
        self._step = -1  # at which that was

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.initial and "initial" not in self.weights:  # else a checkpoint has brought it
            self._keep("initial", pl_module, {"epoch": 0})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if v is not self._before.get(k)}
        self._last, self._step = {"epoch": trainer.current_epoch + 1} | logged, trainer.global_step
        for name, level in self.levels.items():
            if name not in self.weights and self._metric(trainer, self.loss_of) <= level:
                self._keep(name, pl_module, self._last | {self.loss_of: self._metric(trainer, self.loss_of)})
        if self.best:
            value = self._metric(trainer, self.best_of)
            if "best" not in self.reached or value > self.reached["best"][self.best_of]:
                self._keep("best", pl_module, self._last | {self.best_of: value})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.end:
            epoch = {"epoch": trainer.current_epoch}
            self._keep("end", pl_module, (self._last if self._step == trainer.global_step else {}) | epoch)

    def _metric(self, trainer: pl.Trainer, name: str) -> float:
        if name not in trainer.callback_metrics:
            there = ", ".join(trainer.callback_metrics)
            raise ValueError(f"metric: {name!r} is not logged; best_of=, loss_of= take one of {there}")
        return float(trainer.callback_metrics[name])

    def _keep(self, name: str, module: pl.LightningModule, metrics: dict[str, float]) -> None:
        self.weights[name] = {k: v.detach().to("cpu", copy=True) for k, v in module.state_dict().items()}
        self.reached[name] = dict(metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "reached": self.reached, "last": self._last, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights, self.reached = state_dict["weights"], state_dict["reached"]
        self._last, self._step = state_dict["last"], state_dict["step"]
