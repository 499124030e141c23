"""Losses whose minima, curvature and Gibbs distribution are known: frozen dataclasses, vectorised over chains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from three_factors.reproduce.theory.fields import as_floats, check_positive_definite

SWITCH = 0.15  # over which x the transverse stiffness of `DoubleWell` goes from one well's to the other's


class Potential(Protocol):
    """A loss L on R^q. `theta` is (chains, q)."""

    @property
    def dim(self) -> int: ...
    def loss(self, theta: np.ndarray) -> np.ndarray: ...
    def gradient(self, theta: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Quadratic:
    """L = θ'Hθ/2 with a symmetric positive-definite H, given by rows."""

    hessian: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        as_floats(self, "hessian")
        check_positive_definite("hessian", self.hessian)

    @property
    def dim(self) -> int:
        return len(self.hessian)

    @property
    def matrix(self) -> np.ndarray:
        return np.array(self.hessian, dtype=float)

    def loss(self, theta: np.ndarray) -> np.ndarray:
        return ((theta @ self.matrix) * theta).sum(axis=1) / 2

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return theta @ self.matrix if self.dim > 1 else theta * self.hessian[0][0]


@dataclass(frozen=True)
class Quartic:
    """L = stiffness θ^2/2 + quartic θ^4/4 on the line: one minimum, and a Gibbs distribution that is no Gaussian."""

    stiffness: float = 1.0
    quartic: float = 1.0

    def __post_init__(self) -> None:
        as_floats(self, "stiffness", "quartic")
        for name in ("stiffness", "quartic"):
            if getattr(self, name) < 0 or self.stiffness == self.quartic == 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} leaves no single minimum")

    @property
    def dim(self) -> int:
        return 1

    def loss(self, theta: np.ndarray) -> np.ndarray:
        squares = theta[:, 0] ** 2
        return self.stiffness * squares / 2 + self.quartic * squares**2 / 4

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return theta * (self.stiffness + self.quartic * theta * theta)


@dataclass(frozen=True)
class DoubleWell:
    """Two minima that differ in depth and width, in q = 1 + len(stiffness_a) dimensions.

    L = barrier (x^2 - 1)^2 + tilt x + sum_j k_j(x) y_j^2/2. The stiffness k_j goes from `stiffness_a` in well A (x near
    -1) to `stiffness_b` in well B (x near 1). With tilt < 0 well A is the shallower one. The y are Gaussian given x, so
    that the Gibbs distribution is a quadrature over x alone, in any number of dimensions.
    """

    barrier: float
    tilt: float
    stiffness_a: tuple[float, ...] = ()
    stiffness_b: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        as_floats(self, "barrier", "tilt", "stiffness_a", "stiffness_b")
        if len(self.stiffness_a) != len(self.stiffness_b) or min((*self.stiffness_a, *self.stiffness_b, 1.0)) <= 0:
            raise ValueError(
                f"stiffness_a, stiffness_b: {self.stiffness_a!r}, {self.stiffness_b!r} are not positive pairs"
            )
        if not 0 <= abs(self.tilt) < 8 * self.barrier / math.sqrt(27):
            raise ValueError(f"tilt: {self.tilt!r} leaves a single minimum at barrier {self.barrier!r}")

    @property
    def dim(self) -> int:
        return 1 + len(self.stiffness_a)

    def along(self, x: np.ndarray) -> np.ndarray:
        """Returns L at y = 0."""
        return self.barrier * (x * x - 1) ** 2 + self.tilt * x

    def stiffness(self, x: np.ndarray) -> np.ndarray:
        """Returns k_j(x), (len(x), q - 1)."""
        a, b = np.array(self.stiffness_a), np.array(self.stiffness_b)
        return a + (b - a) * self._switch(x)[:, None]

    @staticmethod
    def _switch(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(np.minimum(-x / SWITCH, 700)))  # exp overflows from 710 on

    def loss(self, theta: np.ndarray) -> np.ndarray:
        x, y = theta[:, 0], theta[:, 1:]
        return self.along(x) + (self.stiffness(x) * y * y).sum(axis=1) / 2

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        x, y = theta[:, 0], theta[:, 1:]
        found = np.empty_like(theta)
        found[:, 0] = 4 * self.barrier * x * (x * x - 1) + self.tilt
        if y.shape[1]:
            share = self._switch(x)
            a, b = np.array(self.stiffness_a), np.array(self.stiffness_b)
            found[:, 0] += (y * y) @ (b - a) / 2 * (share * (1 - share) / SWITCH)
            found[:, 1:] = (a + (b - a) * share[:, None]) * y
        return found

    @property
    def minima(self) -> tuple[float, float]:
        """Returns x of wells A and B."""
        roots = np.sort(np.roots([4 * self.barrier, 0, -4 * self.barrier, self.tilt]).real)
        return float(roots[0]), float(roots[2])

    @property
    def top(self) -> float:
        """Returns x of the saddle between them."""
        return float(np.sort(np.roots([4 * self.barrier, 0, -4 * self.barrier, self.tilt]).real)[1])

    def determinant(self, x: float) -> float:
        """Returns det of the Hessian at (x, 0), exact."""
        along = self.barrier * (12 * x * x - 4)
        return float(along * np.prod(self.stiffness(np.array([x]))))
