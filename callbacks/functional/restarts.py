"""Thick restarts of Lanczos' method (Wu, Simon 2000): what they keep, and the projected matrix that follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cycle:
    """The steps from one restart to the next, and what the restart has left of T.

    Attributes:
        begin: steps made before it.
        values: (p,), the Ritz values kept.
        couplings: (p,), of their vectors to the first one that follows.
    """

    begin: int
    values: Tensor
    couplings: Tensor

    def rows(self, steps: int) -> int:
        """Returns the vectors that there are once so many steps were made in all."""
        return len(self.values) + steps - self.begin

    def projected(self, alphas: list[float], betas: list[float], steps: int) -> Tensor:
        """Returns T once so many steps were made, (rows, rows) float64; alphas and betas are of all steps."""
        p = len(self.values)
        diagonal = torch.tensor(alphas[self.begin : steps], dtype=torch.float64)
        off = torch.tensor(betas[self.begin : max(steps - 1, 0)], dtype=torch.float64)
        off = torch.cat([off.new_zeros(p), off])
        matrix = torch.diag(torch.cat([self.values, diagonal])) + torch.diag(off, 1) + torch.diag(off, -1)
        if p:
            matrix[p, :p] = matrix[:p, p] = self.couplings
        return matrix


def first_cycle() -> Cycle:
    none = torch.empty(0, dtype=torch.float64)
    return Cycle(0, none, none)


def both_ends(values: Tensor, n: int) -> Tensor:
    """Tells which 2 n of ascending Ritz values to keep: the n largest, and of the others the n of largest magnitude.

    These are of both ends of the spectrum, whatever its signs, and have the n algebraically largest and the n of
    largest magnitude among them. Keeping two thirds took fewer products than a half wherever restarts told at all.
    """
    rest = len(values) - n
    large = values[:rest].abs().argsort(descending=True, stable=True)[:n]
    return torch.cat([large.sort().values, torch.arange(rest, len(values))])


def fewest_vectors(k: int) -> int:
    """Returns the smallest `max_vectors` for k eigenvalues: of each end a restart keeps one more."""
    return 3 * (k + 1)
