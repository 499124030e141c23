"""The largest eigenvalues of a symmetric operator by Lanczos' method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from three_factors.callbacks.functional.fields import positive, positive_whole
from three_factors.callbacks.functional.lanczos import Lanczos, run_of
from three_factors.callbacks.functional.operators import Operator
from three_factors.callbacks.functional.restarts import fewest_vectors

CONFIRMING = 4  # steps at least


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenpairs.

    Attributes:
        values: (k,), float64, the largest first.
        vectors: (q, k), orthonormal.
        residuals: (k,), |H v - λ v|: an eigenvalue lies that near for certain. Mostly it lies much nearer, at
            residual²/gap, but the gap to eigenvalues that have not shown yet is not known.
        products: H v computed for it.
        converged: every residual is within the tolerance asked for.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool

    @property
    def error(self) -> Tensor:
        """Returns the residuals, as the bound that they are."""
        return self.residuals


def top_eigenvalues(
    operator: Operator,
    k: int = 1,
    tol: float = 1e-3,
    seed: int = 0,
    *,
    which: Literal["algebraic", "magnitude"] = "algebraic",
    max_products: int | None = None,
    max_vectors: int | None = 64,
    lanczos: Lanczos | None = None,
) -> Eigenvalues:
    """Returns the k largest distinct eigenvalues (of largest magnitude, if asked for), each to the relative error
    `tol`.

    Stops once every residual has been at most tol |λ|, with the same values, for a quarter more Lanczos steps (four at
    least), or after `max_products` of them (default max(200, 4 k)). A residual tells that there is an eigenvalue, not
    that it is the largest: from a start that hardly has the largest one's direction the next is found first, and some
    steps more find it out (of 1 500 starts on a spectrum like a classifier's 5 were wrong at `tol` without, none with
    them). Under torch.distributed every rank computes the same numbers.

    Args:
        max_vectors: vectors of q values that are kept at most, see `Lanczos`: with fewer of them the search restarts
            sooner and takes more products. None keeps one a step.
        lanczos: a run on `operator` to use and extend, in place of a new one from `seed`, with its own `max_vectors`.
            The result is the same however far it has been extended; `products` counts the steps that it lacked (and
            those that it makes anew, where it has restarted since).

    Raises:
        ValueError: k is not in 1 … q, `tol` or `max_products` not positive, max_vectors too small for k, or `lanczos`
            of another operator.
    """
    q = operator.num_params
    if not 1 <= k <= q:
        raise ValueError(f"k: {k} eigenvalues of a matrix with {q} rows")
    if which not in ("algebraic", "magnitude"):
        raise ValueError(f"which: {which!r} is neither 'algebraic' nor 'magnitude'")
    positive("tol", tol)
    if max_products is not None:
        positive_whole("max_products", max_products)
    lanczos = run_of(operator, seed, lanczos, max_vectors)
    limit = max(k, max(200, 4 * k) if max_products is None else max_products)
    if lanczos.room == q:
        limit = min(q, limit)
    elif lanczos.room < min(fewest_vectors(k), limit):
        raise ValueError(
            f"max_vectors: {lanczos.max_vectors} are too few for k: {k} eigenvalues; "
            f"at least {fewest_vectors(k)}, or None, which keeps one a product"
        )
    before = lanczos.products
    found: tuple[int, Tensor] | None = None  # the step since which these values have converged
    for m in range(k, limit + 1):
        lanczos.extend(m)
        values, inside, residuals = lanczos.ritz(m)
        order = torch.argsort(values if which == "algebraic" else values.abs(), descending=True, stable=True)[:k]
        floor = 10 * torch.finfo(operator.dtype).eps * float(values.abs().max())
        converged = bool((residuals[order] <= torch.clamp(tol * values[order].abs(), min=floor)).all())
        if not values.isfinite().all():
            break
        if not converged or (found is not None and not _same(values[order], found[1], tol, floor)):
            found = None
        if converged and found is None:
            found = m, values[order]
        if found is not None and m >= found[0] + max(CONFIRMING, found[0] // 4):
            break
    chosen = inside[:, order].to(operator.device, operator.dtype)
    vectors = lanczos.vectors(m).T @ chosen
    return Eigenvalues(
        values[order],
        vectors,
        residuals[order],
        lanczos.products - before,
        (converged or lanczos.rows(m) == q) and bool(values.isfinite().all()),
    )


def _same(values: Tensor, before: Tensor, tol: float, floor: float) -> bool:
    return bool(((values - before).abs() <= torch.clamp(tol * values.abs(), min=floor)).all())
