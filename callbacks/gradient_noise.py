"""GradientNoiseMonitor: the variance of the gradients, the paper's third factor, and whether SGD is stationary."""

from __future__ import annotations

import math
from collections import Counter
from itertools import zip_longest
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from callbacks.functional import GradientNoise, HessianOperator, gradient_noise
from callbacks.functional.fluctuation import Stationarity
from callbacks.functional.inputs import distributed, of_all_ranks, size_of
from callbacks.functional.noise import FEWEST
from callbacks.functional.state import plain
from callbacks.measurement import Batches, Loss, Monitor, training_batches
from callbacks.series import Series

ALWAYS = ("trace", "mean_square", "isotropy", "temperature", "kurtosis")  # logged at every measurement
CLIPPED = Stationarity(math.nan, math.inf, -math.inf, math.inf, 0, "clipped", math.nan, math.nan)


class GradientNoiseMonitor(Monitor):
    """Logs the covariance C of the gradients under training conditions, and Yaida's stationarity ratio.

        pl.Trainer(callbacks=[GradientNoiseMonitor(every_n_epochs=5)])

    Logs, with `…_error`: `gradient_noise/trace` (tr C), `/mean_square` (|∇L|²), `/isotropy`, `/noise_scale` (left out
    where undefined), `/temperature` (n tr C/2q, n = eta/S as trained, S over all ranks and accumulated batches),
    `/kurtosis`; `/top_eigenvalue` (without an error: see `GradientNoise`); with `alignment=True` also `/alignment` and
    `/alignment_lift`. And for every parameter group i `gradient_noise/stationarity_i` (1 in the stationary state)
    where enough steps at constant eta and S have been made, and `gradient_noise/weight_drift_i`. `measurements` and
    `states` keep the whole results. What cannot be measured is logged as nan, with a warning the first time: weights
    or gradients that are not finite, gradients without noise (their ratios), or too few batches.

    Under batch norm C is that of batches of one size: the most frequent S over all ranks, or, where a schedule changes
    it, that to which most batches can be cut by at most a tenth; batches that are smaller are left out.

    Args:
        batches: how many batches of the training loader are measured on (or the batches themselves, or a function
            of the Trainer that gives them), 5 or more.
        stationarity: follow θ·g and |v|² at every step, two dot products a parameter. SGD only. Not where gradients
            are clipped (`gradient_clip_val`, `configure_gradient_clipping`), which happens after they can be seen:
            then with a warning the verdict is "clipped" and nothing is logged of it.
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
        self._groups: list[Series] = []
        self._clipped = 0  # groups that are not followed
        self._gathered, self._stepped = 0, False  # examples since the last step, on this rank
        self._told = False

    # -- the covariance

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        return self._measured_noise(trainer, module) | self._stationarity()

    def _measured_noise(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        given = self.given_batches(trainer, module)
        batches = training_batches(trainer, module, self.number) if given is None else given
        # Decided from the sizes on all ranks: all of them measure, or none.
        ranks = of_all_ranks([size_of(b) for b in batches])
        sizes = [sum(parts) for parts in zip_longest(*ranks, fillvalue=0)]
        size = common_size(sizes)
        fitting = [s for s in sizes if fits(s, size)]
        if self.alone(module):
            gradients = sum(sizes)
        else:
            gradients, batches = len(fitting), share(batches, ranks, size)
        if gradients < FEWEST:
            what = "examples" if self.alone(module) else f"batches of one size among {len(sizes)}"
            self._tell(trainer, f"{gradients} {what}, fewer than the {FEWEST} that a covariance needs")
            return self._undefined()
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        step = sum(fitting) / len(fitting) * trainer.accumulate_grad_batches
        found = self.measure(module, batches, noise_ratio=lr / step)
        if not math.isfinite(found.value):
            self._tell(trainer, "gradients are not finite")
        elif math.isnan(found.isotropy.value):
            self._tell(trainer, "gradients do not differ")
        self.measurements.append(found)
        return self._summary(found)

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
        values = {"top_eigenvalue": float(found.top_eigenvalues[0])}
        for name in (*ALWAYS, "noise_scale"):
            estimate = getattr(found, name)
            if estimate is not None:
                values |= {name: estimate.value, f"{name}_error": estimate.error}
        if found.alignment is not None:
            a = found.alignment
            values |= {"alignment": a.cosine, "alignment_error": a.cosine_error}
            values |= {"alignment_lift": a.lift, "alignment_lift_error": a.lift_error}
        return {f"gradient_noise/{name}": value for name, value in values.items()}

    def _undefined(self) -> dict[str, float]:
        names = [*ALWAYS, *(("alignment", "alignment_lift") if self.alignment else ())]
        names += [f"{name}_error" for name in names]
        return {f"gradient_noise/{name}": math.nan for name in ("top_eigenvalue", *names)}

    def _nothing(self, trainer: pl.Trainer) -> dict[str, float]:
        return super()._nothing(trainer) | self._undefined()  # also where there was no measurement before

    def _tell(self, trainer: pl.Trainer, why: str) -> None:
        if not self._told:
            rank_zero_warn(f"GradientNoiseMonitor: epoch {trainer.current_epoch + 1}: {why}; what is undefined is nan")
        self._told = True

    # -- stationarity

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clipped, self._gathered, self._stepped = 0, 0, False
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
        if (trainer.gradient_clip_val or 0) > 0 or is_overridden("configure_gradient_clipping", pl_module):
            rank_zero_warn("GradientNoiseMonitor: gradients are clipped, which the stationarity relation does not know")
            self._groups, self._clipped = [], len(optimizer.param_groups)
        elif not self._groups:
            self._groups = [Series() for _ in optimizer.param_groups]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._stepped = True
        for series, group in zip(self._groups, optimizer.param_groups):
            pairs = [(p.detach(), p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                series.before(pairs, float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._groups:
            return
        self._gathered += size_of(batch)
        if not self._stepped:  # gradients are being accumulated
            return
        size, last = self._gathered, batch_idx + 1 == trainer.num_training_batches
        self._gathered, self._stepped = 0, False
        state = trainer.optimizers[0].state
        for series, group in zip(self._groups, trainer.optimizers[0].param_groups):
            buffers = [state.get(p, {}).get("momentum_buffer") for p in group["params"]]
            series.after([b for b in buffers if b is not None], size, last)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._groups:
            ranks = of_all_ranks([[size for size, _ in series.recent] for series in self._groups])
            for i, series in enumerate(self._groups):
                series.settle([sum(parts) for parts in zip(*(rank[i] for rank in ranks))])
        super().on_train_epoch_end(trainer, pl_module)

    def _stationarity(self) -> dict[str, float]:
        found = [series.judge(self.seed) for series in self._groups] or [CLIPPED] * self._clipped
        self.states.append(found)
        values = {}
        for i, state in enumerate(found):
            if state.verdict in ("stationary", "not stationary"):
                values[f"gradient_noise/stationarity_{i}"] = state.value
                values[f"gradient_noise/stationarity_{i}_error"] = state.error
            values[f"gradient_noise/weight_drift_{i}"] = state.drift
        return {k: v for k, v in values.items() if v == v}

    def state_dict(self) -> dict[str, Any]:
        return {"groups": [series.state() for series in self._groups]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._groups = [Series(len(state["table"]), **state) for state in state_dict["groups"]]


def fits(size: int, common: int) -> bool:
    """Whether a batch of `size` can be cut to `common` by at most a tenth."""
    return 0 < 9 * size <= 10 * common <= 10 * size


def common_size(sizes: list[int]) -> int:
    """The size to measure batches of `sizes` at: the most frequent; if they vary, that which the most can be cut to."""
    if not sizes:
        return 0
    counts = Counter(sizes)
    most = max(counts, key=lambda s: (counts[s], s))
    if counts[most] >= max(FEWEST, len(sizes) / 2):
        return most
    return max(counts, key=lambda s: (sum(fits(other, s) for other in sizes), s))


def share(batches: list[Any], ranks: list[list[int]], common: int) -> list[Any]:
    """This rank's parts of the batches of about the `common` size, cut so that over all ranks they have that size.

    `ranks`: the sizes of each rank's parts. The examples of a batch are in random order: a part is a smaller batch.
    """
    rank = torch.distributed.get_rank() if distributed() else 0
    found = []
    for batch, *parts in zip(batches, *(sizes + [0] * len(batches) for sizes in ranks)):
        whole, before = sum(parts), sum(parts[:rank])
        if fits(whole, common):
            upto = before + parts[rank]
            found.append(_cut(batch, upto * common // whole - before * common // whole))
    return found


def _cut(batch: Any, size: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[:size]
    if isinstance(batch, dict):
        return {key: _cut(value, size) for key, value in batch.items()}
    return tuple(_cut(value, size) for value in batch) if isinstance(batch, tuple | list) else batch
