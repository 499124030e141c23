"""The loss that is measured: of one batch, whatever a batch is, from the module's output or from the batch as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from three_factors.callbacks.functional.inputs import scalar

Reduction = Literal["mean", "sum", "batch"]
Loss = Callable[[Any, Any], Tensor]
BatchLoss = Callable[[nn.Module, Any], Tensor]
Weights = Callable[[Any], float]


@dataclass(frozen=True)
class Objective:
    """Describes what is measured: a loss of batches, and how it treats the examples in one.

    Attributes:
        loss: loss(output, target), for batches (input, target) or (inputs…, target), with output = module(inputs…).
        batch_loss: f(module, batch), in place of it, for any other batch, any other call of the module; a scalar, or
            a dictionary with one as "loss", as training steps return.
        reduction: "mean" over the examples of a batch, or their "sum"; "batch": a loss that belongs to a batch as a
            whole (contrastive, say), and that of all the data is the plain mean over batches.
        weights: weights(batch), how much a batch weighs in the mean: its number of examples, unless the loss divides
            by something else (targets that are not ignored, sums of class weights).
    """

    loss: Loss | None = None
    batch_loss: BatchLoss | None = None
    reduction: Reduction = "mean"
    weights: Weights | None = None

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.batch_loss is None):
            raise ValueError("loss: give loss(output, target) or batch_loss(module, batch), one of them")
        if self.reduction not in ("mean", "sum", "batch"):
            raise ValueError(f"reduction: {self.reduction!r} is none of 'mean', 'sum', 'batch'")
        if self.weights is not None and self.reduction != "mean":
            raise ValueError(f"weights: are those of a mean; reduction={self.reduction!r} has none")

    def __call__(self, module: nn.Module, batch: Any) -> Tensor:
        """Returns the loss of a batch, ()."""
        if self.batch_loss is not None:
            return scalar(self.batch_loss(module, batch))
        return self.of_output(self.output(module, batch), batch)

    def output(self, module: nn.Module, batch: Any) -> Any:
        """Returns module(inputs…)."""
        return module(*_pair(batch)[0])

    def of_output(self, output: Any, batch: Any) -> Tensor:
        """Returns loss(output, target), ()."""
        assert self.loss is not None
        return scalar(self.loss(output, self.target(batch)))

    def target(self, batch: Any) -> Any:
        """Returns what the output is compared with: the last part of (inputs…, target)."""
        return _pair(batch)[1]


def _pair(batch: Any) -> tuple[Sequence[Any], Any]:
    """Inputs and target. Raises ValueError for a batch that is not made of them."""
    if isinstance(batch, Mapping) or not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(
            f"batches: a {type(batch).__name__} is not (input, target) or (inputs…, target); "
            "give batch_loss=f(module, batch) in place of loss"
        )
    return batch[:-1], batch[-1]
