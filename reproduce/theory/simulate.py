"""SGD on a known loss, for thousands of chains at once: θ ← θ - eta (∇L + noise), with noise of covariance C/S.

Chains are independent and made in chunks, each with a random stream of its own, so memory is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.classifier import Classifier, SoftmaxRegression
from three_factors.reproduce.theory.potentials import Potential
from three_factors.reproduce.theory.simulation import Examples, Gaussian, Isotropic, Minibatches, Simulation

# Values that are advanced together, chains x those of one (`_wide`): they stay in the processor's cache, and
# products of matrices of that size are not worth a second thread to BLAS, whatever it has.
CHUNK = 20_000
DIVERGED = 1e30  # a chain beyond it is held there: it never comes back, and must not overflow, stored as float32 either
ORDERED = 2**23  # examples that the orders of all chains of a chunk may hold


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
