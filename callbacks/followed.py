"""The parameter groups of an SGD optimizer, each followed step by step for Yaida's relation between θ·g and |v|²."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities import rank_zero_warn

from three_factors.callbacks.functional.fluctuation import Stationarity
from three_factors.callbacks.functional.inputs import of_all_ranks
from three_factors.callbacks.made_steps import clips
from three_factors.callbacks.series import Series, Setting

CLIPPED = Stationarity(math.nan, math.inf, -math.inf, math.inf, 0, "clipped", math.nan, math.nan)


class Followed:
    """Follows the groups of a Trainer's one SGD optimizer, unless gradients change after they could be seen.

    Attributes:
        groups: a series each; none where they are not followed.
        clipped: how many groups are left off, since their gradients are changed.
    """

    def __init__(self) -> None:
        self.groups: list[Series] = []
        self.clipped = 0
        self._optimizer: torch.optim.Optimizer | None = None

    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begins, or goes on with what a checkpoint had.

        Raises ValueError where the relation does not hold for the optimizer.
        """
        self._optimizer = optimizer = plain_sgd(trainer.optimizers)
        if clips(trainer, module):
            rank_zero_warn("GradientNoiseMonitor: gradients are clipped, which the stationarity relation does not know")
            self._leave_off(len(optimizer.param_groups))
        elif len(self.groups) != len(optimizer.param_groups):  # those of a checkpoint may be of other parameters
            self.groups = [Series() for _ in optimizer.param_groups]

    def before_step(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> None:
        """Takes the weights and the gradients that a step is to be made with.

        A group that was added, and all of an optimizer that was put in the other's place, begin here. Raises
        ValueError where the relation does not hold any more, and follows none of them from then on.
        """
        if not self.groups:
            return
        kept, self.groups = self.groups, []
        plain_sgd([optimizer, *trainer.optimizers[1:]])  # as many as there are by now
        if optimizer is self._optimizer:
            self.groups = kept
        self._optimizer = optimizer
        self.groups += [Series() for _ in optimizer.param_groups[len(self.groups) :]]
        for series, group in zip(self.groups, optimizer.param_groups):
            pairs = [(p.detach(), p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                series.before(pairs, setting(group))

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes note of a step that was just made, before the gradients are thrown away."""
        if optimizer is not self._optimizer:
            return
        for series, group in zip(self.groups, optimizer.param_groups):
            series.stepped([p.grad for p in group["params"] if p.grad is not None], setting(group))

    def after_batch(self, optimizer: torch.optim.Optimizer, examples: int, *, last: bool) -> None:
        """Takes over the step that a batch has ended with, if any; `examples` are this rank's, `last` of the epoch."""
        for series, group in zip(self.groups, optimizer.param_groups):
            buffers = [optimizer.state.get(p, {}).get("momentum_buffer") for p in group["params"]]
            series.after([b for b in buffers if b is not None], examples, last)

    def settle(self) -> bool:
        """Takes the sizes of an epoch's steps over all ranks; tells whether gradients were found to be changed.

        All ranks come here. Groups whose gradients are changed are followed no longer.
        """
        changed = any(bool(series.changed) for series in self.groups)
        ranks = of_all_ranks((changed, [[size for size, _ in series.recent] for series in self.groups]))
        for i, series in enumerate(self.groups):
            series.settle([sum(parts) for parts in zip(*(sizes[i] for _, sizes in ranks))])
        if any(changed for changed, _ in ranks):
            self._leave_off(len(self.groups))
            return True
        return False

    def judged(self, seed: int) -> list[Stationarity]:
        """Returns what is found of every group."""
        return [series.judge(seed) for series in self.groups] or [CLIPPED] * self.clipped

    def state(self) -> list[dict[str, Any]]:
        return [series.state() for series in self.groups]

    def restore(self, state: list[dict[str, Any]]) -> None:
        self.groups = [Series(len(one["table"]), **one) for one in state]

    def _leave_off(self, groups: int) -> None:
        self.groups, self.clipped = [], groups


def plain_sgd(optimizers: Sequence[Any]) -> torch.optim.SGD:
    """Returns the one optimizer of these; raises ValueError where the relation does not hold for its steps."""
    (optimizer,) = optimizers if len(optimizers) == 1 else (None,)
    if isinstance(optimizer, LightningOptimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.SGD) or any(
        group["nesterov"] or group["dampening"] or group["maximize"] for group in optimizer.param_groups
    ):
        raise ValueError(
            "stationarity: the relation is of one SGD optimizer without Nesterov's or dampened momentum; "
            "pass stationarity=False to GradientNoiseMonitor"
        )
    return optimizer


def setting(group: dict[str, Any]) -> Setting:
    """Returns what the series of a parameter group of SGD goes by."""
    return Setting(
        float(group["lr"]),
        float(group["momentum"]),
        float(group["weight_decay"]),
        float(group["dampening"]),
        bool(group["nesterov"]),
        bool(group["maximize"]),
        tuple(0 if p.grad is None else p.numel() for p in group["params"]),
    )
