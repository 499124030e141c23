"""The losses of examples, which of them count, and means in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric

from three_factors.lightning_modules.criterion import Criterion

IGNORED = -100  # the label of examples that count nowhere: torch's `ignore_index`


def example_losses(criterion: Criterion, output: Tensor, target: Tensor) -> Tensor:
    """Returns the losses of examples, (...), of outputs (..., classes) and labels (...).

    Raises ValueError for another criterion.
    """
    check_criterion(criterion)
    if criterion == "cross_entropy":
        flat = F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
        return flat.view(target.shape)
    output = output.to(torch.promote_types(output.dtype, torch.float32))  # as autocast has cross-entropy
    return (output - F.one_hot(target, output.shape[-1]).to(output.dtype)).square().sum(-1) / 2


def which_count(targets: Tensor) -> Tensor:
    """Returns which examples count, bool (B,)."""
    return targets.long() != IGNORED  # of 8 bits, -100 would be 156


def check_criterion(value: object) -> None:
    """Raises ValueError for what is the name of no loss."""
    if value in get_args(Criterion):
        return
    neither = "is neither 'cross_entropy' nor 'square'"
    if isinstance(value, str):
        raise ValueError(f"criterion: {value!r} {neither}")
    raise ValueError(f"criterion: a {type(value).__name__} {neither}; a loss of your own overrides `loss`")


class DoubleMean(MeanMetric):
    """A mean whose sums are of float64, wherever it is moved: torchmetrics forgets the type on the way to a device."""

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")
        self.set_dtype(torch.float64)

    def _apply(self, fn: Any, exclude_state: Sequence[str] = "") -> Any:
        moved = super()._apply(fn, exclude_state)
        self._dtype = self.mean_value.dtype
        return moved

    def update(self, value: Any, weight: Any = None) -> None:
        """Adds values (...) with weights (...), 1 by default, which torchmetrics forgets beside "disable"."""
        value = value.to(self.dtype)
        self.mean_value += (value if weight is None else value * weight.to(self.dtype)).sum()
        self.weight += value.numel() if weight is None else weight.to(self.dtype).sum()
