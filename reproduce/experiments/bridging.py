"""Chains of SGD on a small classifier of real images, and the moments of their loss beside theory's.

The noise is that of minibatches, with replacement or in shuffled epochs, or isotropic of the same trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine import Chains
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import ruler
from three_factors.reproduce.experiments.classified import loss_of, losses, spectrum, traces
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.simulation import Isotropic, Minibatches, Simulation

# The settings are chosen by time and by what the theory supposes, before any chain was run. The classes are the first
# three. With 256 examples of 11 numbers a full gradient, which the isotropic noise needs, costs 5 µs a chain. With this
# l2 the slowest direction is 6 to 7 times slower than the fastest, so that a run takes 700 steps.
CLASSES, EXAMPLES, FEATURES, L2 = (0, 1, 2), 256, 10, 0.1
# eta h_max = 0.1: a finite step then raises a parameter's variance by 5 % at most. At the smallest batches the excess
# loss is below 4 % of the loss, and a parameter's spread 0.1 of an inverse feature: the loss is nearly quadratic there.
STEP = 0.1
BATCH_SIZES = {"smoke": (8, 32), "quick": (2, 8, 32), "paper": (2, 8, 32)}
# From each start. The loss varies most with minibatches: its variance has to be known to 2 %, or starts which agree are
# not seen to. Isotropic noise takes a full gradient and needs fewer, shuffling is a control.
CHAINS = {
    "smoke": {"replacement": 60, "shuffle": 60, "isotropic": 60},
    "quick": {"replacement": 8_000, "shuffle": 4_000, "isotropic": 4_000},
    "paper": {"replacement": 40_000, "shuffle": 20_000, "isotropic": 20_000},
}
# In relaxation times of the slowest direction, 1/(eta h_min): exp(-12) of zero weights' loss is left, half a percent of
# the smallest excess loss.
BURN_IN, APART, RECORDS = 6.0, 0.5, 8
NOISES: dict[str, Minibatches | Isotropic] = {
    "replacement": Minibatches("replacement"),
    "shuffle": Minibatches("shuffle"),
    "isotropic": Isotropic(),
}
WORDS = {
    "replacement": "minibatches with replacement",
    "shuffle": "minibatches, shuffled epochs",
    "isotropic": "isotropic noise, equal trace",
}
THEORETICAL = ("replacement", "isotropic")  # what the theory is about
FAR = "zero weights"
STARTS = ("the minimum", FAR)
TRAJECTORY = 8  # the batch size whose way from zero weights to the minimum is followed


def name(noise: str, size: int, start: str) -> str:
    return f"{noise}, S {size}, from {start}"


def simulations(scale: Scale, source: Prepared) -> dict[str, Simulation]:
    potential = SoftmaxRegression(source.fingerprint, CLASSES, EXAMPLES, FEATURES, L2)
    loss = potential.on(source.arrays())
    slowest, fastest = spectrum(loss)
    lr = float(f"{STEP / fastest:.2g}")
    relaxation = 1 / (lr * slowest)
    found = {}
    for size in BATCH_SIZES[scale]:
        # The records lie at places that are spread evenly over an epoch: shuffled SGD depends on where in it one is.
        eighth = max(1, EXAMPLES // size // RECORDS)
        apart = next(odd * eighth for odd in range(1, 10**6, 2) if odd * eighth >= APART * relaxation)
        first = round(BURN_IN * relaxation)
        stationary = tuple(first + apart * i for i in range(RECORDS))
        on_the_way = (0, *(2**k for k in range(30) if 2**k < first))
        for kind, noise in NOISES.items():
            for start in STARTS:
                followed = (kind, size, start) == ("replacement", TRAJECTORY, FAR)
                record = (*on_the_way, *stationary) if followed else stationary
                first_point: tuple[float, ...] | Literal["minimum"] = "minimum"
                if start == FAR:
                    first_point = (0.0,) * potential.dim
                found[name(kind, size, start)] = Simulation(
                    potential, lr, size, noise, record[-1], record, first_point, CHAINS[scale][kind]
                )
    return found | ruler.simulations(scale, potential, loss, lr)


def stationary(values: np.ndarray) -> np.ndarray:
    """Returns the last records (RECORDS, chains)."""
    return values[-RECORDS:]


def sizes(chains: Chains) -> list[int]:
    return sorted({spec.batch_size for spec in ruler.others(chains)})


def lr_of(chains: Chains) -> float:
    return ruler.others(chains)[0].lr


@cache
def theory(chains: Chains, noise: str, size: int) -> tuple[float, float, float]:
    """Returns (tr C at the minimum, the excess loss, Var L) by theory; the latter q T^2/2 for isotropic noise."""
    loss, lr = loss_of(chains), lr_of(chains)
    h, c = loss.hessian(loss.minimum), loss.covariance(loss.minimum)
    trace, q = float(np.trace(c)), loss.dim
    if noise == "isotropic":
        sigma = gibbs.discrete_lyapunov(h, trace / q * np.eye(q), lr, size)
        t = gibbs.temperature(lr, size, (trace / q) ** 0.5)
        return trace, gibbs.excess_loss(h, sigma), q * t**2 / 2
    sigma = gibbs.discrete_lyapunov(h, c, lr, size)
    return trace, gibbs.excess_loss(h, sigma), gibbs.loss_variance(h, sigma)


def moments(chains: Chains, noise: str, size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns start -> (excess loss, squared deviation of the loss) of every chain, (chains,): means over the records.

    Deviations are from the mean over both starts. Both are over their theory.
    """
    loss, (_, excess, variance) = loss_of(chains), theory(chains, noise, size)
    lowest = loss.loss(loss.minimum[None])[0]
    found = {start: stationary(losses(chains, name(noise, size, start))) for start in STARTS}
    middle = np.mean([values.mean() for values in found.values()])
    return {
        start: ((values.mean(axis=0) - lowest) / excess, np.square(values - middle).mean(axis=0) / variance)
        for start, values in found.items()
    }


