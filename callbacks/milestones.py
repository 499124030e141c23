"""KeepWeights: copies of the weights at milestones of a training, to be measured afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Milestones:
    """The best validation, and the first ones at fixed losses: which of them a validation is.

    Args:
        best, loss_levels, mode: as for `KeepWeights`.

    Attributes:
        weights: milestone -> state dictionary.
        reached: milestone -> epoch (a count) and what the validation of these weights has logged.
    """

    def __init__(self, *, best: bool, loss_levels: Iterable[float], mode: Literal["max", "min"] = "max") -> None:
        self.best, self.mode = best, mode
        self.levels = {f"loss {level:g}": level for level in loss_levels}
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.reached: dict[str, dict[str, float]] = {}

    def waits(self) -> bool:
        """Tells whether a milestone that only a validation can reach is still to come."""
        return self.best or any(name not in self.weights for name in self.levels)

    def due(self, loss: Callable[[], float], best_of: str, value: Callable[[], float]) -> list[str]:
        """Returns the milestones that a validation reaches; its loss, and its value of `best_of`, if it comes to them.

        A NaN reaches none.
        """
        found = [name for name, level in self.levels.items() if name not in self.weights and loss() <= level]
        return [*found, "best"] if self.best and self._better(value(), best_of) else found

    def _better(self, value: float, best_of: str) -> bool:
        if math.isnan(value):
            return False
        if "best" not in self.reached:
            return True
        best = self.reached["best"][best_of]
        return value > best if self.mode == "max" else value < best

    def keep(self, milestone: str, weights: dict[str, Tensor], metrics: dict[str, float]) -> None:
        self.weights[milestone], self.reached[milestone] = weights, dict(metrics)


class KeepWeights(pl.Callback):
    """Keeps state dictionaries of the module, on the CPU, at the milestones asked for.

        keep = KeepWeights(best=True, loss_levels=(0.1, 0.01))
        pl.Trainer(callbacks=[keep]).fit(module, data)
        HessianMonitor().measure(module_with(keep.weights["loss 0.1"]), batches)

    What is kept is what was evaluated: where another callback evaluates an average of the weights (Lightning's
    `EMAWeightAveraging`), that average, in either order of the two. As long as `best` or a level may still come, every
    validation copies the weights once.

    Args:
        initial: at the start of the fit.
        end: what the module holds once the fit is over, which may be an average of the weights (EMA, SWA).
        best: at the validation with the highest `best_of`, the first of equal ones; with `mode="min"` the lowest. That
            the best loss is the lowest is not guessed: `best_of="val/loss"` wants `mode="min"`.
        loss_levels: "loss x" is the first validation at which `loss_of` is at most x (by default the loss on a training
            subset, which this project's data modules evaluate with `watch=`). Where runs differ in how far
            they have trained, this is where their curvature can be compared.
        name: tells several in one Trainer apart; each of them wants one of its own.

    Attributes:
        weights: milestone -> the tensors of the state dictionary, without what a `get_extra_state` adds that is none;
            milestones that were not reached are missing.
        reached: milestone -> epoch (a count) and what the validation of these weights has logged, if there was one.

    Both begin anew with every fit that does not resume.

    Raises:
        ValueError: `best_of` or `loss_of` is logged nowhere, or not by the validation (then it is of other weights); a
            level or `best` is asked for and no validation will run: at the start, or, where only that shows it, at the
            fit's end, with "end" kept.
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
        mode: Literal["max", "min"] = "max",
        name: str | None = None,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode: {mode!r} is neither 'max' nor 'min'")
        self.initial, self.best, self.end, self.best_of, self.loss_of = initial, best, end, best_of, loss_of
        self.mode, self.name = mode, name
        self._loss_levels = tuple(loss_levels)
        self._evaluates = False
        self._begin()

    def _begin(self) -> None:
        self._milestones = Milestones(best=self.best, loss_levels=self._loss_levels, mode=self.mode)
        self._before: dict[str, Tensor] = {}
        self._evaluated: dict[str, Tensor] | None = None  # while a validation runs
        self._bits: list[int] | None = None  # of the weights that were evaluated last
        self._last: dict[str, float] = {}  # the latest validation's epoch and metrics
        self._step = -1  # at which that was
        self._known: list[str] = []  # metrics that a validation has logged
        self._first = -1  # step of this fit; -1 as long as none is made

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Returns the weights kept so far, by milestone: tensors by their names in the state dictionary."""
        return self._milestones.weights

    @property
    def reached(self) -> dict[str, dict[str, float]]:
        """Returns the epoch (a count) and the values logged at each milestone that was reached."""
        return self._milestones.reached

    @property
    def state_key(self) -> str:
        return type(self).__qualname__ if self.name is None else self._generate_state_key(name=self.name)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._evaluates = stage != "fit"  # then a checkpoint's state is not this training's
        if not self._evaluates:
            self._begin()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first = trainer.global_step
        if self._milestones.waits() and (why := _never_validates(trainer)):
            raise self._refusal(why)
        if self.initial and "initial" not in self.weights:  # else a checkpoint has brought it
            self._milestones.keep("initial", _copied(pl_module), {"epoch": trainer.current_epoch})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before, self._evaluated = dict(trainer.callback_metrics), None

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Averages are put in at the start of a validation's epoch and taken out at its end, by callbacks before or
        # behind this one; from the first batch to the last all agree.
        if batch_idx or dataloader_idx or not _counts(trainer):
            return
        self._bits = _bits(pl_module) if self.end else None
        if self._milestones.waits():
            self._evaluated = _copied(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _counts(trainer):
            return
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if v is not self._before.get(k)}
        self._last, self._step = {"epoch": trainer.current_epoch + 1} | logged, trainer.global_step
        self._known += [name for name in logged if name not in self._known]
        for name in self._milestones.due(
            lambda: self._metric(trainer, self.loss_of, logged),
            self.best_of,
            lambda: self._metric(trainer, self.best_of, logged),
        ):
            self._milestones.keep(name, self._weights(pl_module), self._last)
        self._evaluated = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Behind every `on_train_end`, in which averages are put into the module.
        if self.initial and "initial" not in self.weights:  # nothing was trained
            self._milestones.keep("initial", _copied(pl_module), {"epoch": trainer.current_epoch})
        if self.end:
            same = self._step == trainer.global_step and self._bits == _bits(pl_module)
            metrics = (self._last if same else {}) | {"epoch": trainer.current_epoch}
            self._milestones.keep("end", _copied(pl_module), metrics)
        trained = trainer.global_step > self._first >= 0  # -1: nothing was
        # Of weights that are not finite there is nothing to keep: the training has diverged before it was validated.
        if trained and self._step < 0 and self._milestones.waits() and _finite(pl_module):
            raise self._refusal("the fit ended before its first validation")

    def _refusal(self, why: str) -> ValueError:
        asked = "best=True" if self.best else f"loss_levels={self._loss_levels}"
        return ValueError(f"{asked}: {why}, and weights are judged by one; validate, or keep initial= and end= alone")

    def _weights(self, module: pl.LightningModule) -> dict[str, Tensor]:
        return _copied(module) if self._evaluated is None else dict(self._evaluated)  # None: there was no batch

    def _metric(self, trainer: pl.Trainer, name: str, logged: dict[str, float]) -> float:
        """Returns what this validation has logged; NaN where it is one that only some validations log."""
        if name not in logged and name not in self._known:
            why = "logged before the validation, of other weights" if name in trainer.callback_metrics else "not logged"
            raise ValueError(f"metric: {name!r} is {why}; best_of=, loss_of= take one of {', '.join(logged)}")
        return logged.get(name, math.nan)

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "reached": self.reached,
            "last": self._last,
            "step": self._step,
            "bits": self._bits,
            "known": self._known,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._evaluates:
            return
        self._milestones.weights, self._milestones.reached = state_dict["weights"], state_dict["reached"]
        self._last, self._step = state_dict["last"], state_dict["step"]
        self._bits, self._known = state_dict.get("bits"), state_dict.get("known", [])


def _counts(trainer: pl.Trainer) -> bool:
    return not trainer.sanity_checking and trainer.state.fn == TrainerFn.FITTING


def _never_validates(trainer: pl.Trainer) -> str:
    """Says why no validation will run, as far as it is known before the first step; else nothing."""
    if trainer.limit_val_batches == 0:
        return "no validation runs with limit_val_batches=0"
    if not trainer.enable_validation:
        return "no validation runs without a validation loader and a validation_step"
    if trainer.val_dataloaders is not None and not sum(trainer.num_val_batches):  # None: made at the first validation
        return "no validation runs over a loader without a batch"
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every is not None and epochs is not None and 0 <= epochs < every:
        return f"no validation runs with check_val_every_n_epoch={every} in max_epochs={epochs}"
    return ""


def _copied(module: pl.LightningModule) -> dict[str, Tensor]:
    state = module.state_dict().items()  # what `get_extra_state` gives need not be a tensor
    return {name: value.detach().to("cpu", copy=True) for name, value in state if isinstance(value, Tensor)}


def _finite(module: pl.LightningModule) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in module.parameters())


def _bits(module: pl.LightningModule) -> list[int]:
    """Sums of the bits of what a state dictionary holds of weights and buffers: weights that differ, differ in them."""
    held, sums = module.state_dict(), []
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if name in held and value.layout is torch.strided:
            flat = value.detach().reshape(-1)
            flat = torch.view_as_real(flat) if flat.is_complex() else flat
            sums.append(flat.contiguous().view(_BITS[flat.element_size()]).sum(dtype=torch.int64))
    return torch.stack([one.to(sums[0].device) for one in sums]).tolist() if sums else []
