"""The steps that a training has really made: with which learning rates, and over how many examples.

Learning rates are read at the step itself: by the end of a batch, or of an epoch, Lightning has let the schedulers set
those of the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from three_factors.callbacks.functional.state import plain
from three_factors.callbacks.optimizer_steps import Steps, moved, smallest_gradient


class MadeStep(NamedTuple):
    """A step of optimizer number `optimizer`, at the `rates` of its groups (see `noise_rates`), which saw so many
    `examples` of this rank.
    """

    optimizer: int
    rates: list[float]
    examples: int


class FollowsSteps(pl.Callback):
    """Notes the learning rates of the last step that each optimizer has made in the epoch."""

    def __init__(self) -> None:
        self._hooks = Steps(self._before_step, self._after_step)
        self._watched: Any = None  # the Trainer's own list
        self._optimizers: list[Optimizer] = []
        self._forget_steps()

    def _forget_steps(self) -> None:
        self._stepping_epoch = -1
        self._rates: dict[int, list[float]] = {}  # by the number of the optimizer

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_over(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.optimizers is not self._watched:  # somebody has put others in their place
            self._take_over(trainer)
        self._hooks.new_batch()
        if batch_idx == 0 or self._stepping_epoch != trainer.current_epoch:
            self._begin_steps(trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave()  # there is no teardown then

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave()

    def _take_over(self, trainer: pl.Trainer) -> None:
        self._watched = trainer.optimizers
        self._optimizers = [one.optimizer if isinstance(one, LightningOptimizer) else one for one in self._watched]
        # what is no torch.optim.Optimizer cannot tell of its steps, and what goes by them is left out
        self._hooks.watch(one for one in self._optimizers if hasattr(one, "_optimizer_step_pre_hooks"))

    def _leave(self) -> None:
        self._hooks.leave()
        self._watched, self._optimizers = None, []

    def _begin_steps(self, epoch: int) -> None:
        self._forget_steps()
        self._stepping_epoch = epoch

    def _before_step(self, optimizer: Optimizer) -> None:
        """Waits: the rates are read once the step is made."""

    def _after_step(self, optimizer: Optimizer) -> None:
        if moved(optimizer):
            number = next(i for i, one in enumerate(self._optimizers) if one is optimizer)
            self._rates[number] = [float(group["lr"]) for group in optimizer.param_groups]
            self.stepped(optimizer, number)

    def stepped(self, optimizer: Optimizer, number: int) -> None:
        """Takes note of a step that was just made, before the gradients are thrown away."""

    def last_rates(self, trainer: pl.Trainer, module: nn.Module, params: Iterable[str] | None) -> set[float]:
        """Returns the learning rates of the measured parameters' last steps in the epoch that ends.

        An empty set where one of the optimizers that have them has made no step.
        """
        groups = measured_groups(trainer, module, params)
        if self._stepping_epoch != trainer.current_epoch or not all(number in self._rates for number in groups):
            return set()
        return {rate for number, of in groups.items() for rate in rates_of(of, self._rates[number])}

    def steps_state(self) -> dict[str, Any]:
        """Returns what a checkpoint within an epoch, or at its last batch, is to hold: {} before the first step."""
        if not self._rates:
            return {}
        rates = {number: list(of) for number, of in self._rates.items()}
        return {"rates": {"epoch": self._stepping_epoch, "of": rates}}

    def restore_steps(self, state: dict[str, Any]) -> None:
        """Takes over what `steps_state` had."""
        held = state.get("rates", {"epoch": -1, "of": {}})
        self._stepping_epoch, self._rates = held["epoch"], {number: list(of) for number, of in held["of"].items()}


def measured_groups(trainer: pl.Trainer, module: nn.Module, params: Iterable[str] | None) -> dict[int, list[int]]:
    """Returns for each optimizer that has measured parameters, by its number, the groups that they are in."""
    names = None if params is None else set(params)
    named = plain(module).named_parameters()
    measured = {id(p) for n, p in named if (p.requires_grad if names is None else n in names)}
    found: dict[int, list[int]] = {}
    for number, optimizer in enumerate(trainer.optimizers):
        for i, group in enumerate(optimizer.param_groups):
            if any(id(p) in measured for p in group["params"]):
                found.setdefault(number, []).append(i)
    return found


def rates_of(groups: Collection[int], rates: list[float]) -> set[float]:
    """Returns the learning rates of these groups; of one that was added since then there is none."""
    return {rates[i] for i in groups if i < len(rates)}


def clips(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Tells whether Lightning is told to clip the gradients of a step, which then is not eta times the gradient."""
    return (trainer.gradient_clip_val or 0) > 0 or is_overridden("configure_gradient_clipping", module)


def noise_rates(optimizer: Optimizer) -> list[float]:
    """Returns for each group of SGD what its noise ratio has in place of eta: eta/(1 - beta).

    Appendix E, with its erratum: momentum makes n the n of eta/(1 - beta) without. Dampened by d it moves the weights
    1 - d times as far. An empty list for any other optimizer and for Nesterov's momentum, whose temperature this is
    not.
    """
    if not isinstance(optimizer, SGD):
        return []
    groups = optimizer.param_groups
    if any(group["nesterov"] or group["maximize"] or not group["momentum"] < 1 for group in groups):
        return []
    return [
        float(group["lr"]) * (1 - group["dampening"]) / (1 - group["momentum"])
        if group["momentum"]
        else float(group["lr"])
        for group in groups
    ]


class Gathered:
    """Counts the examples whose gradients wait for an optimizer's next step, whoever adds them up.

    A gradient that waits is the same tensor until it is set to None; it has been written to if there is more in it.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._gradient: Tensor | None = None
        self._version = 0

    def step(self, optimizer: Optimizer, *, kept: bool) -> tuple[int, bool]:
        """Returns how many examples of earlier batches a step has seen, and whether it saw the batch under way.

        `kept`: Lightning says that it adds this batch's gradient to those that wait.
        """
        found = self._look(optimizer, kept)
        self.examples = 0
        return found

    def end(self, optimizer: Optimizer, size: int, *, kept: bool) -> None:
        """Takes note that a batch of `size` examples is over."""
        before, added = self._look(optimizer, kept)
        self.examples = before + size * added

    def _look(self, optimizer: Optimizer, kept: bool) -> tuple[int, bool]:
        gradient = smallest_gradient(optimizer)
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        version = sum(p.grad._version for p in parameters if p.grad is not None)
        same = gradient is not None and gradient is self._gradient
        added = gradient is not None and not (same and version == self._version)
        self._gradient, self._version = gradient, version
        return (self.examples if same or kept else 0), added
