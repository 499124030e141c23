"""HessianMonitor: the curvature of the loss in the course of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import nn

from callbacks.functional import (
    HessianOperator,
    Lanczos,
    RescaledHessian,
    batch_sharpness,
    finite_difference_norm,
    frobenius_norm,
    top_eigenvalues,
    trace,
)
from callbacks.functional.lanczos import seeded
from callbacks.functional.state import plain
from callbacks.measurement import Batches, Loss, Monitor, training_subset

Measure = Literal[
    "top_eigenvalue",
    "trace",
    "frobenius",
    "finite_difference",
    "normalized_sharpness",
    "adaptive_sharpness",
    "batch_sharpness",
]
MEASURES: tuple[Measure, ...] = ("top_eigenvalue", "trace", "frobenius")
ALL: tuple[str, ...] = (*MEASURES, "finite_difference", "normalized_sharpness", "adaptive_sharpness", "batch_sharpness")


class HessianMonitor(Monitor):
    """Logs the Hessian's size on a fixed, un-augmented training subset, with batch norm in eval mode.

        pl.Trainer(callbacks=[HessianMonitor(every_n_epochs=5)])

    Logs, each with `…_error` (95 % half-width; for eigenvalues the bound of `top_eigenvalues`):
    `hessian/top_eigenvalue` (and `hessian/eigenvalue_2` … `_k`), `hessian/trace`, `hessian/frobenius`; if asked for
    `hessian/finite_difference` (the paper's norm, with its displacement in `hessian/finite_difference_step`),
    `hessian/normalized_sharpness` and `hessian/adaptive_sharpness` (largest eigenvalues in units of the filters and of
    each weight), `hessian/batch_sharpness`. Always `hessian/lr_top_eigenvalue` (eta λ, 2 at the edge of stability)
    where λ is measured, `hessian/weight_norm` (|θ| of the parameters measured), `hessian/products` (all that were
    computed) and `hessian/seconds`. Eigenvalue, trace and norm share one Lanczos run; none depends on what else is
    measured.

    Args:
        measures: which of them.
        k: eigenvalues. tol: their relative error. trace_tol, norm_tol: relative 95 % half-widths,
            as far as `max_products` reach for each; the error that is logged says.
        examples, batch_size: of the subset that is taken where no `batches` are given; fewer at a time need less
            memory. For batch sharpness `batch_size` is the run's S.
        loss: loss(output, target); by default the module's own `loss`.
        batches: (input, target) pairs of this rank, or a function of the Trainer that gives them; read once.
        params: names of the parameters to measure; by default all that require grad.
        dtype: of the arithmetic. backend: "lanczos", or "pyhessian" for eigenvalue and trace by PyHessian's own
            algorithms on our operator (its values come without an error: NaN).

    `measure(module, batches)` gives the same dictionary without a Trainer, for a checkpoint say.
    """

    prefix = "hessian"

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        measures: Iterable[Measure] = MEASURES,
        k: int = 1,
        tol: float = 1e-3,
        trace_tol: float = 0.03,
        norm_tol: float = 0.01,
        max_products: int = 200,
        examples: int = 1_000,
        batch_size: int = 250,
        loss: Loss | None = None,
        batches: Batches = None,
        params: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
        backend: Literal["lanczos", "pyhessian"] = "lanczos",
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs=every_n_epochs, loss=loss, batches=batches)
        self.measures = tuple(measures)
        for measure in self.measures:
            if measure not in ALL:
                raise ValueError(f"measures: {measure!r} is none of {', '.join(ALL)}")
        if backend not in ("lanczos", "pyhessian"):
            raise ValueError(f"backend: {backend!r} is neither 'lanczos' nor 'pyhessian'")
        for name, value in (("k", k), ("examples", examples), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}: {value!r} is not positive")
        self.k, self.tol, self.trace_tol, self.norm_tol = k, tol, trace_tol, norm_tol
        self.max_products = max_products
        self.examples, self.batch_size, self.dtype = examples, batch_size, dtype
        self.params = None if params is None else list(params)
        self.backend, self.seed = backend, seed

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        if self.batches is None:
            self.batches = list(training_subset(trainer, module, self.examples, self.batch_size))
        lr = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else None
        return self.measure(module, self.given_batches(trainer, module) or [], lr=lr)

    def measure(self, module: nn.Module, batches: Iterable[Any], *, lr: float | None = None) -> dict[str, float]:
        """What would be logged, for any module and data."""
        operator = HessianOperator(module, self.loss_of(plain(module)), batches, params=self.params, dtype=self.dtype)
        found: dict[str, float] = {"hessian/weight_norm": float(operator.weights().norm())}
        if self.backend == "pyhessian":
            self._by_pyhessian(operator, found)
        self._by_lanczos(operator, found)
        for measure in self.measures:
            if f"hessian/{measure}" not in found:
                getattr(self, f"_{measure}")(operator, found)
        if lr is not None and "hessian/top_eigenvalue" in found:
            found["hessian/lr_top_eigenvalue"] = lr * found["hessian/top_eigenvalue"]
        return found | {"hessian/products": float(operator.products)}

    def _put(self, found: dict[str, float], name: str, value: float, error: float) -> None:
        found[f"hessian/{name}"], found[f"hessian/{name}_error"] = float(value), float(error)

    def _by_lanczos(self, operator: HessianOperator, found: dict[str, float]) -> None:
        """Eigenvalues, trace and norm from one run, whose basis is freed before anything else is measured."""
        wanted = [measure for measure in MEASURES if measure in self.measures and f"hessian/{measure}" not in found]
        if not wanted:
            return
        run, limit = Lanczos(operator, seeded(self.seed)), self.max_products
        if "top_eigenvalue" in wanted:
            top = top_eigenvalues(operator, self.k, self.tol, max_products=limit, lanczos=run)
            for i, (value, error) in enumerate(zip(top.values, top.error)):
                self._put(found, "top_eigenvalue" if i == 0 else f"eigenvalue_{i + 1}", float(value), float(error))
        if "trace" in wanted:
            total = trace(operator, self.trace_tol, max_products=limit, lanczos=run)
            self._put(found, "trace", total.value, total.error)
        if "frobenius" in wanted:
            norm = frobenius_norm(operator, self.norm_tol, max_products=limit, lanczos=run)
            self._put(found, "frobenius", norm.value, norm.error)

    def _finite_difference(self, operator: HessianOperator, found: dict[str, float]) -> None:
        estimate = finite_difference_norm(operator, seed=self.seed)
        self._put(found, "finite_difference", estimate.value, estimate.error)
        found["hessian/finite_difference_step"] = estimate.step

    def _normalized_sharpness(self, operator: HessianOperator, found: dict[str, float]) -> None:
        top = top_eigenvalues(
            RescaledHessian(operator, "filter"), 1, self.tol, self.seed, max_products=self.max_products
        )
        self._put(found, "normalized_sharpness", float(top.values[0]), float(top.error[0]))

    def _adaptive_sharpness(self, operator: HessianOperator, found: dict[str, float]) -> None:
        top = top_eigenvalues(
            RescaledHessian(operator, "adaptive"), 1, self.tol, self.seed, max_products=self.max_products
        )
        self._put(found, "adaptive_sharpness", float(top.values[0]), float(top.error[0]))

    def _batch_sharpness(self, operator: HessianOperator, found: dict[str, float]) -> None:
        ratio = batch_sharpness(operator)
        self._put(found, "batch_sharpness", ratio.value, ratio.error)

    def _by_pyhessian(self, operator: HessianOperator, found: dict[str, float]) -> None:
        from callbacks.pyhessian_backend import PyHessian

        backend = PyHessian(operator, seed=self.seed)
        if "top_eigenvalue" in self.measures:
            values, _ = backend.eigenvalues(tol=self.tol, top_n=self.k)
            for i, value in enumerate(values):
                self._put(found, "top_eigenvalue" if i == 0 else f"eigenvalue_{i + 1}", value, math.nan)
        if "trace" in self.measures:
            samples = backend.trace(tol=self.tol)
            self._put(found, "trace", sum(samples) / len(samples), math.nan)
