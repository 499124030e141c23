"""Lanczos' method for a symmetric operator, in a bounded number of vectors.

Full reorthogonalisation (twice), so that no eigenvalue appears in copies; a breakdown (an invariant subspace) is
continued with a fresh random vector. Before that a Krylov space holds one vector of each eigenspace: of an eigenvalue
that occurs several times (the Hessian of linear regression with several outputs) one copy is found.

A full basis is restarted thickly (Wu, Simon 2000): it becomes the Ritz vectors at the spectrum's ends, and the run goes
on from the last residual. A network's outliers are long settled by then and cost no further product.

The first m steps of a run are the run of m steps: one serves eigenvalues, trace and Frobenius norm.

    run = Lanczos(H, torch.Generator().manual_seed(0))
    trace(H, lanczos=run), frobenius_norm(H, lanczos=run), top_eigenvalues(H, lanczos=run)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from three_factors.callbacks.functional.operators import Operator
from three_factors.callbacks.functional.restarts import Cycle, both_ends, fewest_vectors, first_cycle

FIRST = 24  # rows that a bounded basis has on a GPU before it gets all that it may have: most measurements end there


class Lanczos:
    """The factorisation H V = V T + beta v e^T, a product a step, to be continued by whoever needs more steps.

    V^T are the first `held` rows of `basis`. It holds for the H it was made with: after a change of the weights take
    a new one. T of every step is kept (a few numbers), V of the last one alone. Where an earlier V is asked for that a
    restart has overwritten, the run begins anew in the same memory: keeping those vectors too would need more of it.
    Take trace and norm, which need 16 and 24 steps, before eigenvalues, and no product is made twice.

    Args:
        generator: of the start vector and of those after a breakdown.
        start: (q,), in place of a normal random vector; not to be changed while the run is used.
        max_vectors: rows of q values that `basis` has at most. Until it is full the run does not depend on it; then it
            is restarted. None keeps every vector.

    Attributes:
        alphas, betas: of every step; betas[i] leads out of the space of i + 1 steps.
        products: H v computed, those of steps that were made anew too.

    Raises:
        ValueError: max_vectors is less than 6.
    """

    def __init__(
        self,
        operator: Operator,
        generator: torch.Generator,
        start: Tensor | None = None,
        *,
        max_vectors: int | None = 64,
    ) -> None:
        if max_vectors is not None and max_vectors < fewest_vectors(1):
            raise ValueError(
                f"max_vectors: {max_vectors!r} is less than {fewest_vectors(1)}, which one eigenvalue takes"
            )
        self.operator, self.generator, self.max_vectors = operator, generator, max_vectors
        self.products = 0
        self.basis = torch.empty(0, operator.num_params, device=operator.device, dtype=operator.dtype)
        self._start, self._origin = start, generator.get_state()
        self._begin()

    def _begin(self) -> None:
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self._cycles = [first_cycle()]
        first = self._random() if self._start is None else self._start.to(self.operator.device, self.operator.dtype)
        self._next = first / first.norm()
        self._drawn = [(0, self.generator.get_state())]  # (steps, the generator's state after the draws made by then)

    @property
    def size(self) -> int:
        """Returns the number of steps made."""
        return len(self.alphas)

    @property
    def room(self) -> int:
        """Returns the rows that the basis has at most."""
        q = self.operator.num_params
        return q if self.max_vectors is None else min(q, self.max_vectors)

    @property
    def complete(self) -> bool:
        """Tells whether the basis spans everything."""
        return self.held == self.operator.num_params

    @property
    def held(self) -> int:
        """Returns the rows in use now."""
        return self._cycles[-1].rows(self.size)

    def rows(self, steps: int) -> int:
        """Returns the rows in use once so many steps were made."""
        return self._cycle(steps).rows(steps)

    def extend(self, steps: int) -> None:
        """Continues to at least so many steps."""
        self._reserve(min(steps, self.room))
        while self.size < steps:
            self.step()

    def generator_after(self, steps: int) -> torch.Generator:
        """Returns a generator as it stood after so many steps: its draws are independent of the basis up to there.

        It does not depend on the steps that followed.
        """
        state = next(state for size, state in reversed(self._drawn) if size <= steps)
        return torch.Generator().set_state(state)

    def step(self) -> None:
        """Makes one step, for one product: adds a row to the basis, which it restarts if that is full."""
        if self.held == self.room < self.operator.num_params:
            self._restart()
        row = self.held
        self._reserve(row + 1)
        self.basis[row] = self._next
        self._next = self.basis[row]
        w = self.operator.matvec(self._next)
        self.products += 1
        known = self.basis[: row + 1]
        coefficients = self._orthogonalise(w, known)
        self.alphas.append(float(coefficients[row]))
        beta = float(w.norm())
        scale = max(map(abs, (*self.alphas, *self.betas)))
        if not beta <= 10 * torch.finfo(w.dtype).eps * scale:  # larger, or NaN
            self.betas.append(beta)
            self._next = w.div_(beta)
        else:
            self.betas.append(0.0)
            del w
            if not self.complete:
                self._next = self._fresh(known)

    def vectors(self, steps: int) -> Tensor:
        """Returns V^T of the first `steps` steps, (rows, q): a view of the basis, valid until a further step."""
        if 0 < steps <= self._cycles[-1].begin:
            self.generator = torch.Generator().set_state(self._origin)
            self._begin()
        self.extend(steps)
        return self.basis[: self.rows(steps)]

    def projected(self, steps: int | None = None) -> Tensor:
        """Returns T = V'HV of the first m = `steps` steps (by default all), (rows, rows) float64.

        Tridiagonal before the first restart; after one, its first rows are diagonal with an arrowhead.
        """
        m = self.size if steps is None else steps
        return self._cycle(m).projected(self.alphas, self.betas, m)

    def tridiagonal(self, steps: int | None = None) -> Tensor:
        """Returns the same before the first restart, where it is tridiagonal. Raises ValueError after it."""
        m = self.size if steps is None else steps
        if self._cycle(m).begin:
            raise ValueError(f"steps: {m} with a restart at {self.room}, where T is projected() and not tridiagonal")
        return self.projected(m)

    def ritz(self, steps: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns Ritz values (m,) ascending, their vectors in the basis (m, m), their residuals (m,); NaN for a NaN
        matrix.

        Of the m = `rows(steps)` vectors after `steps` steps, at least one; by default all.
        """
        matrix = self.projected(steps)
        if not matrix.isfinite().all():
            return matrix[0] * math.nan, torch.full_like(matrix, math.nan), matrix[0] * math.nan
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors, self.betas[(self.size if steps is None else steps) - 1] * vectors[-1].abs()

    def _cycle(self, steps: int) -> Cycle:
        """Returns the one that the last of so many steps belongs to."""
        return next(cycle for cycle in reversed(self._cycles) if cycle.begin < steps or cycle.begin == 0)

    def _restart(self) -> None:
        values, inside, _ = self.ritz()
        kept = both_ends(values, self.room // 3)
        self._cycles.append(Cycle(self.size, values[kept], self.betas[-1] * inside[-1, kept]))
        turn = inside[:, kept].T.to(self.basis.device, self.basis.dtype)
        # In place, a few columns at a time: what is computed beside the basis has fewer than q values.
        for columns in self.basis.split(math.ceil(self.operator.num_params / self.room), dim=1):
            columns[: len(kept)] = turn @ columns

    def _reserve(self, rows: int) -> None:
        if rows <= len(self.basis):
            return
        if self.max_vectors is None:
            held, rows = self.basis, min(max(rows, len(self.basis) + 16), self.room)
        else:
            # Never two bases at a time: a CPU gives a page when it is first written to, so all rows may be asked for
            # at once; what a GPU holds waits in the CPU's memory while the larger basis is made.
            held = self.basis.cpu()
            self.basis = self.basis[:0].clone()
            few = self.basis.device.type != "cpu" and rows <= FIRST
            rows = min(FIRST, self.room) if few else self.room
        grown = self.basis.new_empty(rows, self.operator.num_params)
        grown[: len(held)] = held
        self.basis = grown

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
        return w.div_(w.norm())

    def _random(self) -> Tensor:
        # Drawn on the CPU: the same numbers on every rank and every device.
        draw = torch.randn(self.operator.num_params, generator=self.generator, dtype=torch.float64)
        return draw.to(self.operator.device, self.operator.dtype)


def run_of(operator: Operator, seed: int, lanczos: Lanczos | None, max_vectors: int | None) -> Lanczos:
    """Returns the run that is given, or a new one from `seed`. Raises ValueError if it is of another operator."""
    if lanczos is None:
        return Lanczos(operator, seeded(seed), max_vectors=max_vectors)
    if lanczos.operator is not operator:
        raise ValueError("lanczos: a run on another operator than the one to measure")
    return lanczos


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
