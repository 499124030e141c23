"""Trace and Frobenius norm of a symmetric operator from products with random vectors (Hutchinson 1990)."""

from __future__ import annotations

import math

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


def trace(
    operator: Operator,
    tol: float = 0.03,
    seed: int = 0,
    *,
    block: int = 4,
    max_products: int = 1000,
) -> Estimate:
    """tr H = E[v·Hv] over Rademacher v, to the relative error `tol` at 95 % confidence.

    The number of vectors is fixed by a pilot of 16 (see `two_stage`); `block` vectors share a gradient's graph. Of an
    operator with at most 16 rows the trace is exact.
    """
    if operator.num_params <= PILOT:
        eye = torch.eye(operator.num_params, device=operator.device, dtype=operator.dtype)
        return Estimate.exact(float(operator.matmat(eye).diagonal().double().sum()), operator.num_params)
    probes = _Probes(operator, torch.Generator().manual_seed(seed))

    def sample(n: int) -> Tensor:
        found = []
        for start in range(0, n, block):
            v = probes(min(block, n - start))
            found.append((v * operator.matmat(v)).sum(0, dtype=torch.float64).cpu())
        return torch.cat(found)

    return two_stage(sample, lambda mean: tol * abs(mean), pilot=PILOT, limit=max_products)


def frobenius_norm(
    operator: Operator,
    tol: float = 0.01,
    seed: int = 0,
    *,
    deflated: int = 24,
    block: int = 4,
    max_products: int = 1000,
) -> Estimate:
    """|H|_F to the relative error `tol` at 95 % confidence.

    |H|_F² = |T|² + 2 beta² + |P H P|_F², with T and beta of `deflated` Lanczos steps (which hold the largest
    eigenvalues) and P the projection off their space. The identity is exact however far those have converged; the
    last term is E|PHPv|² over Rademacher v. Without deflation 1 % takes hundreds of products.
    """
    q = operator.num_params
    generator = torch.Generator().manual_seed(seed)
    lanczos = Lanczos(operator, generator)
    while lanczos.size < min(deflated, q):
        lanczos.step()
    inside = float((lanczos.tridiagonal() ** 2).sum()) + 2 * lanczos.betas[-1] ** 2
    if q - lanczos.size <= PILOT:  # then the rest is as cheap exactly
        while not lanczos.complete:
            lanczos.step()
        return Estimate.exact(math.sqrt(float((lanczos.tridiagonal() ** 2).sum())), lanczos.size)
    basis = lanczos.basis[: lanczos.size].T
    probes = _Probes(operator, generator)

    def project(v: Tensor) -> Tensor:
        return v - basis @ (basis.T @ v)

    def sample(n: int) -> Tensor:
        found = []
        for start in range(0, n, block):
            v = project(probes(min(block, n - start)))
            found.append((project(operator.matmat(v)) ** 2).sum(0, dtype=torch.float64).cpu())
        return torch.cat(found)

    # d|H|/|H| = d(|H|²)/(2 |H|²)
    rest = two_stage(sample, lambda mean: 2 * tol * (inside + mean), pilot=PILOT, limit=max_products)
    value, low, high = (math.sqrt(max(inside + x, 0.0)) for x in (rest.value, rest.low, rest.high))
    return Estimate(value, (high - low) / 2, low, high, lanczos.size + rest.products, rest.samples, rest.converged)
