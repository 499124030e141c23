"""The third factor: the covariance C of the gradients, from per-example gradients or from batch means.

All of it comes from the Gram matrix K = G G' of m gradients, so C (q x q) is never formed. Estimators are unbiased for
independent draws; intervals are jackknife intervals over groups of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from three_factors.callbacks.functional.estimates import Estimate, t_quantile
from three_factors.callbacks.functional.gradients import Estimator, Gradients
from three_factors.callbacks.functional.hessian_operator import HessianOperator
from three_factors.callbacks.functional.hutchinson import frobenius_norm, trace
from three_factors.callbacks.functional.inputs import as_batches
from three_factors.callbacks.functional.lanczos import Lanczos, seeded
from three_factors.callbacks.functional.members import MemberGradients
from three_factors.callbacks.functional.objective import BatchLoss, Loss, Objective, Reduction
from three_factors.callbacks.functional.operators import LossHessian
from three_factors.callbacks.functional.state import measuring, plain

Rows = Gradients | MemberGradients
FEWEST = 5  # gradients: with one left out, for the intervals, tr C² and the kurtosis still have the 4 they need
GROUPS = 20  # of the jackknife
DIRECTIONS = 8  # random ones, for the kurtosis
RESOLVED = 8  # tr C is told from rounding if it exceeds so many units of rounding of a gradient's square


@dataclass(frozen=True)
class Alignment:
    """Tells how C lies to the Hessian; nan where a denominator is 0.

    Attributes:
        cosine: tr(HC)/(|H||C|).
        lift: q tr(HC)/(tr H tr C), 1 if they are unrelated.
        trace_hc: tr(HC).
        cosine_error: a 95 % half-width to first order, those of the three estimates in quadrature.
        lift_error: likewise.
    """

    cosine: float
    lift: float
    trace_hc: Estimate
    cosine_error: float
    lift_error: float


@dataclass(frozen=True)
class GradientNoise:
    """Describes what `gradient_noise` found. C is the covariance of one example's gradient; a batch of S has C/S.

    Attributes:
        value: tr C.
        error: half its 95 % interval.
        products: Hessian products, for `alignment`.
        trace: tr C with its interval.
        square_trace: tr C², unbiased (off-diagonal U-statistic).
        mean_square: |∇L|², unbiased, L being the expected loss: over the population that the examples are a sample of
            (and over augmentation and dropout). For examples drawn without replacement from N training examples this
            is not the training loss's, which is larger by tr C/N.
        top_eigenvalues: of C, the largest first, of the sample. Biased upwards where m ≪ q, by more than they scatter;
            they have no interval.
        isotropy: (tr C)²/(q tr C²), 1 for C ∝ 1.
        noise_scale: tr C/|∇L|² (McCandlish et al. 2018); None, 'undefined', where the interval of |∇L|² reaches 0.
        temperature: n tr(C)/(2 q), if n = eta/S was given.
        kurtosis: excess kurtosis of a gradient along random directions, 0 for Gaussian noise (assumption 1). That
            of batches of S examples is S times smaller than that of examples.
        alignment: with the Hessian, if one was given.
        estimator: "per_example" and "loop", from gradients of one example; or "batch_means".
        gradients: from so many gradients.
        batch_size: examples in each; 1 but for "batch_means".

    Ratios are nan where they are undefined: without noise (zero or equal gradients), isotropy and kurtosis; with
    gradients that are not finite, everything.
    """

    value: float
    error: float
    products: int
    trace: Estimate
    mean_square: Estimate
    square_trace: Estimate
    top_eigenvalues: Tensor
    isotropy: Estimate
    noise_scale: Estimate | None
    temperature: Estimate | None
    kurtosis: Estimate
    alignment: Alignment | None
    estimator: Estimator
    gradients: int
    batch_size: float
    num_params: int

    def state(self) -> dict[str, Any]:
        """Returns all of it in dictionaries, numbers and tensors, for a checkpoint."""
        return asdict(self)

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> GradientNoise:
        """Returns what `state` was taken of."""

        def restored(name: str, value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            if name == "alignment":
                return Alignment(**value | {"trace_hc": Estimate(**value["trace_hc"])})
            return Estimate(**value)

        return cls(**{name: restored(name, value) for name, value in state.items()})


def gradient_noise(
    module: nn.Module,
    loss: Loss | None,
    batches: Iterable[Any],
    *,
    batch_loss: BatchLoss | None = None,
    reduction: Reduction = "mean",
    estimator: Estimator | Literal["auto"] = "auto",
    training: bool = True,
    params: Iterable[str | nn.Parameter] | None = None,
    hessian: HessianOperator | None = None,
    noise_ratio: float | None = None,
    eigenvalues: int = 3,
    seed: int = 0,
    chunk: int = 32,
    max_bytes: int = 1 << 30,
) -> GradientNoise:
    """Returns the gradient noise of `loss(module(input), target)` under training conditions.

    Args:
        loss, batch_loss, reduction: as for HessianOperator. Where the loss of a batch is not made of its examples'
            (class weights, ignored targets, batch norm, reduction="batch"), C is S times the covariance of the
            gradients of batches, which is what SGD makes.
        batches: (input, target) pairs, as training sees them (augmented, of the run's S). Under torch.distributed
            the i-th batches of all ranks are one batch.
        estimator: "per_example" (torch.func's vmap, `chunk` at a time, or 8 where the network draws random numbers);
            "loop" (one example after another: what vmap cannot go through, at some ten times the time);
            "batch_means" (a gradient a batch). By default the first of them that is right for the module and the loss,
            which is tried on the batches themselves (where train mode draws random numbers: by exchanging examples
            under the same ones); a warning says where the loss makes it "batch_means". Numbers that all examples of
            a batch share, and no example for itself, are for "batch_means" to be asked for.
        training: dropout and batch norm in train mode. The module's buffers stay as they are.
        params: as for HessianOperator; bfloat16 and float16 ones are measured in float32.
        hessian: for the alignment, an operator on the same parameters; 16 products, and some 120 at most for each
            of its norm and trace.
        noise_ratio: n = eta/S, for the temperature; of a loss that is a sum over a batch, eta.
        chunk, max_bytes: examples, and gradients, kept at a time; results do not depend on them.

    Raises:
        ValueError: an estimator that the module or the loss does not allow, fewer than 5 gradients (take 20 for
            intervals to mean much), batches of different sizes for their means, parameters as for HessianOperator.
    """
    module, objective = plain(module), Objective(loss, batch_loss, reduction)
    with measuring(module, training=training):
        rows = Gradients(module, objective, as_batches(batches), estimator, params, seed, chunk, training)
    return noise_of(rows, hessian=hessian, noise_ratio=noise_ratio, eigenvalues=eigenvalues, max_bytes=max_bytes)


def noise_of(
    rows: Rows,
    *,
    hessian: LossHessian | None = None,
    noise_ratio: float | None = None,
    eigenvalues: int = 3,
    max_bytes: int = 1 << 30,
) -> GradientNoise:
    """Returns the same of gradients that are there already."""
    with rows.measuring():
        if len(rows) < FEWEST:
            raise ValueError(f"batches: {len(rows)} gradients are too few for a covariance; at least {FEWEST}")
        gram, projections = _gram(rows, max_bytes)
        pairs = None if hessian is None else rows.differences(min(16, len(rows) // 2))
    size, q = rows.batch_size, rows.num_params
    sums = _Sums(gram)
    rounding = RESOLVED * torch.finfo(rows.dtype).eps * float(gram.diagonal().mean())

    def statistics(left_out: int | None) -> list[float]:
        trace_row, mean_square, square_row = sums.without(left_out)
        c, c2 = size * trace_row, size**2 * square_row
        isotropy, kurtosis = math.nan, math.nan
        if trace_row > rounding:
            isotropy, kurtosis = _ratio(c**2, q * c2), _kurtosis(projections[sums.kept(left_out)])
        return [c, mean_square, c2, isotropy, _ratio(c, mean_square), kurtosis]

    trace_c, square, square_c, isotropy, scale, kurtosis = _jackknife(statistics, sums.groups)
    temperature = None if noise_ratio is None else _scaled(trace_c, noise_ratio / (2 * q))
    alignment, products = None, 0
    if hessian is not None and pairs is not None:
        alignment, products = _align(hessian, pairs, size, trace_c, square_c)
    return GradientNoise(
        value=trace_c.value,
        error=trace_c.error,
        products=products,
        trace=trace_c,
        mean_square=square,
        square_trace=square_c,
        top_eigenvalues=_eigenvalues(gram, size, eigenvalues),
        isotropy=isotropy,
        noise_scale=scale if square.low > 0 else None,
        temperature=temperature,
        kurtosis=kurtosis,
        alignment=alignment,
        estimator=rows.estimator,
        gradients=len(rows),
        batch_size=size,
        num_params=q,
    )


def _gram(rows: Rows, max_bytes: int) -> tuple[Tensor, Tensor]:
    """Returns K = G G' (m, m) and the projections of G on random directions (m, DIRECTIONS), float64 on the CPU."""
    m, q = len(rows), rows.num_params
    held = max(1, int(max_bytes // (2 * q * torch.finfo(rows.dtype).bits // 8)))
    generator = torch.Generator().manual_seed(rows.seed)
    directions = torch.randn(q, DIRECTIONS, generator=generator, dtype=torch.float32)
    gram, projections = torch.empty(m, m, dtype=torch.float64), torch.empty(m, DIRECTIONS, dtype=torch.float64)
    edges = list(range(0, m, held))
    for start in edges:
        a = rows(start, min(start + held, m))
        stop = start + len(a)
        projections[start:stop] = (a @ directions.to(a)).double().cpu()
        for other in edges:
            if other < start:
                continue
            b = a if other == start else rows(other, min(other + held, m))
            block = (a @ b.T).double().cpu()
            gram[start:stop, other : other + len(b)] = block
            gram[other : other + len(b), start:stop] = block.T
    return gram, projections


class _Sums:
    """Sums over a Gram matrix, arranged so that leaving out one group of rows costs O(m), not O(m²)."""

    def __init__(self, gram: Tensor) -> None:
        m = len(gram)
        self.groups = min(GROUPS, m)
        self.member = torch.arange(m) % self.groups
        groups = nn.functional.one_hot(self.member, self.groups).to(gram.dtype)
        centred = _centred(gram)  # the statistics of C do not depend on the origin; far from it they would cancel
        self.rows, self.squares = centred @ groups, centred**2 @ groups
        self.diagonal = centred.diagonal()
        self.blocks, self.traces = groups.T @ gram @ groups, gram.diagonal() @ groups

    def kept(self, left_out: int | None) -> Tensor:
        return self.member != (-1 if left_out is None else left_out)

    def without(self, left_out: int | None) -> tuple[float, float, float]:
        """Returns tr C, |g|², tr C² of one row, each unbiased; of all rows if None is left out.

        tr C² is the U-statistic of E[(g1 - μ)·(g2 - μ)]² over distinct rows (Chen, Zhang, Zhong 2010), in which no
        diagonal element enters: the plug-in from m ≪ q rows is dominated by its diagonal.
        """
        keep = self.kept(left_out)
        groups = torch.arange(self.groups) != (-1 if left_out is None else left_out)
        n, diagonal = int(keep.sum()), self.diagonal[keep]
        row = self.rows[keep][:, groups].sum(1) - diagonal
        pairs = float((self.squares[keep][:, groups].sum(1) - diagonal**2).sum())
        triples = float((row**2).sum()) - pairs
        quadruples = float(row.sum()) ** 2 - 4 * triples - 2 * pairs
        trace_c = float(diagonal.sum() - (row.sum() + diagonal.sum()) / n) / (n - 1)
        mean_square = float(self.blocks[groups][:, groups].sum() - self.traces[groups].sum()) / (n * (n - 1))
        three = n * (n - 1) * (n - 2)
        square_trace = pairs / (n * (n - 1)) - 2 * triples / three + quadruples / (three * (n - 3))
        return trace_c, mean_square, square_trace


def _centred(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _eigenvalues(gram: Tensor, size: float, k: int) -> Tensor:
    if not bool(gram.isfinite().all()):  # LAPACK would raise
        return gram.new_full((min(k, len(gram)),), math.nan)
    return size * torch.linalg.eigvalsh(_centred(gram)).flip(0)[:k].clamp(min=0) / (len(gram) - 1)


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def _kurtosis(projections: Tensor) -> float:
    """Returns the mean excess kurtosis over the directions, by the unbiased cumulants (k-statistics)."""
    m = len(projections)
    x = projections - projections.mean(0)
    second, fourth = (x**2).sum(0), (x**4).sum(0)
    above = m * (m + 1) * fourth / (m - 1) - 3 * second**2
    return float(((m - 1) ** 2 * above / ((m - 2) * (m - 3) * second**2)).mean())


def _jackknife(f: Callable[[int | None], list[float]], groups: int) -> list[Estimate]:
    """Returns f of all rows, with intervals from leaving out one group of rows at a time."""
    left = torch.tensor([f(g) for g in range(groups)], dtype=torch.float64)
    spread = ((groups - 1) / groups * ((left - left.mean(0)) ** 2).sum(0)).sqrt()
    half = t_quantile(groups - 1) * spread
    return [Estimate.around(v, float(h), 0, left[:, i]) for i, (v, h) in enumerate(zip(f(None), half))]


def _scaled(e: Estimate, factor: float) -> Estimate:
    return Estimate.around(factor * e.value, abs(factor) * e.error, e.products, factor * e.samples)


def _align(h: LossHessian, pairs: Tensor, size: float, trace_c: Estimate, square_c: Estimate) -> tuple[Alignment, int]:
    before = h.products
    d = pairs.T.to(h.device, h.dtype)
    if len(d) != h.num_params:
        raise ValueError(f"hessian: {h.num_params} rows, the gradients have {len(d)}")
    trace_hc = Estimate.of(size * (d * h.matmat(d)).sum(0).double().cpu(), d.shape[1])
    if not math.isfinite(trace_hc.value):
        return Alignment(math.nan, math.nan, trace_hc, math.nan, math.nan), h.products - before
    run = Lanczos(h, seeded(0))  # its steps serve both
    norm_h = frobenius_norm(h, tol=0.05, max_products=100, lanczos=run)
    trace_h = trace(h, tol=0.1, max_products=100, lanczos=run)
    norm_c = math.sqrt(max(square_c.value, 0.0))
    cosine, cosine_error = _quotient(trace_hc, norm_h, (norm_c, _ratio(square_c.error, 2 * norm_c)))
    lift, lift_error = _quotient(_scaled(trace_hc, h.num_params), trace_h, (trace_c.value, trace_c.error))
    return Alignment(cosine, lift, trace_hc, cosine_error, lift_error), h.products - before


def _quotient(above: Estimate, first: Estimate, second: tuple[float, float]) -> tuple[float, float]:
    """Returns above/(first · second) and its error, to first order, the three taken as independent."""
    below = first.value * second[0]
    if not below:
        return math.nan, math.nan
    value = above.value / below
    parts = above.error / below, value * first.error / first.value, value * second[1] / second[0]
    return value, math.hypot(*parts)
