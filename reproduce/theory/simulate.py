"""SGD on a known loss, for thousands of chains at once: θ ← θ - eta (∇L + noise), with noise of covariance C/S.

Chains are independent and made in chunks, each with a random stream of its own, so memory is bounded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import ndtri

from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.classifier import Classifier, SoftmaxRegression
from three_factors.reproduce.theory.fields import as_floats, as_text, check_positive_definite
from three_factors.reproduce.theory.potentials import DoubleWell, Potential, Quadratic, Quartic

# Values that are advanced together, chains x those of one (`_wide`): they stay in the processor's cache, and
# products of matrices of that size are not worth a second thread to BLAS, whatever it has.
CHUNK = 20_000
Sampling = Literal["shuffle", "replacement"]
DIVERGED = 1e30  # a chain beyond it is held there: it never comes back, and must not overflow, stored as float32 either
SAMPLING: tuple[Sampling, ...] = ("shuffle", "replacement")
ORDERED = 2**23  # examples that the orders of all chains of a chunk may hold


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


class AdamW:
    """The averages of AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), of every chain by itself."""

    def __init__(self, shape: tuple[int, ...], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.betas, self.eps = betas, eps
        self.mean, self.square = np.zeros(shape), np.zeros(shape)

    def direction(self, gradient: np.ndarray, step: int) -> np.ndarray:
        """Returns what eta is multiplied by in a step, counted from 1."""
        first, second = self.betas
        self.mean += (1 - first) * (gradient - self.mean)
        self.square += (1 - second) * (gradient**2 - self.square)
        scale = np.sqrt(self.square / (1 - second**step)) + self.eps
        found: np.ndarray = self.mean / (1 - first**step) / scale
        return found


Noise = Callable[[np.ndarray], None]  # adds one step's noise to gradients (chains, q), in place


def simulate(
    spec: Simulation,
    told: Callable[[float], None] = lambda share: None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Returns θ at the recorded steps, float64 (records, chains, q). `told` hears how much is done, in [0, 1].

    `arrays` is the data set of a loss of examples; ValueError without it.
    """
    potential = bind(spec, arrays)
    found = np.empty((len(spec.record), spec.chains, spec.potential.dim))
    size = CHUNK // _wide(spec)
    if isinstance(spec.noise, Examples):
        size = min(size, ORDERED // spec.noise.count)
    if isinstance(spec.potential, SoftmaxRegression) and spec.noise == Minibatches("shuffle"):
        size = min(size, ORDERED // spec.potential.examples)
    size = max(1, size)
    for start in range(0, spec.chains, size):
        stop = min(spec.chains, start + size)
        random = np.random.Generator(np.random.SFC64([*_seed(spec), start]))
        _advance(spec, potential, random, found[:, start:stop])
        told(stop / spec.chains)
    return found


def _wide(spec: Simulation) -> int:
    """Values of one chain in a step: θ with its batch's inputs, or all examples' probabilities."""
    potential = spec.potential
    if not isinstance(potential, SoftmaxRegression):
        return potential.dim
    if isinstance(spec.noise, Minibatches):
        return potential.dim + spec.batch_size * (potential.features + 1)
    return max(potential.dim, potential.examples)


def bind(spec: Simulation, arrays: Mapping[str, np.ndarray] | None) -> Potential:
    """Returns the loss that a simulation descends: its potential, on the data set if it needs one."""
    if not isinstance(spec.potential, SoftmaxRegression):
        return spec.potential
    if arrays is None:
        raise ValueError(f"data: {spec.potential!r} needs its data set")
    return spec.potential.on(arrays)


def _seed(spec: Simulation) -> list[int]:
    """Words for random streams of this simulation's own."""
    return [int(spec.key[i : i + 8], 16) for i in (0, 8)]


def _advance(spec: Simulation, potential: Potential, random: np.random.Generator, found: np.ndarray) -> None:
    """Runs the chains of one chunk and writes `found` (records, chains, q)."""
    chains = found.shape[1]
    if spec.start == "gibbs":
        assert not isinstance(spec.potential, SoftmaxRegression)
        theta = gibbs.sample(spec.potential, spec.temperature, chains, random)
    elif spec.start == "minimum":
        assert isinstance(potential, Classifier)
        theta = np.tile(potential.minimum, (chains, 1))
    else:
        theta = np.tile(np.array(spec.start, dtype=float), (chains, 1))
    velocity, adamw = np.zeros_like(theta), AdamW(theta.shape) if spec.optimizer == "adamw" else None
    gradient_of = _noisy_gradient(spec, potential, random, chains)
    due = {step: i for i, step in enumerate(spec.record)}
    if 0 in due:
        found[due[0]] = theta
    lr, momentum = spec.lr, spec.momentum
    for step in range(1, spec.record[-1] + 1):
        gradient = gradient_of(theta)
        if adamw is not None:
            gradient = lr * adamw.direction(gradient, step)
        elif momentum:
            velocity *= momentum
            velocity += gradient
            np.clip(velocity, -DIVERGED, DIVERGED, out=velocity)
            gradient = velocity * lr
        else:
            gradient *= lr
        theta -= gradient
        np.clip(theta, -DIVERGED, DIVERGED, out=theta)
        if step in due:
            found[due[step]] = theta


def _noisy_gradient(
    spec: Simulation, potential: Potential, random: np.random.Generator, chains: int
) -> Callable[[np.ndarray], np.ndarray]:
    if isinstance(spec.noise, Minibatches):
        assert isinstance(potential, Classifier)
        examples, batches = potential, _batches(spec.noise, len(potential.x), spec.batch_size, random, chains)
        return lambda theta: examples.batch_gradient(theta, batches())
    add_noise = _noise(spec, potential, random, chains)

    def noisy(theta: np.ndarray) -> np.ndarray:
        gradient = potential.gradient(theta)
        add_noise(gradient)
        return gradient

    return noisy


def _noise(spec: Simulation, potential: Potential, random: np.random.Generator, chains: int) -> Noise:
    noise, dim = spec.noise, potential.dim
    if isinstance(noise, Examples):
        return _example_noise(noise, spec.batch_size, random, chains)
    if isinstance(noise, Isotropic):
        assert isinstance(potential, Classifier)
        noise = Gaussian(math.sqrt(float(np.trace(potential.covariance(potential.minimum))) / dim))
    assert isinstance(noise, Gaussian)
    drawn = np.empty((chains, dim))
    scale = np.linalg.cholesky(noise.matrix(dim) / spec.batch_size)
    isotropic = noise.covariance is None

    def add(gradient: np.ndarray) -> None:
        random.standard_normal(out=drawn)
        if isotropic:
            drawn.__imul__(scale[0, 0])
            gradient += drawn
        else:
            gradient += drawn @ scale.T

    return add


def _example_noise(noise: Examples, batch_size: int, random: np.random.Generator, chains: int) -> Noise:
    deviations, batches = noise.deviations, noise.count // batch_size
    ordered = np.tile(deviations, (chains, 1))
    means = np.empty((chains, batches))
    at = 0

    def add(gradient: np.ndarray) -> None:
        nonlocal at
        if noise.sampling == "replacement":
            gradient[:, 0] += deviations[random.integers(0, noise.count, (chains, batch_size))].mean(axis=1)
            return
        if at % batches == 0:  # a new epoch, in an order of its own for every chain
            random.permuted(ordered, axis=1, out=ordered)
            ordered.reshape(chains, batches, batch_size).mean(axis=2, out=means)
        gradient[:, 0] += means[:, at % batches]
        at += 1

    return add


def _batches(
    noise: Minibatches, count: int, batch_size: int, random: np.random.Generator, chains: int
) -> Callable[[], np.ndarray]:
    """Returns a function that gives the next batch of every chain, indices of examples (chains, S)."""
    if noise.sampling == "replacement":
        return lambda: random.integers(0, count, (chains, batch_size))
    ordered = np.tile(np.arange(count), (chains, 1))
    at = count  # where in the epoch

    def following() -> np.ndarray:
        nonlocal at
        if at == count:  # a new epoch, in an order of its own for every chain
            random.permuted(ordered, axis=1, out=ordered)
            at = 0
        at += batch_size
        return ordered[:, at - batch_size : at]

    return following
