"""What may be done to a run's gradient noise, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from three_factors.reproduce.engine.contract.stored import Typed


@dataclass(frozen=True)
class HalfBatchNoise(Typed):
    """`lightning_modules.HalfBatch`: 1 + factor^2 times the covariance of the gradient."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor: {self.factor!r} is not a positive finite number")

    def check(self, batch_size: int) -> None:
        if batch_size % 2:
            raise ValueError(f"noise: a batch of {batch_size} has no two equal halves")


@dataclass(frozen=True)
class GaussianNoise(Typed):
    """Gaussian noise added to the gradient, its trace factor^2 times that of the noise which is there.

    shape: "covariance" (`lightning_modules.GaussianOfItsShape`, in blocks of examples) or "isotropic" (`Isotropic`).
    """

    factor: float
    shape: Literal["covariance", "isotropic"]
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor: {self.factor!r} is not a positive finite number")
        if self.shape not in ("covariance", "isotropic"):
            raise ValueError(f"shape: {self.shape!r} is neither 'covariance' nor 'isotropic'")
        if self.block < 1:
            raise ValueError(f"block: {self.block} is less than 1 example")

    def check(self, batch_size: int) -> None:
        if self.shape == "isotropic" and batch_size % 2:
            raise ValueError(f"noise: a batch of {batch_size} has no two equal halves")
        if self.shape == "covariance" and (batch_size % self.block or batch_size < 2 * self.block):
            raise ValueError(f"noise: a batch of {batch_size} is not two or more whole blocks of {self.block}")
