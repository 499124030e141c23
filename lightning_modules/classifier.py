"""A network, the mean cross-entropy, and plain SGD: the training that the paper's theory is about."""

from __future__ import annotations

import math
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

Batch = tuple[Tensor, Tensor]
EVALUATED = ("val", "test", "train_subset", "train_clean", "train_wrong")  # what the validation loaders hold, in order


class SGDClassifier(pl.LightningModule):
    """Trains `network` on the mean cross-entropy with SGD at a learning rate that callbacks may drive.

    Logs, once an epoch: `train/loss` and `train/accuracy` (running means over the epoch's batches, in training
    mode), `val/loss`, `val/accuracy`; `test/…` for a second validation loader or in `trainer.test`, and
    `train_subset/…` for a third; `train_clean/…` and `train_wrong/…` (right and wrong labels, against the label that
    is given) for two more.

    Args:
        network: maps inputs to logits (B, classes).
        lr: learning rate eta.
        momentum: heavy-ball momentum beta in [0, 1).
        weight_decay: L2 coefficient.

    Attributes:
        half_batch_factor: a, with which the gradients g1 and g2 of the two halves of a batch are combined to
            (g1 + g2)/2 + a (g1 - g2)/2: the same mean, and 1 + a^2 times the covariance. 0 is SGD. With a^2 = 2l - 1,
            eta/l and batches of 2S it is SVAG, whose trajectory keeps its law as l grows (Li, Malladi, Arora 2021,
            eq. 9). In train mode batch norm couples the halves, unless its ghost batches are halves or parts of them.
    """

    def __init__(self, network: nn.Module, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__()
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: {value!r} is not a non-negative finite number")
        if momentum >= 1:
            raise ValueError(f"momentum: {momentum!r} is not below 1")
        self.network = network
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.half_batch_factor = 0.0
        self.evaluations = nn.ModuleDict(
            {
                f"{part}/{what}": MeanMetric(nan_strategy="disable")
                for part in EVALUATED
                for what in ("loss", "accuracy")
            }
        )
        self._loss_sum: Tensor | None = None
        self._correct: Tensor | None = None
        self._seen = 0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over a batch, a scalar."""
        return F.cross_entropy(output, target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        inputs, targets = batch
        logits = self.network(inputs)
        loss = self.loss(logits, targets)
        self._accumulate(loss.detach(), logits.detach(), targets)
        share = self._share(len(targets)) if self._ranks > 1 else 1.0
        if not self.half_batch_factor:
            return loss * share if self._ranks > 1 else loss
        losses = F.cross_entropy(logits, targets, reduction="none")
        weighted = (self._half_batch_weights(losses) * losses).mean()
        return {"loss": weighted * share, "mean": loss.detach() * share}  # what is minimised, and what is recorded

    @property
    def _ranks(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size

    def _share(self, local: int) -> Tensor:
        """local x ranks / S: makes DDP's mean over ranks the mean over the global batch, however S was split."""
        return local * self._ranks / self._global_batch_size(local)

    def _global_batch_size(self, local: int) -> Tensor:
        """S, float64 and on the device: nothing waits for it."""
        total = torch.tensor(float(local), device=self.device, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return total

    def _half_batch_weights(self, losses: Tensor) -> Tensor:
        """Weights (local,) of this rank's losses: 1 + a in the first half of the global batch, 1 - a in the other.

        Raises ValueError for an odd global batch, which has no halves.
        """
        local, a = len(losses), self.half_batch_factor
        total = int(self._global_batch_size(local)) if self._ranks > 1 else local
        if total % 2:
            raise ValueError(f"batch_size: {total} is odd, and half_batch_factor needs two halves")
        first = total * self.trainer.global_rank // self._ranks if self._ranks > 1 else 0  # as the plan is split
        position = torch.arange(first, first + local, device=self.device)
        return torch.where(position < total // 2, losses.new_tensor(1 + a), losses.new_tensor(1 - a))

    def _accumulate(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        # In place and in few operations: a `self.log` or a torchmetrics update costs more than a small network's step.
        if self._loss_sum is None or self._correct is None:
            self._loss_sum = torch.zeros((), dtype=torch.float64, device=loss.device)
            self._correct = torch.zeros((), dtype=torch.int64, device=loss.device)
        self._loss_sum.add_(loss, alpha=len(targets))
        self._correct.add_((logits.argmax(1) == targets).sum())
        self._seen += len(targets)

    def on_train_epoch_start(self) -> None:
        self._loss_sum = self._correct = None
        self._seen = 0

    def on_train_epoch_end(self) -> None:
        if self._loss_sum is None or self._correct is None:
            return
        sums = torch.stack([self._loss_sum, self._correct.double(), self._loss_sum.new_tensor(self._seen)])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        self.log("train/loss", (sums[0] / sums[2]).float(), rank_zero_only=True)
        self.log("train/accuracy", (sums[1] / sums[2]).float(), rank_zero_only=True)

    def _evaluate(self, part: str, batch: Batch) -> None:
        inputs, targets = batch
        logits = self.network(inputs)
        loss, accuracy = (cast(MeanMetric, self.evaluations[f"{part}/{what}"]) for what in ("loss", "accuracy"))
        loss.update(F.cross_entropy(logits, targets, reduction="none"))
        accuracy.update((logits.argmax(1) == targets).to(logits.dtype))

    def _log_evaluations(self) -> None:
        for name, metric in self.evaluations.items():
            if isinstance(metric, MeanMetric) and metric.update_called:
                self.log(name, metric.compute())
                metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(EVALUATED[dataloader_idx], batch)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluations()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        self._log_evaluations()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
