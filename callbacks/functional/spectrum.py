"""Of the whole spectrum by Lanczos' method: its density, and the log-determinant above a cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from three_factors.callbacks.functional.estimates import Estimate, t_quantile
from three_factors.callbacks.functional.lanczos import Lanczos, seeded
from three_factors.callbacks.functional.operators import Operator


@dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalue density by stochastic Lanczos quadrature, one quadrature a start vector.

    Attributes:
        nodes: (vectors, steps).
        weights: (vectors, steps); those of a vector sum to 1.
        grid: (points,), eigenvalues at which the density is given.
        width: sd of the Gaussians it is smoothed with.
        values: (points,), mean density over the vectors; integrates to 1.
        error: (points,), 95 % half-width of `values` over the vectors.
        products: H v computed for it.
    """

    nodes: Tensor
    weights: Tensor
    grid: Tensor
    width: float
    values: Tensor
    error: Tensor
    products: int

    def expectation(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """Returns tr f(H) / q with a 95 % interval; exact for each vector if f is a polynomial of degree < 2 steps."""
        return Estimate.of((self.weights * f(self.nodes)).sum(1), self.products)


def spectral_density(
    operator: Operator,
    vectors: int = 8,
    steps: int = 64,
    seed: int = 0,
    *,
    grid: Tensor | None = None,
    points: int = 512,
    width: float | None = None,
) -> SpectralDensity:
    """Returns the density by stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017; for networks Ghorbani et al. 2019).

    `steps` Lanczos steps from each of `vectors` random unit vectors, one after the other; the vectors of all steps of
    one are kept, `steps` of q values. `width` is by default 1 % of the spectrum's.

    Raises:
        ValueError: fewer than 2 vectors, or less than one step.
    """
    if vectors < 2 or steps < 1:
        raise ValueError(f"vectors, steps: {vectors}, {steps}; at least 2 vectors and 1 step")
    steps = min(steps, operator.num_params)
    generator, products = seeded(seed), 0
    nodes, weights = [], []
    for _ in range(vectors):
        lanczos = Lanczos(operator, generator, max_vectors=None)  # its nodes are those of the whole Krylov space
        # At a breakdown the quadrature of this vector is exact; what follows has no weight.
        while lanczos.size < steps and (lanczos.size == 0 or lanczos.betas[-1] > 0):
            lanczos.step()
        products += lanczos.size
        values, inside, _ = lanczos.ritz()
        pad = steps - len(values)
        nodes.append(torch.cat([values, values[:1].expand(pad)]))  # a node that f is defined at
        weights.append(torch.cat([inside[0] ** 2, values.new_zeros(pad)]))
    node, weight = torch.stack(nodes), torch.stack(weights)
    low, high = float(node[weight > 0].min()), float(node[weight > 0].max())
    width = width or 0.01 * (high - low) or 1e-3 * abs(high) or 1e-3  # a single eigenvalue, or none but 0
    where = torch.linspace(low - 4 * width, high + 4 * width, points, dtype=torch.float64) if grid is None else grid
    kernel = torch.exp(-0.5 * ((where.double()[None, None] - node[..., None]) / width) ** 2)
    curves = (weight[..., None] * kernel).sum(1) / (width * math.sqrt(2 * math.pi))
    error = t_quantile(vectors - 1) * curves.std(0) / math.sqrt(vectors)
    return SpectralDensity(node, weight, where, width, curves.mean(0), error, products)


@dataclass(frozen=True)
class LogDeterminant:
    """Σ log λ over the `count` eigenvalues above `cut`, within ± `error`. Not `converged`: there may be more."""

    value: float
    error: float
    low: float
    high: float
    products: int
    count: int
    cut: float
    converged: bool


class _Without:
    """(1 - VV') H (1 - VV') for orthonormal V: the operator without the eigenvectors found so far."""

    def __init__(self, operator: Operator, found: Tensor) -> None:
        self.operator, self.found = operator, found
        self.num_params, self.device, self.dtype = operator.num_params, operator.device, operator.dtype

    def matvec(self, vector: Tensor) -> Tensor:
        return self.project(self.operator.matvec(self.project(vector)))

    def matmat(self, vectors: Tensor) -> Tensor:
        return self.project(self.operator.matmat(self.project(vectors)))

    def project(self, vectors: Tensor) -> Tensor:
        return vectors - self.found @ (self.found.T @ vectors)


def log_determinant(operator: Operator, cut: float, seed: int = 0, *, max_products: int = 300) -> LogDeterminant:
    """Returns log det of H on the space of its eigenvalues above `cut` (Theorem 2's det H; over all of them it is 0).

    Lanczos until every Ritz value above the cut is settled (its residual is small and less than its distance to the
    cut) and at least eight lie below it, the largest of those settled; then again without the eigenvectors found,
    until a round finds none, so that multiple eigenvalues count as often as they occur. Where `max_products` do not
    suffice, the sum over those that are settled comes back with an infinite error: take a higher cut. Stochastic
    quadrature would give a number here, but with a bias at the cut that its interval does not show.
    A vector of q values is kept for every product of a round and every eigenvector found.

    Raises:
        ValueError: cut is not positive.
    """
    if not cut > 0:
        raise ValueError(f"cut: {cut!r} is not positive; log λ is summed over the eigenvalues above it")
    generator = seeded(seed)
    vectors = torch.empty(operator.num_params, 0, device=operator.device, dtype=operator.dtype)
    values, residuals = (torch.empty(0, dtype=torch.float64) for _ in range(2))
    left, done = max_products, False
    while not done and left > 0:
        lanczos = Lanczos(_Without(operator, vectors), generator, max_vectors=None)
        finished = _run_to_cut(lanczos, cut, left)
        left -= lanczos.size
        ritz, inside, residual = lanczos.ritz()
        settled = _settled(ritz, residual, cut) & (ritz > cut)
        chosen = inside[:, settled].to(operator.device, operator.dtype)
        vectors = torch.cat([vectors, lanczos.basis[: lanczos.size].T @ chosen], dim=1)
        values, residuals = torch.cat([values, ritz[settled]]), torch.cat([residuals, residual[settled]])
        if not finished:
            break
        done = lanczos.complete or not settled.any()
    value = float(values.log().sum())
    half = float((residuals / values).sum()) if done else math.inf
    return LogDeterminant(value, half, value - half, value + half, max_products - left, len(values), cut, done)


def _run_to_cut(lanczos: Lanczos, cut: float, limit: int) -> bool:
    """Steps until every eigenvalue of the Krylov space above the cut is settled; False at `limit` steps."""
    while lanczos.size < limit:
        lanczos.step()
        values, _, residuals = lanczos.ritz()
        settled, below = _settled(values, residuals, cut), values <= cut
        if lanczos.complete or (settled[~below].all() and int(below.sum()) >= 8 and settled[below][-1]):
            return True
    return False


def _settled(values: Tensor, residuals: Tensor, cut: float) -> Tensor:
    """Tells whether it is certain on which side of the cut the eigenvalue lies; above it, whether its logarithm is."""
    return (residuals < (values - cut).abs()) & ((values <= cut) | (residuals <= 1e-3 * values.abs()))
