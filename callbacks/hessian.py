"""HessianMonitor: the curvature of the loss in the course of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import nn

from three_factors.callbacks.functional import (
    GGNOperator,
    HessianOperator,
    Lanczos,
    RescaledHessian,
    batch_sharpness,
    finite_difference_norm,
    frobenius_norm,
    top_eigenvalues,
    trace,
)
from three_factors.callbacks.functional.fields import exact_type, positive, positive_whole
from three_factors.callbacks.functional.inputs import gathered
from three_factors.callbacks.functional.lanczos import seeded
from three_factors.callbacks.functional.memory import fitting_vectors, needed
from three_factors.callbacks.functional.nests import cut
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction, Weights
from three_factors.callbacks.functional.operators import LossHessian
from three_factors.callbacks.functional.restarts import fewest_vectors
from three_factors.callbacks.functional.sharpness import comparable
from three_factors.callbacks.functional.state import measuring, plain
from three_factors.callbacks.measurement import Batches, OnError
from three_factors.callbacks.measures import Measure, checked
from three_factors.callbacks.subset_monitor import SubsetMonitor

MEASURES: tuple[Measure, ...] = ("top_eigenvalue", "trace", "frobenius")
WITHOUT_PRODUCTS: tuple[Measure, ...] = ("finite_difference",)
STABILITY: tuple[Measure, ...] = ("top_eigenvalue", "batch_sharpness")  # logged times eta too


class HessianMonitor(SubsetMonitor):
    """Logs the Hessian's size on a fixed, un-augmented training subset, with batch norm in eval mode.

        pl.Trainer(callbacks=[HessianMonitor(every_n_epochs=5)])

    Logs, each with `…_error` (95 % half-width; for eigenvalues the bound of `top_eigenvalues`):
    `hessian/top_eigenvalue` (and `hessian/eigenvalue_2` … `_k`), `hessian/trace`, `hessian/frobenius`; if asked for
    `hessian/finite_difference` (the paper's norm, with its displacement in `hessian/finite_difference_step`),
    `hessian/normalized_sharpness` and `hessian/adaptive_sharpness` (largest eigenvalues in units of the filters and of
    each weight), `hessian/batch_sharpness`. Always `hessian/weight_norm` (|θ| of the parameters measured),
    `hessian/products` (all that were computed) and `hessian/seconds`; where λ is that of a mean and the parameters
    measured have one learning rate, `hessian/lr_top_eigenvalue` (eta λ, 2 at plain SGD's edge of stability) and
    `hessian/lr_batch_sharpness`, eta being that of the epoch's last step.
    Eigenvalue, trace and norm share one Lanczos run; none depends on what else is measured, nor on `batch_size` (but
    batch sharpness, of which it is a part).

    Args:
        measures: which of them.
        k: eigenvalues.
        tol: their relative error.
        trace_tol, norm_tol: relative 95 % half-widths, as far as `max_products` reach for each; the error that is
            logged says.
        max_vectors: vectors as long as the parameters that are kept at most; with fewer of them eigenvalues take more
            products. A measurement needs some max_vectors + 14 of them: 3.7 GB for ResNet-18 at 64.
        max_memory: bytes; where the vectors would need more the fit is refused at its start, with the `max_vectors`
            that fits. It changes no number.
        examples, batch_size: of the subset; see `SubsetMonitor`. For batch sharpness `batch_size` is the run's S; it is
            measured on the batches of the most frequent size where these are at least 3, which leaves a ragged last
            one out; else on those of at least half the largest one's examples, 3 of them or more.
        curvature: "hessian", or "gauss_newton": the Gauss-Newton matrix, for networks with layers that have no second
            derivative (hardsigmoid, some attention kernels). It logs under "gauss_newton", but by `name`.
        training: batch norm and dropout in train mode, on batches of `batch_size`: the operator of training itself,
            whose eigenvalue times eta and batch sharpness are what stability is about. `batch_size` is the run's S
            then. Logged under "training_hessian", but by `name`. On one device.
        dtype: of the arithmetic, torch.float32 or float64; by default the parameters', float32 at least.
        backend: "lanczos", or "pyhessian" for eigenvalue and trace by PyHessian's own algorithms on our operator (its
            values come without an error: NaN).
        loss, batch_loss, reduction, weights, batches, params, name, on_error: see `Monitor`.

    `measure(module, batches)` gives the same dictionary without a Trainer, for a checkpoint say.
    """

    kind: ClassVar[str] = "hessian"

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
        max_vectors: int = 64,
        max_memory: int | None = None,
        examples: int = 1_000,
        batch_size: int = 250,
        curvature: Literal["hessian", "gauss_newton"] = "hessian",
        loss: Loss | None = None,
        batch_loss: BatchLoss | None = None,
        reduction: Reduction = "mean",
        weights: Weights | None = None,
        batches: Batches = None,
        params: Iterable[str] | None = None,
        name: str | None = None,
        on_error: OnError = "warn",
        training: bool = False,
        dtype: torch.dtype | None = None,
        backend: Literal["lanczos", "pyhessian"] = "lanczos",
        seed: int = 0,
    ) -> None:
        if curvature not in ("hessian", "gauss_newton"):
            raise ValueError(f"curvature: {curvature!r} is neither 'hessian' nor 'gauss_newton'")
        if curvature == "gauss_newton" and batch_loss is not None:
            raise ValueError("curvature: 'gauss_newton' needs loss(output, target) in place of batch_loss")
        super().__init__(
            examples=examples,
            batch_size=batch_size,
            every_n_epochs=every_n_epochs,
            loss=loss,
            batch_loss=batch_loss,
            reduction=reduction,
            weights=weights,
            batches=batches,
            params=params,
            name=name or (f"training_{curvature}" if training else curvature if curvature != "hessian" else None),
            on_error=on_error,
        )
        self.measures = checked(tuple(measures))
        if backend not in ("lanczos", "pyhessian"):
            raise ValueError(f"backend: {backend!r} is neither 'lanczos' nor 'pyhessian'")
        for field, value in (("k", k), ("max_products", max_products), ("max_vectors", max_vectors)):
            positive_whole(field, value)
        for field, share in (("tol", tol), ("trace_tol", trace_tol), ("norm_tol", norm_tol)):
            positive(field, share)
        if max_memory is not None:
            positive("max_memory", max_memory)
        exact_type("dtype", dtype)
        if max_vectors < fewest_vectors(k):
            raise ValueError(f"max_vectors: {max_vectors!r} is less than {fewest_vectors(k)}, which k={k} takes")
        self.k, self.tol, self.trace_tol, self.norm_tol = k, tol, trace_tol, norm_tol
        self.max_products, self.max_vectors, self.max_memory = max_products, max_vectors, max_memory
        self.curvature, self.training, self.dtype, self.backend, self.seed = curvature, training, dtype, backend, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.training and trainer.world_size > 1:
            raise ValueError("training: the Hessian in train mode is measured on one device")
        super().setup(trainer, pl_module, stage)

    def _try(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        self._sizes: list[int] = []  # of the subset's batches, over all ranks; none where they are not known
        if self.training or "batch_sharpness" in self.measures:
            ranks = gathered(lambda: self.subset_sizes(trainer, module, batch))
            self._sizes = [size for of in ranks for size in of or ()]
        if "batch_sharpness" in self.measures and self._sizes:
            self._check_batches(self._sizes)
        super()._try(trainer, module, batch)

    def _check_batches(self, sizes: list[int]) -> None:
        """Raises ValueError where the subset has too few batches for batch sharpness."""
        try:
            comparable(sizes)
        except ValueError as error:
            raise ValueError(f"examples: {sum(sizes)} in batches of {self.batch_size}: {error}") from error

    def measured(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        batches = iter(self.subset(trainer, module))  # two tensors in a list would be one pair
        return self.measure(module, batches, lr=self._lr(trainer, module))

    def names(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
        estimates: list[str] = [*self.measures]
        if "top_eigenvalue" in self.measures:
            estimates += [f"eigenvalue_{i}" for i in range(2, self.k + 1)]
        found = ["weight_norm", *estimates, *(f"{name}_error" for name in estimates), "products"]
        if "finite_difference" in self.measures:
            found.append("finite_difference_step")
        if self.reduction != "sum" and self._lr(trainer, module) is not None:
            found += [f"lr_{measure}" for measure in STABILITY if measure in self.measures]
        return [self._name(name) for name in found]

    def measure(self, module: nn.Module, batches: Iterable[Any], *, lr: float | None = None) -> dict[str, float]:
        """Returns what would be logged, for any module and data."""
        operator = self._operator(module, batches)
        with measuring(plain(module), training=self.training):  # once, not for every product
            return self.measure_of(operator, lr=lr)

    def measure_of(self, operator: LossHessian, *, lr: float | None = None) -> dict[str, float]:
        """Returns the same of an operator: also of a member of a `StackedOperator`, but by PyHessian."""
        found: dict[str, float] = {self._name("weight_norm"): float(operator.weights().norm())}
        if self.backend == "pyhessian" and isinstance(operator, HessianOperator):
            self._by_pyhessian(operator, found)
        self._by_lanczos(operator, found)
        for measure in self.measures:
            if self._name(measure) not in found:
                getattr(self, f"_{measure}")(operator, found)
        if lr is not None and self.reduction != "sum":
            for measure in STABILITY:
                if self._name(measure) in found:
                    found[self._name(f"lr_{measure}")] = lr * found[self._name(measure)]
        return found | {self._name("products"): float(operator.products)}

    def tried(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        objective = self.objective(plain(module))
        with measuring(plain(module), training=self.training):
            operator = self._kind.tried(
                module, objective, batch, params=self.params, dtype=self.dtype, training=self.training
            )
            if self.k > operator.num_params:
                raise ValueError(f"k: {self.k} eigenvalues of a matrix with {operator.num_params} rows")
            self._fits(operator)
            if any(measure not in WITHOUT_PRODUCTS for measure in self.measures):
                self._symmetric(operator)
            if "finite_difference" in self.measures:
                operator.gradient()
            if self.training and 1 in self._sizes:
                self._try_on_one(module, objective, batch)

    def _try_on_one(self, module: nn.Module, objective: Objective, batch: Any) -> None:
        """Raises ValueError where train mode cannot take the one example that the subset leaves for a batch."""
        try:
            one = cut(batch, 0, 1)
        except ValueError:  # its parts do not go by examples, and it is measured as it is drawn
            return
        try:
            self._kind.of(module, objective, [one], params=self.params, dtype=self.dtype, training=True).gradient()
        except ValueError as error:
            raise ValueError(
                f"examples: {sum(self._sizes)} in batches of {self.batch_size} leave one of a single example: {error}"
            ) from error

    def _symmetric(self, operator: HessianOperator) -> None:
        """Raises ValueError where products are not those of a symmetric matrix."""
        signs = torch.randint(0, 2, (2, operator.num_params), generator=seeded(self.seed), dtype=torch.int8)
        rows = signs.to(operator.device, operator.dtype).mul_(2).sub_(1)
        (u, v), (hu, hv) = rows, operator.matmat(rows.T).T
        apart, size = float(v @ hu - u @ hv), float(hu.norm() * v.norm() + hv.norm() * u.norm())
        if abs(apart) > math.sqrt(torch.finfo(operator.dtype).eps) * size:
            raise ValueError(
                f"module: its second derivatives are not symmetric (u·Hv - v·Hu = {apart:.2g} of {size:.2g}): "
                "a layer of it, or torch, has a wrong one; measures=('finite_difference',) does without"
            )

    @property
    def _kind(self) -> type[HessianOperator]:
        return HessianOperator if self.curvature == "hessian" else GGNOperator

    def _operator(self, module: nn.Module, batches: Iterable[Any]) -> HessianOperator:
        return self._kind.of(
            module,
            self.objective(plain(module)),
            batches,
            params=self.params,
            dtype=self.dtype,
            training=self.training,
        )

    def _fits(self, operator: HessianOperator) -> None:
        """Refuses what `max_memory` cannot hold."""
        if self.max_memory is None:
            return
        q, itemsize = operator.num_params, operator.dtype.itemsize
        needs = needed(q, itemsize, k=self.k, max_vectors=self.max_vectors)
        if needs > self.max_memory:
            fitting = fitting_vectors(q, itemsize, self.max_memory, k=self.k)
            way = f"max_vectors={fitting} fits" if fitting else "not even the fewest fit; measure a part with params="
            raise ValueError(
                f"max_memory: {self.max_vectors} vectors of {q} parameters and what goes with them need {needs} bytes, "
                f"more than {self.max_memory}; {way}"
            )

    def _lr(self, trainer: pl.Trainer, module: nn.Module) -> float | None:
        """Returns the learning rate of the parameters measured at the epoch's last step; None if they have several."""
        found = self.last_rates(trainer, module, self.params)
        return found.pop() if len(found) == 1 else None

    def _name(self, value: str) -> str:
        return f"{self.prefix}/{value}"

    def _put(self, found: dict[str, float], name: str, value: float, error: float) -> None:
        found[self._name(name)], found[self._name(f"{name}_error")] = float(value), float(error)

    def _put_eigenvalues(self, found: dict[str, float], values: Iterable[float], errors: Iterable[float]) -> None:
        for i, (value, error) in enumerate(zip(values, errors)):
            self._put(found, "top_eigenvalue" if i == 0 else f"eigenvalue_{i + 1}", value, error)

    def _by_lanczos(self, operator: LossHessian, found: dict[str, float]) -> None:
        """Eigenvalues, trace and norm from one run, whose basis is freed before anything else is measured."""
        wanted = [m for m in MEASURES if m in self.measures and self._name(m) not in found]
        if not wanted:
            return
        run = Lanczos(operator, seeded(self.seed), max_vectors=self.max_vectors)
        limit = self.max_products
        if "trace" in wanted:  # these two before the eigenvalues: they need the run's first steps
            total = trace(operator, self.trace_tol, max_products=limit, lanczos=run)
            self._put(found, "trace", total.value, total.error)
        if "frobenius" in wanted:
            norm = frobenius_norm(operator, self.norm_tol, max_products=limit, lanczos=run)
            self._put(found, "frobenius", norm.value, norm.error)
        if "top_eigenvalue" in wanted:
            top = top_eigenvalues(operator, self.k, self.tol, max_products=limit, lanczos=run)
            self._put_eigenvalues(found, top.values.tolist(), top.error.tolist())

    def _finite_difference(self, operator: LossHessian, found: dict[str, float]) -> None:
        estimate = finite_difference_norm(operator, seed=self.seed)
        self._put(found, "finite_difference", estimate.value, estimate.error)
        found[self._name("finite_difference_step")] = estimate.step

    def _normalized_sharpness(self, operator: LossHessian, found: dict[str, float]) -> None:
        self._rescaled(RescaledHessian(operator, "filter"), "normalized_sharpness", found)

    def _adaptive_sharpness(self, operator: LossHessian, found: dict[str, float]) -> None:
        self._rescaled(RescaledHessian(operator, "adaptive"), "adaptive_sharpness", found)

    def _rescaled(self, operator: RescaledHessian, name: str, found: dict[str, float]) -> None:
        limit, room = self.max_products, self.max_vectors
        top = top_eigenvalues(operator, 1, self.tol, self.seed, max_products=limit, max_vectors=room)
        self._put(found, name, float(top.values[0]), float(top.error[0]))

    def _batch_sharpness(self, operator: LossHessian, found: dict[str, float]) -> None:
        ratio = batch_sharpness(operator)
        self._put(found, "batch_sharpness", ratio.value, ratio.error)

    def _by_pyhessian(self, operator: HessianOperator, found: dict[str, float]) -> None:
        from three_factors.callbacks.pyhessian_backend import PyHessian

        backend = PyHessian(operator, seed=self.seed)
        if "top_eigenvalue" in self.measures:
            values, _ = backend.eigenvalues(tol=self.tol, top_n=self.k)
            self._put_eigenvalues(found, values, [math.nan] * len(values))
        if "trace" in self.measures:
            samples = backend.trace(tol=self.tol)
            self._put(found, "trace", sum(samples) / len(samples), math.nan)
