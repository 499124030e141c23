"""What a noise's shape takes from the Hessian, measured anew while the run trains."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from three_factors.callbacks.functional import GGNOperator, HessianOperator, measuring, top_eigenvalues, trace
from three_factors.lightning_modules.noise_injection import Renewed
from three_factors.reproduce.engine.contract.noise import Renewal

TOLERANCE = 0.05  # of an eigenvalue: its vector only parts the noise in two
TRACE_TOLERANCE = 0.05
PAIRS = 32  # of half batches, of which tr(HC)/tr(C) is an average
INSIDE, LIFT = "train/noise_inside", "train/noise_lift"


class Renewing(pl.Callback):
    """Renews directions or lift at the starts of epochs, in train mode on a fixed training subset.

    They are in the checkpoints, since they are of weights that a resumed training no longer has. Logs what is in force:
    the share of tr C that lies along the directions, or the lift.

    Args:
        plan: how, and at the start of which epochs.
        what: "directions" or "lift".
        renewed: is set.
        batch_size: S, of the half batches.
    """

    def __init__(self, plan: Renewal, what: Literal["directions", "lift"], renewed: Renewed, batch_size: int) -> None:
        self.plan, self.what, self.renewed, self.batch_size = plan, what, renewed, batch_size
        self._epoch, self._value = -1, 0.0  # of the last renewal, and what is logged of it

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.due(trainer.current_epoch):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            module: Any = pl_module
            kind = HessianOperator if self.what == "directions" else GGNOperator
            images = data.measurement_batches(self.plan.examples, self.plan.batch_size)
            halves = self._halves(module, data.drawn_batches(PAIRS, self.batch_size))
            self.renew(trainer.current_epoch, kind(module, module.loss, images, training=True), halves)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not at its start, which an epoch that is resumed has not.
        for name, value in self.logged().items():
            pl_module.log(name, value)

    def due(self, epoch: int) -> bool:
        """Tells whether an epoch begins with a renewal; not again where it is resumed within."""
        return epoch != self._epoch and self.plan.due(epoch)

    def renew(self, epoch: int, operator: Any, halves: Tensor) -> None:
        """Renews what is in force from the start of an epoch.

        Args:
            operator: in train mode: the Hessian for directions, the Gauss-Newton matrix for a lift.
            halves: (g1 - g2)/2 of `PAIRS` batches, (batches, q).
        """
        self._epoch = epoch
        squares = halves.double().square().sum()
        if self.what == "directions":
            count = min(self.plan.eigenvectors, operator.num_params)
            vectors = top_eigenvalues(operator, count, TOLERANCE).vectors
            self.renewed.directions = vectors
            self._value = float((halves @ vectors).double().square().sum() / squares)
        else:  # the Gauss-Newton part: with batch norm tr H may be negative, and no noise is isotropic then
            curved = (halves * operator.matmat(halves.T).T).double().sum()
            self.renewed.lift = self._value = (
                operator.num_params * float(curved / squares) / trace(operator, TRACE_TOLERANCE).value
            )

    def logged(self) -> dict[str, float]:
        """Returns what a row says of it."""
        return {INSIDE if self.what == "directions" else LIFT: self._value}

    @staticmethod
    def _halves(module: Any, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns (g1 - g2)/2 of each batch's halves in train mode, (batches, q)."""
        found = []
        with measuring(module, training=True):
            for images, labels in batches:
                half = len(labels) // 2
                pair = [
                    HessianOperator(module, module.loss, [(images[part], labels[part])], training=True).gradient()
                    for part in (slice(half), slice(half, None))
                ]
                found.append((pair[0] - pair[1]) / 2)
        return torch.stack(found)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "value": self._value,
            "directions": self.renewed.directions,
            "lift": self.renewed.lift,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch, self._value = state_dict["epoch"], state_dict["value"]
        directions = state_dict["directions"]
        self.renewed.directions = None if directions is None else directions.clone()
        self.renewed.lift = state_dict["lift"]
