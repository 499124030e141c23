"""InterpolationMonitor: the loss on the line from stored weights to the current ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from three_factors.callbacks.functional import Interpolation, interpolate
from three_factors.callbacks.functional.inputs import as_batches, gathered, stored
from three_factors.callbacks.functional.line import BatchNormPolicy, check_policy
from three_factors.callbacks.functional.nests import Unjoinable, cut, joined, size_of
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Reduction, Weights
from three_factors.callbacks.functional.paths import try_path
from three_factors.callbacks.functional.state import plain
from three_factors.callbacks.measurement import Batches, OnError
from three_factors.callbacks.subset_monitor import SubsetMonitor


class InterpolationMonitor(SubsetMonitor):
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
        batch_norm: as for `interpolate`. Where statistics are re-estimated, what comes into the deeper layers depends
            on `batch_size`.
        examples, batch_size: of the subset; see `SubsetMonitor`.
        loss, batch_loss, reduction, weights, batches, name, on_error: see `Monitor`.

    `measure(module, batches, reference)` gives an `Interpolation` without a Trainer.
    """

    kind: ClassVar[str] = "interpolation"

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
        batch_loss: BatchLoss | None = None,
        reduction: Reduction = "mean",
        weights: Weights | None = None,
        batches: Batches = None,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        if isinstance(reference, str | Path) and reference != "initial" and not Path(reference).is_file():
            raise ValueError(f"reference: {str(reference)!r} is neither 'initial' nor a file")
        if not rises or any(not rise > 0 for rise in rises):
            raise ValueError(f"rises: {rises!r} holds no number, or one that is not positive")
        self.reference, self.rises, self.batch_norm = reference, tuple(rises), batch_norm
        self.alphas = [i / 8 - 0.5 for i in range(25)] if alphas is None else list(alphas)
        if not {0.0, 1.0} <= set(self.alphas):
            raise ValueError("alphas: a = 0 and a = 1, the two ends, must be among them")
        if not all(math.isfinite(a) for a in self.alphas):
            raise ValueError(f"alphas: {alphas!r} holds a number that is not finite")
        check_policy(batch_norm)
        super().__init__(
            examples=examples,
            batch_size=batch_size,
            every_n_epochs=every_n_epochs,
            loss=loss,
            batch_loss=batch_loss,
            reduction=reduction,
            weights=weights,
            batches=batches,
            params=None,
            name=name,
            on_error=on_error,
        )

    def _anew(self) -> None:
        super()._anew()
        self.profiles: list[Interpolation] = []
        self._initial: dict[str, Tensor] | None = None
        self._estimation: list[Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.reference == "initial" and self._initial is None:  # else a checkpoint has brought it
            stored_state = plain(pl_module).state_dict().items()
            self._initial = {k: v.detach().to("cpu", copy=True) for k, v in stored_state if isinstance(v, Tensor)}

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        first = self.batches is None
        batches = self.subset(trainer, module)
        if first:
            self._estimation = _of_every_rank(batches, self.batch_size)
        profile = self._path(module, batches, self._reference(), self._estimation, self.alphas)
        self.profiles.append(profile)
        return self._summary(profile)

    def names(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
        found = [f"{self.prefix}/{name}" for name in ("barrier", "distance")]
        found += [f"{self.prefix}/{end}_loss{of}" for end in ("reference", "current") for of in ("", "_error")]
        last = self.history[-1] if self.history else {}
        for rise in self.rises:  # which of them a width would have is not known: the last one's, at first all
            ways = [f"{self.prefix}/width_{name}" for name in (f"{rise:g}", f"{rise:g}_error", f"at_least_{rise:g}")]
            found += [name for name in ways if name in last] or ways
        return found

    def measure(self, module: nn.Module, batches: Any, reference: Any) -> Interpolation:
        """Returns the path from `reference` to the module's own weights."""
        return self._path(module, as_batches(batches), reference, None, self.alphas)

    def tried(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        own = plain(module)
        try_path(own, self.objective(own), batch, self._reference(), self.batch_norm)

    def _reference(self) -> Any:
        return self._initial if self.reference == "initial" else self.reference

    def _path(
        self, module: nn.Module, batches: Any, reference: Any, estimation: list[Any] | None, alphas: Sequence[float]
    ) -> Interpolation:
        objective = self.objective(plain(module))
        return interpolate(
            module,
            objective.loss,
            iter(batches),  # two tensors in a list would be one pair
            reference,
            plain(module).state_dict(),
            batch_loss=objective.batch_loss,
            reduction=objective.reduction,
            weights=objective.weights,
            alphas=alphas,
            batch_norm=self.batch_norm,
            estimation=None if estimation is None else iter(estimation),
        )

    def _summary(self, profile: Interpolation) -> dict[str, float]:
        first, last = self.alphas.index(0.0), self.alphas.index(1.0)
        found = {
            f"{self.prefix}/barrier": profile.barrier,
            f"{self.prefix}/distance": profile.distance,
            f"{self.prefix}/reference_loss": profile.values[first],
            f"{self.prefix}/reference_loss_error": profile.error[first],
            f"{self.prefix}/current_loss": profile.values[last],
            f"{self.prefix}/current_loss_error": profile.error[last],
        }
        for rise in self.rises:
            width = profile.width(2, rise)
            if width.censored:
                found[f"{self.prefix}/width_at_least_{rise:g}"] = width.at_least
            else:
                found[f"{self.prefix}/width_{rise:g}"] = width.value
                found[f"{self.prefix}/width_{rise:g}_error"] = width.error
        return found

    def state_dict(self) -> dict[str, Any]:
        profiles = [asdict(profile) for profile in self.profiles]
        return super().state_dict() | {"initial": self._initial, "profiles": profiles}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._initial = state["initial"]
        self.profiles = [Interpolation(**profile) for profile in state.get("profiles", [])]


def _of_every_rank(batches: list[Any], batch_size: int) -> list[Any] | None:
    """Returns all ranks' batches as one process would have them, so that batch norm is re-estimated alike on any
    number.

    None on one process, which has them already.
    """
    parts = gathered(lambda: [stored(batch, torch.device("cpu"), None) for batch in batches])
    if len(parts) == 1:
        return None
    everything = [batch for part in parts for batch in part]
    try:
        together = joined(everything)
    except Unjoinable:
        return everything
    return [cut(together, i, i + batch_size) for i in range(0, size_of(together), batch_size)]
