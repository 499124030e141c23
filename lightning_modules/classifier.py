"""A network, the mean cross-entropy, and plain SGD: the training that the paper's theory is about."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from three_factors.lightning_modules.criterion import Criterion
from three_factors.lightning_modules.losses import (
    IGNORED,
    DoubleMean,
    check_criterion,
    example_losses,
    which_count,
)
from three_factors.lightning_modules.noise_injection import FromDifference, GradientNoise

Batch = tuple[Tensor, Tensor]
EVALUATED = ("val", "test", "train_subset", "train_clean", "train_wrong")  # what the validation loaders hold, in order


class SGDClassifier(pl.LightningModule):
    """Trains `network` on the mean cross-entropy (or square loss) with SGD at a rate that callbacks may drive.

    Logs, once an epoch: `train/loss` and `train/accuracy` (running means over the epoch's batches, in training
    mode), `val/loss`, `val/accuracy`; `test/…` for a second validation loader or in `trainer.test`, and
    `train_subset/…` for a third; `train_clean/…` and `train_wrong/…` (right and wrong labels, against the label that
    is given) for two more.

    Labels (B,) are numbers of classes. Under cross-entropy -100 leaves an example out of every mean, as torch's
    `ignore_index` does; a batch (of a rank) with nothing else has no mean, but NaN.

    Args:
        network: maps inputs to logits (B, classes).
        lr: learning rate eta.
        momentum: heavy-ball momentum beta in [0, 1).
        weight_decay: L2 coefficient.

    Attributes:
        gradient_noise: what changes the noise of the gradient and leaves its mean; none by default. Noise that is
            made of a difference and added goes with neither accumulated batches nor a gradient scaler, and none
            with labels of -100: ValueError.
        criterion: "cross_entropy"; or "square", half the squared distance of the outputs from the label's indicator,
            whose Hessian in the outputs is the identity. A checkpoint brings its own. ValueError for another one:
            a loss of your own overrides `loss`, and `losses` for evaluations and `gradient_noise`.
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
        self.gradient_noise: GradientNoise | None = None
        self._criterion: Criterion = "cross_entropy"
        self._difference: Tensor | None = None
        self.evaluations = nn.ModuleDict(
            {f"{part}/{what}": DoubleMean() for part in EVALUATED for what in ("loss", "accuracy")}
        )
        # Of an epoch: the sum of the examples' losses, how many were classified right, and how many counted.
        self.epoch_sums = torch.zeros(3, dtype=torch.float64)
        self._counts = False  # whether any batch of the epoch is in them

    @property
    def criterion(self) -> Criterion:
        """Returns the name of the loss that is trained on; what is neither is refused where it is set."""
        return self._criterion

    @criterion.setter
    def criterion(self, value: Criterion) -> None:
        self._criterion = value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "criterion":  # here, since torch registers a module and leaves out the property's setter
            check_criterion(value)
        super().__setattr__(name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss over a batch, a scalar."""
        if self.criterion == "cross_entropy":
            return F.cross_entropy(output, target)
        return self.losses(output, target).mean()

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns the examples' losses, (B,)."""
        return example_losses(self.criterion, output, target)

    def begin_sums(self, batch_idx: int) -> None:
        """Begins an epoch's sums at its first batch, and at the next one where its end was told before it had come.

        At the first also after an epoch whose end Lightning has left out, at a resume.
        """
        if batch_idx == 0 or not self._counts:
            self.epoch_sums, self._counts = self.epoch_sums.to(self.device).zero_(), True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        self.begin_sums(batch_idx)
        inputs, targets = batch
        logits = self.network(inputs)
        loss = self.loss(logits, targets)
        self._accumulate(loss.detach(), logits.detach(), targets)
        share = self._share(which_count(targets).sum()) if self._ranks > 1 else 1.0
        if self.gradient_noise is None:
            return loss * share if self._ranks > 1 else loss
        losses = self.losses(logits, targets)
        total = int(self._global(len(losses))) if self._ranks > 1 else len(losses)
        self._refuse_ignored(targets, total, type(self.gradient_noise).__name__)
        weights = self._local(self.gradient_noise.weights(total, self._step), losses)
        if isinstance(self.gradient_noise, FromDifference):
            signs = self._local(self.gradient_noise.difference(total), losses)
            self._difference = self._gradient((signs * losses).mean() * share)
        # what is minimised, and what is recorded
        return {"loss": (weights * losses).mean() * share, "mean": loss.detach() * share}

    def on_after_backward(self) -> None:
        if self._difference is not None and isinstance(self.gradient_noise, FromDifference):
            self._refuse_scaled_gradients(type(self.gradient_noise).__name__)
            self.gradient_noise.add(self._trained, self._difference, self._step)
            self._difference = None

    def _refuse_ignored(self, targets: Tensor, total: int, noise: str) -> None:
        """Raises ValueError, on all ranks alike, where not all labels of the global batch count.

        The noise's weights are balanced over all examples: over those that count its covariance is another.
        """
        ignored = (~which_count(targets)).sum()
        count = int(self._global(ignored) if self._ranks > 1 else ignored)
        if count:
            raise ValueError(
                f"gradient_noise: {noise} is made of whole batches, and {count} of the {total} labels of this one "
                f"are {IGNORED}"
            )

    def _refuse_scaled_gradients(self, noise: str) -> None:
        """Raises ValueError where Lightning has scaled the gradients that noise of their own size is added to."""
        if self._trainer is None:
            return
        every, scaler = self.trainer.accumulate_grad_batches, getattr(self.trainer.precision_plugin, "scaler", None)
        if every != 1:
            raise ValueError(
                f"gradient_noise: {noise} is added to the gradient of a batch, which accumulate_grad_batches={every} "
                "divides; take larger batches"
            )
        if scaler is not None:
            raise ValueError(
                f"gradient_noise: {noise} is added to the gradient of a batch, which a gradient scaler multiplies; "
                "train in 32-true or bf16-mixed"
            )

    @property
    def _trained(self) -> list[Tensor]:
        return [p for p in self.parameters() if p.requires_grad]

    @property
    def _step(self) -> int:
        return 0 if self._trainer is None else self.trainer.global_step

    def _gradient(self, loss: Tensor) -> Tensor:
        """Returns the gradient of the mean of a loss over ranks, (q,); the graph is kept."""
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, self._trained, retain_graph=True)])
        if self._ranks > 1:
            torch.distributed.all_reduce(flat)
            flat /= self._ranks
        return flat

    @property
    def _ranks(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size

    def _share(self, local: Tensor) -> Tensor:
        """Returns local x ranks / S, which makes DDP's mean over ranks that over the global batch, however split."""
        return local * self._ranks / self._global(local)

    def _global(self, local: int | Tensor) -> Tensor:
        """Returns the sum over ranks, float64 and on the device: nothing waits for it."""
        total = torch.as_tensor(local, device=self.device).to(torch.float64, copy=True)
        torch.distributed.all_reduce(total)
        return total

    def _local(self, of_all: Tensor, losses: Tensor) -> Tensor:
        """Returns this rank's part (local,) of numbers for the global batch, as its plan is split."""
        # as `datamodules.plan.contiguous_shard` has it, which modules do not import
        first = len(of_all) * self.trainer.global_rank // self._ranks if self._ranks > 1 else 0
        return of_all[first : first + len(losses)].to(losses)

    def _accumulate(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        # In place and in few operations: a `self.log` or a torchmetrics update costs more than a small network's step.
        if self.epoch_sums.device != loss.device:  # where no Trainer leads
            self.epoch_sums = self.epoch_sums.to(loss.device)
        counted = which_count(targets).sum()
        self.epoch_sums[0].addcmul_(loss.to(torch.float64), counted.to(torch.float64))
        self.epoch_sums[1].add_((logits.argmax(1) == targets).sum())
        self.epoch_sums[2].add_(counted)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the criterion, and the sums of an epoch that is not over, of every rank.

        One by one, since added up in another order they would differ.
        """
        own = tuple(self.epoch_sums.tolist()) if self._counts else None
        sums: list[Any] = [own] * self._ranks
        if self._ranks > 1:
            torch.distributed.all_gather_object(sums, own)
        checkpoint["epoch_sums"], checkpoint["criterion"] = sums, self.criterion

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes over the criterion, and the sums of an epoch that goes on.

        Raises:
            ValueError: the module was given another criterion than the checkpoint's, or this is none.
        """
        criterion = checkpoint.get("criterion", self.criterion)
        check_criterion(criterion)
        if criterion != self.criterion and self.criterion != "cross_entropy":
            raise ValueError(f"criterion: {self.criterion!r} is not the checkpoint's {criterion!r}")
        self.criterion = criterion
        if self._trainer is None:  # `load_from_checkpoint`: no epoch goes on
            return
        sums = checkpoint.get("epoch_sums", [])
        own = sums[self.trainer.global_rank] if len(sums) == self._ranks else None
        if own is not None:  # the module is moved to its device later
            self.epoch_sums, self._counts = torch.tensor(own, dtype=torch.float64), True

    def on_train_epoch_end(self) -> None:
        if not self._counts:
            return
        sums, self._counts = self.epoch_sums.clone(), False
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        self.log("train/loss", (sums[0] / sums[2]).float(), rank_zero_only=True)
        self.log("train/accuracy", (sums[1] / sums[2]).float(), rank_zero_only=True)

    def _evaluate(self, part: str, batch: Batch) -> None:
        inputs, targets = batch
        logits = self.network(inputs)
        loss, accuracy = (cast(MeanMetric, self.evaluations[f"{part}/{what}"]) for what in ("loss", "accuracy"))
        counted = which_count(targets)
        loss.update(self.losses(logits, targets), counted)
        accuracy.update((logits.argmax(1) == targets).to(logits.dtype), counted)

    def _log_evaluations(self) -> None:
        for name, value in self._evaluated():
            self.log(name, value)

    def _evaluated(self) -> Iterator[tuple[str, Tensor]]:
        metrics = {name: metric for name, metric in self.evaluations.items() if isinstance(metric, MeanMetric)}
        there = [metric.update_called for metric in metrics.values()]
        # A rank without examples of a part computes its mean with the others, who wait for it: in `evaluate`, and in a
        # validation that has batches of another part for it. Of one that has none Lightning leaves out the hook.
        if self._ranks > 1:
            anywhere = torch.tensor(there, device=self.device, dtype=torch.int32)
            torch.distributed.all_reduce(anywhere)
            there = anywhere.bool().tolist()
        for called, (name, metric) in zip(there, metrics.items()):
            if called:
                if not metric.update_called:
                    metric.update(torch.empty(0, device=self.device))
                yield name, metric.compute()
                metric.reset()

    def evaluate(self, loaders: Iterable[Iterable[Batch]], parts: Collection[str] = EVALUATED) -> dict[str, float]:
        """Returns what a validation with these loaders would log, between two steps, and leaves everything as it was.

        A part without examples has no entry. On several ranks all must come here. What a loader raises is raised, and
        nothing of the evaluation that it broke off is left.

        Args:
            loaders: those of a validation, in its order.
            parts: which of them are evaluated.
        """
        modes = [(part, part.training) for part in self.modules()]
        try:
            self.eval()
            with torch.no_grad():
                for name, loader in zip(EVALUATED, loaders):
                    for batch in loader if name in parts else ():
                        self._evaluate(name, batch)
            return {name: float(value) for name, value in self._evaluated()}
        finally:
            for module, mode in modes:
                module.training = mode
            self._forget_evaluations()

    def _forget_evaluations(self) -> None:
        """Takes out what is left of an evaluation that was broken off."""
        for metric in cast(Iterable[MeanMetric], self.evaluations.values()):
            if metric.update_called:
                metric.reset()

    def on_validation_epoch_start(self) -> None:
        self._forget_evaluations()

    def on_test_epoch_start(self) -> None:
        self._forget_evaluations()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(EVALUATED[dataloader_idx], batch)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluations()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        self._log_evaluations()

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Returns the logits (B, classes) of a batch of images, with or without their labels."""
        return self.network(batch if isinstance(batch, Tensor) else batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
