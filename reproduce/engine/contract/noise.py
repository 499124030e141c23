"""What may be done to a run's gradient noise, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from three_factors.reproduce.engine.contract.stored import Typed


@dataclass(frozen=True)
class Renewal(Typed):
    """Says how what a noise's shape takes from the Hessian in train mode is measured anew in the course of a training.

    Attributes:
        examples: fixed training images.
        batch_size: of batch norm, in batches of so many.
        until: at the start of each of the first so many epochs,
        every: and then at the start of every such.
        eigenvectors: how many make the top of the spectrum.
    """

    examples: int = 2_000
    batch_size: int = 250
    until: int = 10
    every: int = 10
    eigenvectors: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("examples", "batch_size", "until", "every", "eigenvectors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")

    def due(self, epoch: int) -> bool:
        """Tells whether an epoch, counted from 0, begins with a measurement."""
        return epoch < self.until or epoch % self.every == 0


@dataclass(frozen=True)
class HalfBatchNoise(Typed):
    """`lightning_modules.HalfBatch`: 1 + factor^2 times the covariance of the gradient.

    part: what of the noise that is added is: "all"; "top", its part in the span of the Hessian's largest eigenvectors
    (`lightning_modules.Projected`), or "rest", what is left of it.
    """

    factor: float
    part: Literal["all", "top", "rest"] = field(default="all", metadata={"absent": "all"})
    renewal: Renewal | None = field(default=None, metadata={"absent": None})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part not in ("all", "top", "rest"):
            raise ValueError(f"part: {self.part!r} is none of 'all', 'top', 'rest'")
        if (self.part == "all") != (self.renewal is None):
            raise ValueError(f"renewal: {self.renewal!r} does not go with part {self.part!r}")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor: {self.factor!r} is not a positive finite number")

    def check(self, batch_size: int) -> None:
        if batch_size % 2:
            raise ValueError(f"noise: a batch of {batch_size} has no two equal halves")


@dataclass(frozen=True)
class GaussianNoise(Typed):
    """Gaussian noise added to the gradient, its trace factor^2 times that of the noise which is there.

    shape: "covariance" (`lightning_modules.GaussianOfItsShape`, in blocks of examples) or "isotropic" (`Isotropic`).
    equal: "trace"; or "curvature", for isotropic noise whose tr(H cov) is that of the noise which is there times
    factor^2, while its trace is not; of H its Gauss-Newton part, since with batch norm tr H may be negative.
    """

    factor: float
    shape: Literal["covariance", "isotropic"]
    block: int = 1
    equal: Literal["trace", "curvature"] = field(default="trace", metadata={"absent": "trace"})
    renewal: Renewal | None = field(default=None, metadata={"absent": None})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor: {self.factor!r} is not a positive finite number")
        if self.shape not in ("covariance", "isotropic"):
            raise ValueError(f"shape: {self.shape!r} is neither 'covariance' nor 'isotropic'")
        if self.block < 1:
            raise ValueError(f"block: {self.block} is less than 1 example")
        if self.equal not in ("trace", "curvature") or (self.equal == "curvature" and self.shape != "isotropic"):
            raise ValueError(f"equal: {self.equal!r} is not 'trace', or 'curvature' of isotropic noise")
        if (self.equal == "trace") != (self.renewal is None):
            raise ValueError(f"renewal: {self.renewal!r} does not go with equal {self.equal!r}")

    def check(self, batch_size: int) -> None:
        if self.shape == "isotropic" and batch_size % 2:
            raise ValueError(f"noise: a batch of {batch_size} has no two equal halves")
        if self.shape == "covariance" and (batch_size % self.block or batch_size < 2 * self.block):
            raise ValueError(f"noise: a batch of {batch_size} is not two or more whole blocks of {self.block}")