def pooled(chains: Chains, noise: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of all chains."""
    excess, squares = (np.concatenate(parts) for parts in zip(*moments(chains, noise, size).values()))
    return excess, squares


Pooled = dict[str, tuple[np.ndarray, np.ndarray]]  # noise -> `pooled`


def error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5


def slope_at_stationarity(chains: Chains, used: np.ndarray) -> float:
    """Returns d log <tr C>/d log <L> over n."""
    return slope(
        [
            [stationary(of(chains, name("replacement", size, start)))[:, used].mean() for start in STARTS]
            for size in sizes(chains)
        ]
        for of in (losses, traces)
    )


def slope_on_the_way(chains: Chains, used: np.ndarray) -> float:
    """Returns the same along the way from zero weights to the minimum, over steps 0, 1, 2, 4, ..."""
    label = name("replacement", TRAJECTORY, FAR)
    return slope([[row[used].mean()] for row in of(chains, label)[:-RECORDS]] for of in (losses, traces))


def slope(both: Iterable[Any]) -> float:
    """Returns the slope of log mean tr C on log mean L; a row a point, its members averaged."""
    x, y = (np.log(np.mean(rows, axis=1)) for rows in both)
    return float(np.polyfit(x, y, 1)[0])


def variance_ratio(chains: Chains, size: int, of: Pooled) -> tuple[float, float]:
    """Returns Var L with minibatches over Var L with isotropic noise, and its standard error."""
    a, b = (of[noise][1] * theory(chains, noise, size)[2] for noise in THEORETICAL)
    ratio = float(a.mean() / b.mean())
    return ratio, ratio * ((error(a) / a.mean()) ** 2 + (error(b) / b.mean()) ** 2) ** 0.5


def where(chains: Chains, noise: str, size: int, start: str) -> float:
    """Returns <tr C> of where the chains are; of isotropic noise the one it was given."""
    if noise == "isotropic":
        return theory(chains, noise, size)[0]
    return float(stationary(traces(chains, name(noise, size, start))).mean())
