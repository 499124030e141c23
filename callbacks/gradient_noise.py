"""GradientNoiseMonitor: the variance of the gradients, the paper's third factor, and whether SGD is stationary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from callbacks.functional import GradientNoise, HessianOperator, gradient_noise, stationarity
from callbacks.functional.fluctuation import Stationarity
from callbacks.functional.inputs import of_all_ranks, size_of
from callbacks.functional.state import plain
from callbacks.measurement import Batches, Loss, Monitor, training_batches

FEWEST = 4  # gradients that a covariance needs
SCALE_INVARIANT = 1e-3  # mean |θ·g| / |θ||g| below this: the loss does not depend on the norm of θ (Euler)


class GradientNoiseMonitor(Monitor):
    """Logs the covariance C of the gradients under training conditions, and Yaida's stationarity ratio.

        pl.Trainer(callbacks=[GradientNoiseMonitor(every_n_epochs=5)])

    Logs, with `…_error`: `gradient_noise/trace` (tr C), `/mean_square` (|∇L|²), `/isotropy`, `/noise_scale` (left out
    where undefined), `/temperature` (n tr C/2q, n = eta/S as trained), `/kurtosis`; `/top_eigenvalue`; with
    `alignment=True` also `/alignment` and `/alignment_lift`. And for every parameter group i
    `gradient_noise/stationarity_i` (1 in the stationary state) where enough steps at constant eta and S have been
    made, and `gradient_noise/weight_drift_i`. `measurements` and `states` keep the whole results.

    Args:
        batches: how many batches of the training loader are measured on (or the batches themselves, or a function
            of the Trainer that gives them). With batch norm an epoch of fewer than 4 batches is not measured, with a
            warning.
        stationarity: follow θ·g and |v|² at every step, two dot products a parameter. SGD only.
        alignment: with the Hessian on the same batches.
    """

    prefix = "gradient_noise"

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        batches: int | Batches = 24,
        loss: Loss | None = None,
        stationarity: bool = True,
        alignment: bool = False,
        seed: int = 0,
        max_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(
            every_n_epochs=every_n_epochs, loss=loss, batches=None if isinstance(batches, int) else batches
        )
        if isinstance(batches, int) and batches < FEWEST:
            raise ValueError(f"batches: {batches} are too few for a covariance; at least {FEWEST}")
        self.number = batches if isinstance(batches, int) else 0
        self.follow, self.alignment, self.seed, self.max_bytes = stationarity, alignment, seed, max_bytes
        self.measurements: list[GradientNoise] = []
        self.states: list[list[Stationarity]] = []
        self._groups: list[_Series] = []

    # -- the covariance

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        given = self.given_batches(trainer, module)
        batches = training_batches(trainer, module, self.number) if given is None else given
        # Lightning's own batches may end with a smaller one.
        sizes = [size_of(b) for b in batches]
        whole = [b for b, s in zip(batches, sizes) if s >= 0.9 * max(sizes)]
        if len(whole) < FEWEST and not self.alone(module):
            rank_zero_warn(f"GradientNoiseMonitor: epoch {trainer.current_epoch} has {len(whole)} batches, too few")
            return self._stationarity()
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        found = self.measure(module, whole, noise_ratio=lr / sum(of_all_ranks(max(sizes))))
        self.measurements.append(found)
        return self._summary(found) | self._stationarity()

    @staticmethod
    def alone(module: nn.Module) -> bool:
        """Whether an example has a gradient of its own: there is no batch norm."""
        return not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())

    def measure(self, module: nn.Module, batches: Any, *, noise_ratio: float | None = None) -> GradientNoise:
        """The noise of any module on any batches."""
        loss, pairs = self.loss_of(plain(module)), list(batches)
        hessian = HessianOperator(module, loss, pairs) if self.alignment else None
        return gradient_noise(
            module, loss, pairs, hessian=hessian, noise_ratio=noise_ratio, seed=self.seed, max_bytes=self.max_bytes
        )

    def _summary(self, found: GradientNoise) -> dict[str, float]:
        values = {"gradient_noise/top_eigenvalue": float(found.top_eigenvalues[0])}
        for name in ("trace", "mean_square", "isotropy", "noise_scale", "temperature", "kurtosis"):
            estimate = getattr(found, name)
            if estimate is not None:
                values[f"gradient_noise/{name}"] = estimate.value
                values[f"gradient_noise/{name}_error"] = estimate.error
        if found.alignment is not None:
            values["gradient_noise/alignment"] = found.alignment.cosine
            values["gradient_noise/alignment_lift"] = found.alignment.lift
        return values

    # -- stationarity

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.follow:
            return
        (optimizer,) = trainer.optimizers if len(trainer.optimizers) == 1 else (None,)
        plain_sgd = isinstance(optimizer, torch.optim.SGD) and not any(
            g["nesterov"] or g["dampening"] or g["maximize"] for g in optimizer.param_groups
        )
        if optimizer is None or not plain_sgd:
            raise ValueError(
                "stationarity: the relation is of one SGD optimizer without Nesterov's or dampened momentum; "
                "pass stationarity=False"
            )
        if not self._groups:
            self._groups = [_Series() for _ in optimizer.param_groups]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for series, group in zip(self._groups, optimizer.param_groups):
            pairs = [(p.detach(), p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                series.before(pairs, float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._groups:
            return
        size, last = size_of(batch), batch_idx + 1 == trainer.num_training_batches
        for series, group in zip(self._groups, trainer.optimizers[0].param_groups):
            buffers = [trainer.optimizers[0].state[p].get("momentum_buffer") for p in group["params"]]
            series.after([b for b in buffers if b is not None], size, last)

    def _stationarity(self) -> dict[str, float]:
        found = [series.judge(self.seed) for series in self._groups]
        self.states.append(found)
        values = {}
        for i, state in enumerate(found):
            if state.verdict in ("stationary", "not stationary"):
                values[f"gradient_noise/stationarity_{i}"] = state.value
                values[f"gradient_noise/stationarity_{i}_error"] = state.error
            values[f"gradient_noise/weight_drift_{i}"] = state.drift
        return {k: v for k, v in values.items() if v == v}

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [series.__dict__ for series in self._groups]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._groups = [_Series(**series) for series in state_dict["groups"]]


@dataclass
class _Series:
    """2θ·g, eta(1+beta)|v|², |θ|² and cos(θ, g) of one parameter group, since eta, S or momentum last changed."""

    rows: list[Tensor] = field(default_factory=list)
    setting: tuple[float, ...] = ()
    size: int = 0
    pending: Tensor | None = None

    def before(self, pairs: list[tuple[Tensor, Tensor]], lr: float, momentum: float, decay: float) -> None:
        if self.setting != (lr, momentum, decay):
            self.rows, self.setting, self.size = [], (lr, momentum, decay), 0
        inner = torch.stack([(p * g).sum(dtype=torch.float64) for p, g in pairs]).sum()
        square = torch.stack([(p * p).sum(dtype=torch.float64) for p, g in pairs]).sum()
        power = torch.stack([(g * g).sum(dtype=torch.float64) for p, g in pairs]).sum()
        cosine = inner.abs() / (square * power).sqrt().clamp(min=1e-300)
        with_decay = power + 2 * decay * inner + decay**2 * square
        self.pending = torch.stack([2 * (inner + decay * square), lr * (1 + momentum) * with_decay, square, cosine])

    def after(self, buffers: list[Tensor], size: int, last: bool) -> None:
        row, self.pending = self.pending, None
        if row is None:  # gradients are being accumulated
            return
        if self.size and abs(size - self.size) > 0.1 * self.size:
            if last:
                return  # the ragged end of an epoch
            self.rows, self.size = [], 0
        self.size = self.size or size
        lr, momentum, _ = self.setting
        if momentum and buffers:
            velocity = torch.stack([(b * b).sum(dtype=torch.float64) for b in buffers]).sum()
            row[1] = lr * (1 + momentum) * velocity
        self.rows.append(row)

    def judge(self, seed: int) -> Stationarity:
        series = torch.stack(self.rows).cpu() if self.rows else torch.zeros(0, 4, dtype=torch.float64)
        decay = self.setting[2] if self.setting else 0.0
        invariant = bool(len(series)) and not decay and float(series[:, 3].mean()) < SCALE_INVARIANT
        return stationarity(series[:, 0], series[:, 1], square_norm=series[:, 2], scale_invariant=invariant, seed=seed)
