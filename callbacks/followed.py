"""The parameter groups of an SGD optimizer, each followed step by step for Yaida's relation between θ·g and |v|²."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.model_helpers import is_overridden

from three_factors.callbacks.functional.fluctuation import Stationarity
from three_factors.callbacks.functional.inputs import of_all_ranks
from three_factors.callbacks.series import Series

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

    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begins, or goes on with what a checkpoint had.

        Raises ValueError where the relation does not hold for the optimizer.
        """
        (optimizer,) = trainer.optimizers if len(trainer.optimizers) == 1 else (None,)
        plain_sgd = isinstance(optimizer, torch.optim.SGD) and not any(
            g["nesterov"] or g["dampening"] or g["maximize"] for g in optimizer.param_groups
        )
        if optimizer is None or not plain_sgd:
            raise ValueError(
                "stationarity: the relation is of one SGD optimizer without Nesterov's or dampened momentum; "
                "pass stationarity=False to GradientNoiseMonitor"
            )
        if (trainer.gradient_clip_val or 0) > 0 or is_overridden("configure_gradient_clipping", module):
            rank_zero_warn("GradientNoiseMonitor: gradients are clipped, which the stationarity relation does not know")
            self._leave_off(len(optimizer.param_groups))
        elif len(self.groups) != len(optimizer.param_groups):  # those of a checkpoint may be of other parameters
            self.groups = [Series() for _ in optimizer.param_groups]

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the weights and the gradients that a step is to be made with; a group added since then begins here."""
        if self.groups:
            self.groups += [Series() for _ in optimizer.param_groups[len(self.groups) :]]
        for series, group in zip(self.groups, optimizer.param_groups):
            pairs = [(p.detach(), p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                series.before(pairs, *setting(group))

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes note of a step that was just made, before the gradients are thrown away."""
        for series, group in zip(self.groups, optimizer.param_groups):
            series.stepped([p.grad for p in group["params"] if p.grad is not None], *setting(group))

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


def setting(group: dict[str, Any]) -> tuple[float, float, float]:
    """Returns eta, beta and the weight decay of a parameter group of SGD."""
    return float(group["lr"]), float(group["momentum"]), float(group["weight_decay"])
