"""What chains on the loss of a classifier came to: its loss, its noise, at every record."""

from __future__ import annotations

from functools import cache

import numpy as np

from three_factors.reproduce.engine import Chains
from three_factors.reproduce.theory.classifier import Classifier, SoftmaxRegression


def spectrum(loss: Classifier) -> tuple[float, float]:
    """Returns the smallest and the largest eigenvalue of the Hessian at the minimum."""
    values = np.linalg.eigvalsh(loss.hessian(loss.minimum))
    return float(values[0]), float(values[-1])


@cache
def loss_of(chains: Chains) -> Classifier:
    potential = next(iter(chains.specs.values())).potential
    assert isinstance(potential, SoftmaxRegression)
    assert chains.source is not None
    return potential.on(chains.source.arrays())


@cache
def losses(chains: Chains, label: str) -> np.ndarray:
    """Returns L of every record and chain, (records, chains)."""
    samples = chains.samples[label]
    return loss_of(chains).loss(samples.reshape(-1, samples.shape[2])).reshape(samples.shape[:2])


@cache
def traces(chains: Chains, label: str) -> np.ndarray:
    """Returns tr C of every record and chain, (records, chains)."""
    samples = chains.samples[label]
    return loss_of(chains).noise_trace(samples.reshape(-1, samples.shape[2])).reshape(samples.shape[:2])
