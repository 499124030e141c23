"""What is measured of a run: curvature while it trains, curvature and gradient noise where it ends.

What is measured afterwards is no part of a run: another measurement needs no other training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from three_factors.callbacks.measures import checked
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.contract.stored import Typed, short_hash

PROTOCOL = 1  # of training and measurement; raise it when the same spec would give another result
FEWEST_GRADIENTS = 5  # of a covariance
FEWEST_BATCHES = 3  # of a measurement in train mode: batch sharpness is a mean over them, with an interval


@dataclass(frozen=True)
class Curvature(Typed):
    """Describes what `HessianMonitor` measures, on the first `examples` of the training subset.

    The worker hands its fields to the monitor as they are: each must be one of `HessianMonitor`'s keywords.

    Attributes:
        training: in train mode, on batches of `batch_size`, the run's S, as training draws them; at least
            `FEWEST_BATCHES`, of at least so many examples.
    """

    examples: int = 1_000
    batch_size: int = 250
    measures: tuple[str, ...] = ("top_eigenvalue", "trace", "frobenius", "finite_difference", "normalized_sharpness")
    tol: float = 0.01
    trace_tol: float = 0.1
    norm_tol: float = 0.05
    max_products: int = 100
    training: bool = field(default=False, metadata={"absent": False})

    @property
    def batches(self) -> int:
        """Counts the batches that are drawn in train mode."""
        return max(FEWEST_BATCHES, -(-self.examples // self.batch_size))

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(self.measures)
        for name in ("examples", "batch_size", "max_products"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        for name in ("tol", "trace_tol", "norm_tol"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not in (0, 1)")


@dataclass(frozen=True)
class Measurement(Typed):
    """Curvature of a trained run at milestones: "initial", "best", "end", "loss x". Its hash names its file.

    It is no part of the run: another measurement needs no other training.
    """

    curvature: Curvature
    at: tuple[str, ...] = ("end",)
    protocol: int = PROTOCOL

    @cached_property  # asked for again and again
    def key(self) -> str:
        return short_hash(self)


@dataclass(frozen=True)
class NoiseMeasurement(Typed):
    """The covariance C of a trained run's gradients at milestones, under training conditions: the third factor.

    Attributes:
        batch_size: the run's S.
        batches: of so many, with batch norm: there examples have no gradients of their own.
        examples: without batch norm, where C is that of single examples.
        alignment: with the Hessian, in eval mode on the same examples.
    """

    batch_size: int
    batches: int
    examples: int
    at: tuple[str, ...] = ("end",)
    alignment: bool = True
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size: {self.batch_size} is less than 1 example")
        for name in ("batches", "examples"):
            if getattr(self, name) < FEWEST_GRADIENTS:
                raise ValueError(f"{name}: {getattr(self, name)} are too few for a covariance")

    @cached_property  # asked for again and again
    def key(self) -> str:
        return short_hash(self)

    def gradients(self, network: Network) -> tuple[int, int]:
        """Returns how many gradients are taken, and of how many examples each."""
        return (self.batches, self.batch_size) if network.batch_norm else (self.examples, 1)


AnyMeasurement: TypeAlias = Measurement | NoiseMeasurement


@dataclass(frozen=True)
class Watch(Typed):
    """Curvature measured at the end of every `every`-th epoch."""

    curvature: Curvature
    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"every: {self.every} is less than 1 epoch")
