"""Trace and Frobenius norm of a symmetric operator from products with random vectors (Hutchinson 1990)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from callbacks.functional.estimates import Estimate, two_stage
from callbacks.functional.lanczos import Lanczos, Operator

PILOT = 16  # samples; fewer make the t quantile large and the interval sensitive to skewness


class _Probes:
    """A fixed sequence of Rademacher vectors, drawn on the CPU: the same on every rank and device."""

    def __init__(self, operator: Operator, generator: torch.Generator) -> None:
        self.operator, self.generator = operator, generator

    def __call__(self, n: int) -> Tensor:
        """The next n, (q, n)."""
        shape = (n, self.operator.num_params)
        draws = torch.randint(0, 2, shape, generator=self.generator, dtype=torch.int8)
        return draws.T.to(self.operator.device, self.operator.dtype).mul_(2).sub_(1)


class _Deflated:
    """What `deflated` Lanczos steps tell exactly, and samples of what is left.

    With Q their orthonormal basis, T = Q'HQ and P = 1 - QQ': tr H = tr T + tr PHP and
    |H|_F² = |T|² + 2 beta² + |PHP|_F², however far the eigenvalues in Q have converged. They are mostly the largest,
    which alone make a random vector's sample spread much, and skewed.
    """

    def __init__(self, operator: Operator, seed: int, deflated: int, block: int) -> None:
        if deflated < 0:
            raise ValueError(f"deflated: {deflated} is negative")
        if block < 1:
            raise ValueError(f"block: {block} is less than 1")
        self.operator, self.block = operator, block
        generator = torch.Generator().manual_seed(seed)
        self.lanczos = Lanczos(operator, generator)
        q = operator.num_params
        steps = q if q - min(deflated, q) <= PILOT else deflated  # the last few rows are as cheap exactly
        while self.lanczos.size < steps:
            self.lanczos.step()
        self.basis = self.lanczos.basis[: self.lanczos.size].T
        self.probes = _Probes(operator, generator)

    @property
    def products(self) -> int:
        return self.lanczos.size

    def project(self, v: Tensor) -> Tensor:
        return v - self.basis @ (self.basis.T @ v)

    def sample(self, n: int, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """of(Pv, HPv) for the next n probes, (n,) float64; `block` of them share a gradient's graph."""
        found = []
        for start in range(0, n, self.block):
            v = self.project(self.probes(min(self.block, n - start)))
            found.append(of(v, self.operator.matmat(v)).cpu())
        return torch.cat(found)


def trace(
    operator: Operator,
    tol: float = 0.03,
    seed: int = 0,
    *,
    deflated: int = 16,
    block: int = 4,
    max_products: int = 1000,
) -> Estimate:
    """tr H = tr T + E[v·PHPv] over Rademacher v, to the relative error `tol` at 95 % confidence.

    T is of `deflated` Lanczos steps, see `_Deflated`: on trained networks the sample's sd is then a half to a quarter,
    and its interval holds where a few eigenvalues are most of the trace. The number of vectors is fixed by a pilot of
    16 (see `two_stage`). The trace of an operator with few more rows than that is exact.
    """
    deflation = _Deflated(operator, seed, deflated, block)
    inside = sum(deflation.lanczos.alphas)
    if deflation.lanczos.complete:
        return Estimate.exact(inside, deflation.products)
    rest = two_stage(
        lambda n: deflation.sample(n, lambda v, hv: (v * hv).sum(0, dtype=torch.float64)),
        lambda mean: tol * abs(inside + mean),
        pilot=PILOT,
        limit=max_products,
    )
    products = deflation.products + rest.products
    return Estimate.around(inside + rest.value, rest.error, products, inside + rest.samples, rest.converged)


def frobenius_norm(
    operator: Operator,
    tol: float = 0.01,
    seed: int = 0,
    *,
    deflated: int = 24,
    block: int = 4,
    max_products: int = 1000,
) -> Estimate:
    """|H|_F to the relative error `tol` at 95 % confidence, from |H|_F² = |T|² + 2 beta² + E|PHPv|², v Rademacher.

    T and beta are of `deflated` Lanczos steps, see `_Deflated`. Without deflation 1 % takes hundreds of products.
    """
    deflation = _Deflated(operator, seed, deflated, block)
    lanczos = deflation.lanczos
    inside = float((lanczos.tridiagonal() ** 2).sum()) + (2 * lanczos.betas[-1] ** 2 if lanczos.size else 0.0)
    if lanczos.complete:
        return Estimate.exact(math.sqrt(inside), lanczos.size)
    # d|H|/|H| = d(|H|²)/(2 |H|²)
    rest = two_stage(
        lambda n: deflation.sample(n, lambda v, hv: (deflation.project(hv) ** 2).sum(0, dtype=torch.float64)),
        lambda mean: 2 * tol * (inside + mean),
        pilot=PILOT,
        limit=max_products,
    )
    value, low, high = (math.sqrt(max(inside + x, 0.0)) for x in (rest.value, rest.low, rest.high))
    return Estimate(value, (high - low) / 2, low, high, lanczos.size + rest.products, rest.samples, rest.converged)
