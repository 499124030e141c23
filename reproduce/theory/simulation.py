"""What is simulated: SGD on a known loss with noise of one kind, and what is recorded of its chains."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import ndtri

from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.fields import as_floats, as_text, check_positive_definite
from three_factors.reproduce.theory.potentials import DoubleWell, Quadratic, Quartic

Sampling = Literal["shuffle", "replacement"]
SAMPLING: tuple[Sampling, ...] = ("shuffle", "replacement")


@dataclass(frozen=True)
class Gaussian:
    """Per-example gradient noise of covariance C: sigma^2 times the identity, or `covariance` by rows."""

    sigma: float = 1.0
    covariance: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        as_floats(self, "sigma", *(() if self.covariance is None else ("covariance",)))
        if self.sigma <= 0:
            raise ValueError(f"sigma: {self.sigma!r} is not a positive finite number")
        if self.covariance is not None:
            check_positive_definite("covariance", self.covariance)
            if self.sigma != 1:
                raise ValueError(f"sigma: {self.sigma!r} does not go with a covariance")

    def matrix(self, dim: int) -> np.ndarray:
        return self.sigma**2 * np.eye(dim) if self.covariance is None else np.array(self.covariance, dtype=float)


@dataclass(frozen=True)
class Examples:
    """The noise of a finite training set on the line: fixed per-example deviations of mean 0 and variance sigma^2.

    They are the normal distribution's quantiles. sampling: "shuffle" takes each once an epoch, "replacement" draws.
    """

    count: int
    sampling: Sampling
    sigma: float = 1.0

    def __post_init__(self) -> None:
        as_floats(self, "sigma")
        if self.count < 2:
            raise ValueError(f"count: {self.count} is less than 2 examples")
        if self.sampling not in SAMPLING:
            raise ValueError(f"sampling: {self.sampling!r} is neither 'shuffle' nor 'replacement'")
        if self.sigma <= 0:
            raise ValueError(f"sigma: {self.sigma!r} is not a positive finite number")

    @property
    def deviations(self) -> np.ndarray:
        values = ndtri((np.arange(self.count) + 0.5) / self.count)
        return self.sigma * (values - values.mean()) / values.std()


@dataclass(frozen=True)
class Minibatches:
    """The noise of SGD itself on the examples of a `SoftmaxRegression`: batches, each chain with its own.

    sampling: "shuffle" takes each example once an epoch, "replacement" draws.
    """

    sampling: Sampling

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING:
            raise ValueError(f"sampling: {self.sampling!r} is neither 'shuffle' nor 'replacement'")


@dataclass(frozen=True)
class Isotropic:
    """Gaussian noise on the whole gradient of a `SoftmaxRegression`, with the trace of minibatch noise at the minimum.

    Its covariance is (tr C/q)/S times the identity.
    """


# Raised when the same fields would draw other numbers: results of an older one are not mixed with new ones.
# 2: chunks of chains on a classifier follow the examples of a step.
PROTOCOLS = {Gaussian: 1, Examples: 1, Minibatches: 2, Isotropic: 2}


@dataclass(frozen=True)
class Simulation:
    """One simulation; its hash over all fields names its folder.

    Attributes:
        steps: of SGD.
        record: the steps after which all chains are kept, ascending; 0 is the start.
        start: a point for all chains, "minimum", or "gibbs": drawn from the Gibbs distribution that the theory expects.
        seed: chains of different seeds are independent.
        protocol: of `PROTOCOLS`, by the kind of noise; 0 stands for the current one.
        optimizer: "sgd"; or "adamw" with its usual betas, and without decay of its own, since the losses have minima.
    """

    potential: Quadratic | Quartic | DoubleWell | SoftmaxRegression
    lr: float
    batch_size: int
    noise: Gaussian | Examples | Minibatches | Isotropic
    steps: int
    record: tuple[int, ...]
    start: tuple[float, ...] | Literal["gibbs", "minimum"]
    chains: int
    momentum: float = 0.0
    seed: int = 0
    protocol: int = 0
    optimizer: Literal["sgd", "adamw"] = field(default="sgd", metadata={"absent": "sgd"})

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer: {self.optimizer!r} is neither 'sgd' nor 'adamw'")
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError(f"momentum: {self.momentum!r} is not SGD's, AdamW has its own")
        if self.protocol == 0:
            object.__setattr__(self, "protocol", PROTOCOLS[type(self.noise)])
        as_floats(self, "lr", "momentum", *(() if isinstance(self.start, str) else ("start",)))
        for name in ("batch_size", "steps", "chains"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        if self.lr <= 0:
            raise ValueError(f"lr: {self.lr!r} is not a positive finite number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: {self.momentum!r} is not in [0, 1)")
        if (
            not self.record
            or sorted(set(self.record)) != list(self.record)
            or not 0 <= self.record[0] <= self.record[-1]
        ):
            raise ValueError(f"record: {self.record!r} are not ascending steps")
        if self.record[-1] > self.steps:
            raise ValueError(f"record: {self.record[-1]} lies beyond {self.steps} steps")
        dim = self.potential.dim
        if self.start not in ("gibbs", "minimum") and not (isinstance(self.start, tuple) and len(self.start) == dim):
            raise ValueError(f"start: {self.start!r} is no point of {dim} dimensions")
        if isinstance(self.potential, SoftmaxRegression):
            self._check_examples(self.potential)
            return
        if isinstance(self.noise, Minibatches | Isotropic) or self.start == "minimum":
            raise ValueError(f"noise, start: {self.noise!r}, {self.start!r} are of a loss of examples")
        if self.start == "gibbs" and dim > 1 and not isinstance(self.potential, DoubleWell):
            raise ValueError(f"start: 'gibbs' has no quadrature for {self.potential!r}")
        if isinstance(self.noise, Examples):
            if dim > 1 or self.noise.count % self.batch_size:
                raise ValueError(f"noise: {self.noise!r} needs one dimension and whole batches of {self.batch_size}")
        elif self.noise.covariance is not None:
            if len(self.noise.covariance) != dim:
                raise ValueError(f"noise: {self.noise!r} is not of {dim} dimensions")
            if self.start == "gibbs":
                raise ValueError(f"start: 'gibbs' has no temperature for {self.noise!r}")

    def _check_examples(self, potential: SoftmaxRegression) -> None:
        if self.start == "gibbs":
            raise ValueError("start: 'gibbs' is not known for a loss of examples")
        if isinstance(self.noise, Examples):
            raise ValueError("noise: a loss of examples has examples of its own; use Minibatches")
        if self.noise == Minibatches("shuffle") and potential.examples % self.batch_size:
            raise ValueError(f"batch_size: {self.batch_size} does not divide {potential.examples} shuffled examples")

    @property
    def key(self) -> str:
        """Returns 16 hexadecimal digits of a hash over all fields."""
        return hashlib.sha256(as_text(self).encode()).hexdigest()[:16]

    @property
    def n(self) -> float:
        return self.lr / self.batch_size

    @property
    def examples_a_step(self) -> int:
        """Counts the examples whose gradients a step of one chain computes; 0 where the loss is not one of examples."""
        if not isinstance(self.potential, SoftmaxRegression):
            return 0
        return self.batch_size if isinstance(self.noise, Minibatches) else self.potential.examples

    @property
    def temperature(self) -> float:
        """Returns T of the Gibbs distribution that is expected as eta → 0 (isotropic noise)."""
        if isinstance(self.noise, Minibatches | Isotropic):
            raise ValueError(f"noise: the variance of {self.noise!r} is known with the data only")
        if isinstance(self.noise, Gaussian) and self.noise.covariance is not None:
            raise ValueError(f"noise: {self.noise!r} has no temperature")
        return gibbs.temperature(self.lr, self.batch_size, self.noise.sigma, self.momentum)
