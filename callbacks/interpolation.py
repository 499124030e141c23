"""InterpolationMonitor: the loss on the line from stored weights to the current ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from callbacks.functional import Interpolation, interpolate
from callbacks.functional.inputs import of_all_ranks
from callbacks.functional.paths import BatchNormPolicy
from callbacks.functional.state import plain
from callbacks.measurement import Batches, Loss, Monitor, training_subset


class InterpolationMonitor(Monitor):
    """Logs how the loss runs between, and beyond, reference weights (a = 0) and the current ones (a = 1).

        pl.Trainer(callbacks=[InterpolationMonitor(every_n_epochs=10)])

    Logs `interpolation/barrier`, `interpolation/distance` (|Δθ|), `interpolation/reference_loss`,
    `interpolation/current_loss` (with `…_error`, one standard error over batches) and, for each rise δ,
    `interpolation/width_δ`: the outward distance from the current weights to where the loss has risen by δ (with
    `…_error`, half a point's spacing); where it had not risen at the end of the path `interpolation/width_at_least_δ`
    instead. The whole profiles are in `profiles`.

    Args:
        reference: "initial", the weights at the start of the fit (they are kept in checkpoints), or a state
            dictionary or a checkpoint file.
        alphas: by default 25 points in [-0.5, 2.5], closer to the paper's 61 if given.
        rises: δ.
        others: as for HessianMonitor and `interpolate`.

    `measure(module, batches, reference)` gives an `Interpolation` without a Trainer.
    """

    prefix = "interpolation"

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        reference: str | Path | Mapping[str, Tensor] = "initial",
        alphas: Sequence[float] | None = None,
        rises: Sequence[float] = (0.1, 0.5, 1.0),
        batch_norm: BatchNormPolicy = "re-estimate",
        examples: int = 1_000,
        batch_size: int = 250,
        loss: Loss | None = None,
        batches: Batches = None,
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, loss=loss, batches=batches)
        if isinstance(reference, str | Path) and reference != "initial" and not Path(reference).is_file():
            raise ValueError(f"reference: {str(reference)!r} is neither 'initial' nor a file")
        if not rises or any(not rise > 0 for rise in rises):
            raise ValueError(f"rises: {rises!r} holds no number, or one that is not positive")
        self.reference, self.rises, self.batch_norm = reference, tuple(rises), batch_norm
        self.alphas = [i / 8 - 0.5 for i in range(25)] if alphas is None else list(alphas)
        if not {0.0, 1.0} <= set(self.alphas):
            raise ValueError("alphas: a = 0 and a = 1, the two ends, must be among them")
        self.examples, self.batch_size = examples, batch_size
        self.profiles: list[Interpolation] = []
        self._initial: dict[str, Tensor] | None = None
        self._estimation: list[Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.reference == "initial" and self._initial is None:  # else a checkpoint has brought it
            self._initial = {k: v.detach().to("cpu", copy=True) for k, v in plain(pl_module).state_dict().items()}

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        if self.batches is None:
            self.batches = list(training_subset(trainer, module, self.examples, self.batch_size))
            self._estimation = _of_every_rank(self.batches, self.batch_size)
        reference = self._initial if self.reference == "initial" else self.reference
        assert reference is not None
        profile = self._path(module, self.given_batches(trainer, module) or [], reference, self._estimation)
        self.profiles.append(profile)
        return self._summary(profile)

    def measure(self, module: nn.Module, batches: Any, reference: Any) -> Interpolation:
        """The path from `reference` to the module's own weights."""
        return self._path(module, batches, reference, None)

    def _path(self, module: nn.Module, batches: Any, reference: Any, estimation: list[Any] | None) -> Interpolation:
        return interpolate(
            module,
            self.loss_of(plain(module)),
            batches,
            reference,
            plain(module).state_dict(),
            alphas=self.alphas,
            batch_norm=self.batch_norm,
            estimation=estimation,
        )

    def _summary(self, profile: Interpolation) -> dict[str, float]:
        first, last = self.alphas.index(0.0), self.alphas.index(1.0)
        found = {
            "interpolation/barrier": profile.barrier,
            "interpolation/distance": profile.distance,
            "interpolation/reference_loss": profile.values[first],
            "interpolation/reference_loss_error": profile.error[first],
            "interpolation/current_loss": profile.values[last],
            "interpolation/current_loss_error": profile.error[last],
        }
        for rise in self.rises:
            width = profile.width(2, rise)
            if width.censored:
                found[f"interpolation/width_at_least_{rise:g}"] = width.at_least
            else:
                found[f"interpolation/width_{rise:g}"] = width.value
                found[f"interpolation/width_{rise:g}_error"] = width.error
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"initial": self._initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._initial = state_dict["initial"]


def _of_every_rank(batches: list[tuple[Tensor, Tensor]], batch_size: int) -> list[tuple[Tensor]] | None:
    """All ranks' inputs in the batches one process would have, so that batch norm is re-estimated alike on any number.

    None on one process, which has them already.
    """
    parts = of_all_ranks([inputs.cpu() for inputs, _ in batches])
    if len(parts) == 1:
        return None
    return [(inputs,) for inputs in torch.cat([own for part in parts for own in part]).split(batch_size)]
