"""GradientNoiseMonitor: the variance of the gradients, the paper's third factor, and whether SGD is stationary."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from numbers import Number
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import nn

from three_factors.callbacks.common_size import common_size, fits, over_ranks, share
from three_factors.callbacks.followed import Followed
from three_factors.callbacks.functional import GradientNoise, HessianOperator
from three_factors.callbacks.functional.fields import positive_whole
from three_factors.callbacks.functional.fluctuation import Stationarity
from three_factors.callbacks.functional.gradients import ESTIMATORS, Estimator, Gradients
from three_factors.callbacks.functional.inputs import as_batches, gathered
from three_factors.callbacks.functional.members import MemberGradients, MemberOperator
from three_factors.callbacks.functional.nests import size_of
from three_factors.callbacks.functional.noise import FEWEST, noise_of
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Reduction
from three_factors.callbacks.functional.state import measuring, plain
from three_factors.callbacks.made_steps import Gathered, MadeStep, clips, measured_groups, noise_rates, rates_of
from three_factors.callbacks.measurement import Batches, Monitor, OnError

CHUNK = 32  # examples that vmap takes at a time
# Logged at every measurement; the temperature is SGD's.
ALWAYS = ("trace", "mean_square", "isotropy", "temperature", "kurtosis")


class GradientNoiseMonitor(Monitor):
    """Logs the covariance C of the gradients under training conditions, and Yaida's stationarity ratio.

        pl.Trainer(callbacks=[GradientNoiseMonitor(every_n_epochs=5)])

    Logs, with `…_error`: `gradient_noise/trace` (tr C), `/mean_square` (|∇L|²), `/isotropy`, `/noise_scale` (left out
    where undefined), `/temperature` (n tr C/2q, n the mean of eta/(1 - beta)S over the steps made with the batches
    measured on, S over all ranks and accumulated batches, of which a step takes the mean, beta SGD's momentum; left out
    where there were none, the parameters have several such rates, the optimizer is not SGD or has Nesterov's momentum,
    or gradients are clipped, or seen to be changed otherwise before the step: it is not eta times the gradient),
    `/kurtosis`; `/top_eigenvalue` (without an error: see `GradientNoise`); with `alignment=True` also `/alignment` and
    `/alignment_lift`. And for every parameter group i `gradient_noise/stationarity_i` (1 in the stationary state)
    where enough steps at constant eta and S have been made, and `gradient_noise/weight_drift_i`. `measurements` and
    `states` keep the whole results of this fit. What cannot be measured is logged as nan, with a warning the first
    time: weights or gradients that are not finite, gradients without noise (their ratios), or too few batches.

    On batch means (under batch norm, or where the loss is not made of its examples' losses) C is that of batches of one
    size: the most frequent S over all ranks, or, where a schedule changes
    it, that to which most batches can be cut by at most a tenth; batches that are smaller are left out.

    Args:
        batches: how many batches of an epoch are measured on, its first (or the batches themselves, or a function
            of the Trainer that gives them), 5 or more.
        estimator: "auto", "per_example", "loop" or "batch_means"; see `gradient_noise`.
        stationarity: follow θ·g and |v|² at every step, a few dot products a parameter. SGD only. Not where gradients
            are clipped, or changed otherwise, after they could be seen (`gradient_clip_val`, a module's
            `configure_gradient_clipping` or `on_before_optimizer_step`, a fused optimizer's gradient scaler): then
            with a warning the verdict is "clipped" and nothing is logged of it. Nor where SGD is exchanged for another
            optimizer within the fit, or Nesterov's or dampened momentum is switched on: by `on_error` it is followed
            no longer, with a warning, or the training ends.
        alignment: with the Hessian on the same batches.
        max_bytes: gradients kept at a time; it changes no number.
        loss, batch_loss, reduction, params, name, on_error: see `Monitor`.
    """

    kind: ClassVar[str] = "gradient_noise"

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        batches: int | Batches = 24,
        estimator: Estimator | Literal["auto"] = "auto",
        loss: Loss | None = None,
        batch_loss: BatchLoss | None = None,
        reduction: Reduction = "mean",
        params: Iterable[str] | None = None,
        name: str | None = None,
        on_error: OnError = "warn",
        stationarity: bool = True,
        alignment: bool = False,
        seed: int = 0,
        max_bytes: int = 1 << 30,
    ) -> None:
        if isinstance(batches, Number):
            positive_whole("batches", batches)
            batches = int(batches)  # numpy's are whole numbers too
        if isinstance(batches, int) and batches < FEWEST:
            raise ValueError(f"batches: {batches} are too few for a covariance; at least {FEWEST}")
        if estimator not in ("auto", *ESTIMATORS):
            raise ValueError(f"estimator: {estimator!r} is none of {', '.join(map(repr, ('auto', *ESTIMATORS)))}")
        positive_whole("max_bytes", max_bytes)
        self.number = batches if isinstance(batches, int) else 0
        self.follow, self.alignment, self.seed, self.max_bytes = stationarity, alignment, seed, max_bytes
        self.estimator = estimator
        super().__init__(
            every_n_epochs=every_n_epochs,
            loss=loss,
            batch_loss=batch_loss,
            reduction=reduction,
            weights=None,
            batches=None if isinstance(batches, int) else batches,
            params=params,
            name=name,
            on_error=on_error,
        )

    def _anew(self) -> None:
        super()._anew()
        self.measurements: list[GradientNoise] = []
        self.states: list[list[Stationarity]] = []
        self._followed = Followed()
        self._waits = False  # whether the step is to come that one of them goes into

    def _forget_steps(self) -> None:
        super()._forget_steps()
        self._steps: list[MadeStep] = []  # those made with the batches measured on; in the epoch, if they were given

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._counts = self._keeps if self.batches is None else self.due(trainer.current_epoch)
        self._in_batch: list[tuple[MadeStep, bool]] = []  # the batch's steps, and whether they have seen it
        self._adds = pl_module.automatic_optimization and batch_idx % trainer.accumulate_grad_batches > 0

    # -- the covariance

    def keeps(self, trainer: pl.Trainer) -> bool:
        return True

    def wanted(self, trainer: pl.Trainer) -> int:
        return self.number

    def counted(self, batch: Any) -> int:
        return 1

    def tried(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        own = plain(module)
        with measuring(own, training=True):
            rows = self._gradients(own, [batch])
            if rows.estimator != "per_example":  # else one has been taken to see whether that can be done
                rows(0, 1)
        if self.alignment:
            operator = HessianOperator.tried(own, self.objective(own), batch, params=self.params)
            operator.matvec(operator.weights())

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        return self._measured_noise(trainer, module) | self._stationarity()

    def _measured_noise(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        given = self.given_batches(trainer, module)
        drawn = self._drawn.take()
        batches = drawn if given is None else given
        # Decided from the sizes on all ranks: all of them measure, or none. Told here, where all come: nobody is to
        # wait for one that fails in what follows.
        told = gathered(lambda: ([size_of(b) for b in batches], [step.examples for step in self._steps]))
        ranks, examples = [of for of, _ in told], over_ranks([of for _, of in told])
        sizes = over_ranks(ranks)
        size = common_size(sizes)
        fitting = [s for s in sizes if fits(s, size)]
        alone, gradients = True, 0
        if batches:
            with measuring(module, training=True):
                rows = self._gradients(module, batches)
            alone = rows.estimator != "batch_means"
            gradients = sum(sizes) if alone else len(fitting)
        if gradients < FEWEST:
            what = "examples" if alone else f"batches of one size among {len(sizes)}"
            self._tell(
                trainer,
                f"{gradients} {what}, fewer than the {FEWEST} that a covariance needs; what is undefined is nan",
            )
            return dict.fromkeys(self.names(trainer, module), math.nan)
        if not alone:
            batches = share(batches, ranks, size, whole=self.reduction == "batch")
            with measuring(module, training=True):
                rows = self._gradients(module, batches, "batch_means")
        found = self._found(rows, batches, self._noise_ratio(trainer, module, examples))
        if not math.isfinite(found.value):
            self._tell(trainer, "gradients are not finite; what is undefined is nan")
        elif math.isnan(found.isotropy.value):
            self._tell(trainer, "gradients do not differ; what is undefined is nan")
        self.measurements.append(found)
        return self._summary(found)

    def _clipped(self, trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        """Tells whether gradients are known not to be those of the steps."""
        return self._followed.clipped > 0 or clips(trainer, module)

    def _noise_ratio(self, trainer: pl.Trainer, module: pl.LightningModule, sizes: list[int]) -> float | None:
        """Returns n, in the units of C: eta/S, or eta where a step descends the sum over its S examples; under momentum
        1/(1 - beta) times as much. None where it has no value.

        Args:
            sizes: of the steps, the examples of all ranks.
        """
        if self._clipped(trainer, module):
            return None
        common, groups = common_size(sizes), measured_groups(trainer, module, self.params)
        found: dict[int, list[float]] = defaultdict(list)
        for step, size in zip(self._steps, sizes):
            rates = rates_of(groups.get(step.optimizer, ()), step.rates)
            if len(rates) > 1:
                return None
            if rates and fits(size, common):
                # of a sum Lightning accumulates the mean over batches, and ranks
                over = trainer.accumulate_grad_batches * trainer.world_size if self.reduction == "sum" else size
                found[step.optimizer].append(rates.pop() / over)
        ratios = [statistics.mean(found[number]) for number in groups if number in found]
        if not ratios or len(ratios) < len(groups) or max(ratios) - min(ratios) > 1e-9 * max(ratios):
            return None  # there were no steps, or none of plain SGD; or several optimizers have different ones
        return ratios[0]

    def measure(self, module: nn.Module, batches: Any, *, noise_ratio: float | None = None) -> GradientNoise:
        """Returns the noise of any module on any batches."""
        held = list(as_batches(batches))
        with measuring(module, training=True):
            rows = self._gradients(module, held)
        return self._found(rows, held, noise_ratio)

    def values(self, module: nn.Module, batches: Any) -> dict[str, float]:
        """Returns the same as would be logged of it, by name."""
        return self._summary(self.measure(module, batches))

    def values_of(self, rows: MemberGradients, hessian: MemberOperator | None) -> dict[str, float]:
        """Returns the same of a member of a `StackedOperator`."""
        return self._summary(noise_of(rows, hessian=hessian, max_bytes=self.max_bytes))

    def _gradients(self, module: nn.Module, batches: Any, estimator: Estimator | None = None) -> Gradients:
        own = plain(module)
        asked = estimator or self.estimator
        return Gradients(own, self.objective(own), batches, asked, self.params, self.seed, CHUNK)

    def _found(self, rows: Gradients, batches: Any, noise_ratio: float | None) -> GradientNoise:
        hessian = None
        if self.alignment:
            hessian = HessianOperator.of(rows.module, rows.objective, iter(batches), params=self.params)
        return noise_of(rows, hessian=hessian, noise_ratio=noise_ratio, max_bytes=self.max_bytes)

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
        return {f"{self.prefix}/{name}": value for name, value in values.items()}

    def names(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
        names = [*ALWAYS, *(("alignment", "alignment_lift") if self.alignment else ())]
        if self._clipped(trainer, module) or not any(map(noise_rates, self._optimizers)):
            names.remove("temperature")
        names += [f"{name}_error" for name in names]
        return [f"{self.prefix}/{name}" for name in ("top_eigenvalue", *names)]

    # -- stationarity

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._followed.clipped = 0
        self._gathered: defaultdict[int, Gathered] = defaultdict(Gathered)
        if self.follow:
            self._followed.start(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        try:
            self._followed.before_step(trainer, optimizer)
        except ValueError as error:
            if self.on_error == "raise":
                raise
            self._tell(trainer, f"not followed any more: {error}")

    def stepped(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        before, now = self._gathered[number].step(optimizer, kept=self._adds)
        self._in_batch.append((MadeStep(number, noise_rates(optimizer), before), now))
        self._followed.stepped(optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch is None:  # Lightning passes over it
            return
        here = size_of(batch)
        for number, optimizer in enumerate(self._optimizers):
            self._gathered[number].end(optimizer, here, kept=self._adds)
        steps = [step._replace(examples=step.examples + here * now) for step, now in self._in_batch]
        if self._counts or self._waits:
            self._steps += [step for step in steps if step.examples]
            self._waits = not steps
        if self._followed.groups:
            # by its number the last batch of a stream, whose length nobody knows, would not be found
            examples = steps[-1].examples if steps else 0
            self._followed.after_batch(self._optimizers[0], examples, last=trainer.is_last_batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._followed.groups and self._followed.settle():
            self._tell(
                trainer,
                "gradients are clipped, or changed otherwise, right before the step, which the stationarity "
                "relation does not know",
            )
        super().on_train_epoch_end(trainer, pl_module)

    def _stationarity(self) -> dict[str, float]:
        found = self._followed.judged(self.seed)
        self.states.append(found)
        values = {}
        for i, state in enumerate(found):
            if state.verdict in ("stationary", "not stationary"):
                values[f"{self.prefix}/stationarity_{i}"] = state.value
                values[f"{self.prefix}/stationarity_{i}_error"] = state.error
            values[f"{self.prefix}/weight_drift_{i}"] = state.drift
        return {k: v for k, v in values.items() if v == v}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "steps": [tuple(step) for step in self._steps],
            "groups": self._followed.state(),
            "measurements": [found.state() for found in self.measurements],
            "states": [[asdict(state) for state in states] for states in self.states],
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._steps = [MadeStep(*step) for step in state.get("steps", [])]
        self._followed.restore(state["groups"])
        self.measurements = [GradientNoise.of_state(found) for found in state.get("measurements", [])]
        self.states = [[Stationarity(**one) for one in states] for states in state.get("states", [])]
