"""The largest eigenvalues of a symmetric operator by Lanczos' method.

Full reorthogonalisation (twice), so that no eigenvalue appears in copies; a breakdown (an invariant subspace) is
continued with a fresh random vector. Before that a Krylov space holds one vector of each eigenspace: of an eigenvalue
that occurs several times (the Hessian of linear regression with several outputs) one copy is found.

The first m steps of a run are the run of m steps: one serves eigenvalues, trace and Frobenius norm.

    run = Lanczos(H, torch.Generator().manual_seed(0))
    top_eigenvalues(H, lanczos=run), trace(H, lanczos=run), frobenius_norm(H, lanczos=run)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A symmetric linear operator, such as HessianOperator. Its products are new tensors, free to be written to."""

    num_params: int
    device: torch.device
    dtype: torch.dtype

    def matvec(self, vector: Tensor) -> Tensor: ...
    def matmat(self, vectors: Tensor) -> Tensor: ...


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
        """The residuals, as the bound that they are."""
        return self.residuals


class Lanczos:
    """The factorisation H V = V T + beta v e^T, a product a step, to be continued by whoever needs more steps.

    `basis` is V^T in its first `size` rows, of (size, q) values that are kept. It holds for the H it was made with:
    after a change of the weights take a new one.

    Args:
        generator: of the start vector and of those after a breakdown.
        start: (q,), in place of a normal random vector.
    """

    def __init__(self, operator: Operator, generator: torch.Generator, start: Tensor | None = None) -> None:
        self.operator, self.generator = operator, generator
        self.alphas: list[float] = []
        self.betas: list[float] = []  # betas[i] couples i and i + 1; the last one leads out of the space
        first = self._random() if start is None else start.to(operator.device, operator.dtype)
        self.basis = torch.empty(0, operator.num_params, device=operator.device, dtype=operator.dtype)
        self._next = first / first.norm()
        self._drawn = [(0, generator.get_state())]  # (steps, the generator's state after the draws made by then)

    @property
    def size(self) -> int:
        return len(self.alphas)

    @property
    def complete(self) -> bool:
        return self.size == self.operator.num_params

    def extend(self, steps: int) -> None:
        """Continues to at least so many steps."""
        while self.size < steps:
            self.step()

    def generator_after(self, steps: int) -> torch.Generator:
        """A generator as it stood after so many steps: its draws are independent of the basis up to there.

        It does not depend on the steps that followed.
        """
        state = next(state for size, state in reversed(self._drawn) if size <= steps)
        return torch.Generator().set_state(state)

    def step(self) -> None:
        m = self.size
        if m == len(self.basis):
            grown = self.basis.new_empty(min(m + 16, self.operator.num_params), self.basis.shape[1])
            grown[:m] = self.basis
            self.basis = grown
        self.basis[m] = self._next
        w = self.operator.matvec(self.basis[m])
        known = self.basis[: m + 1]
        coefficients = self._orthogonalise(w, known)
        self.alphas.append(float(coefficients[m]))
        beta = float(w.norm())
        scale = max(map(abs, (*self.alphas, *self.betas)))
        if not beta <= 10 * torch.finfo(w.dtype).eps * scale:  # larger, or NaN
            self.betas.append(beta)
            self._next = w / beta
        else:
            self.betas.append(0.0)
            if not self.complete:
                self._next = self._fresh(known)

    def tridiagonal(self, steps: int | None = None) -> Tensor:
        """T of the first m = `steps` steps (by default all), (m, m) float64."""
        m = self.size if steps is None else steps
        off = torch.tensor(self.betas[: max(m - 1, 0)], dtype=torch.float64)
        return torch.diag(torch.tensor(self.alphas[:m], dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)

    def ritz(self, steps: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (m,) ascending, their vectors in the basis (m, m), their residuals (m,); NaN for a NaN matrix.

        Of the first m = `steps` steps, at least one; by default all.
        """
        m = self.size if steps is None else steps
        matrix = self.tridiagonal(m)
        if not matrix.isfinite().all():
            return matrix.new_full((m,), math.nan), torch.full_like(matrix, math.nan), matrix[0] * math.nan
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors, self.betas[m - 1] * vectors[-1].abs()

    def _orthogonalise(self, w: Tensor, known: Tensor) -> Tensor:
        total = torch.zeros(len(known), device=w.device, dtype=w.dtype)
        for _ in range(2):
            coefficients = known @ w
            w.sub_(known.T @ coefficients)
            total += coefficients
        return total

    def _fresh(self, known: Tensor) -> Tensor:
        w = self._random()
        self._drawn.append((self.size, self.generator.get_state()))
        self._orthogonalise(w, known)
        return w / w.norm()

    def _random(self) -> Tensor:
        # Drawn on the CPU: the same numbers on every rank and every device.
        draw = torch.randn(self.operator.num_params, generator=self.generator, dtype=torch.float64)
        return draw.to(self.operator.device, self.operator.dtype)


def top_eigenvalues(
    operator: Operator,
    k: int = 1,
    tol: float = 1e-3,
    seed: int = 0,
    *,
    which: Literal["algebraic", "magnitude"] = "algebraic",
    max_products: int | None = None,
    lanczos: Lanczos | None = None,
) -> Eigenvalues:
    """The k largest distinct eigenvalues (of largest magnitude, if asked for), each to the relative error `tol`.

    Stops at the first Lanczos step at which every residual is at most tol |λ|, or after `max_products` of them
    (default max(200, 4 k)); the basis of (steps, q) values is kept. Under torch.distributed every rank computes the
    same numbers.

    Args:
        lanczos: a run on `operator` to use and extend, in place of a new one from `seed`. The result is the same
            however far it has been extended; `products` counts the steps that it lacked.

    Raises:
        ValueError: k is not in 1 … q, or `lanczos` is of another operator.
    """
    if not 1 <= k <= operator.num_params:
        raise ValueError(f"k: {k} eigenvalues of a matrix with {operator.num_params} rows")
    if which not in ("algebraic", "magnitude"):
        raise ValueError(f"which: {which!r} is neither 'algebraic' nor 'magnitude'")
    limit = min(operator.num_params, max_products or max(200, 4 * k))
    lanczos = run_of(operator, seed, lanczos)
    before = lanczos.size
    for m in range(k, max(k, limit) + 1):
        lanczos.extend(m)
        values, vectors, residuals = lanczos.ritz(m)
        order = torch.argsort(values if which == "algebraic" else values.abs(), descending=True, stable=True)[:k]
        floor = 10 * torch.finfo(operator.dtype).eps * float(values.abs().max())
        converged = bool((residuals[order] <= torch.clamp(tol * values[order].abs(), min=floor)).all())
        if converged or not values.isfinite().all():
            break
    chosen = vectors[:, order].to(operator.device, operator.dtype)
    return Eigenvalues(
        values[order],
        lanczos.basis[:m].T @ chosen,
        residuals[order],
        lanczos.size - before,
        (converged or m == operator.num_params) and bool(values.isfinite().all()),
    )


def run_of(operator: Operator, seed: int, lanczos: Lanczos | None) -> Lanczos:
    """The run that is given, or a new one from `seed`. Raises ValueError if it is of another operator."""
    if lanczos is None:
        return Lanczos(operator, seeded(seed))
    if lanczos.operator is not operator:
        raise ValueError("lanczos: a run on another operator than the one to measure")
    return lanczos


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
