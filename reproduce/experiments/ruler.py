"""The ruler of rivals on chains whose g is known: SGD's excess loss goes as eta/S, AdamW's as eta/√S.

From the minimum, at two eta and two S each, at stationarity.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Literal

import numpy as np

from three_factors.reproduce.engine import Chains, chainwise, claims
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments.classified import loss_of, losses, spectrum
from three_factors.reproduce.experiments.rivals import RIVALS, ROOT, THEORY
from three_factors.reproduce.theory.classifier import Classifier, SoftmaxRegression
from three_factors.reproduce.theory.simulation import Minibatches, Simulation

Optimizer = Literal["sgd", "adamw"]

STEP = 0.1  # at most, of an inverse curvature; AdamW's is eta √S/√C_ii in each direction
BURN_IN, APART, RECORDS = 6.0, 0.5, 8  # the former in relaxation times
SIZES, TIMES = (8, 32), (1, 2)
CHAINS = {"smoke": 40, "quick": 1_000, "paper": 5_000}
NAMES: dict[Optimizer, str] = {"sgd": "SGD", "adamw": "AdamW"}
RANGES = {"sgd": RIVALS[THEORY], "adamw": RIVALS[ROOT]}  # of g in eta/S^g
IN_WORDS = {"sgd": ("eta/S", "1 (known)"), "adamw": ("eta/√S", "1/2 (known)")}


def label(optimizer: Optimizer, size: int, times: int) -> str:
    """Returns a simulation's label."""
    return f"{NAMES[optimizer]}, S {size}, eta x {times}"


def others(chains: Chains) -> list[Simulation]:
    """Returns the simulations that are not the ruler's."""
    own = {label(*of) for of in itertools.product(NAMES, SIZES, TIMES)}
    return [spec for name, spec in chains.specs.items() if name not in own]


def simulations(scale: Scale, potential: SoftmaxRegression, loss: Classifier, lr: float) -> dict[str, Simulation]:
    """Returns label -> simulation; SGD's larger eta is `lr`."""
    h, spread = loss.hessian(loss.minimum), np.sqrt(np.diag(loss.covariance(loss.minimum)))
    rates = np.linalg.eigvalsh(h / np.sqrt(np.outer(spread, spread)))  # of H scaled by 1/√C_ii
    eta = float(f"{STEP / (2 * max(SIZES) ** 0.5 * rates[-1]):.2g}")
    lowest = {"sgd": lr / 2, "adamw": eta}
    found = {}
    for optimizer, size, times in itertools.product(NAMES, SIZES, TIMES):
        rate = size**0.5 * float(rates[0]) if optimizer == "adamw" else spectrum(loss)[0]
        relaxation = 1 / (times * lowest[optimizer] * rate)
        first, apart = round(BURN_IN * relaxation), max(1, round(APART * relaxation))
        record, noise = tuple(first + apart * i for i in range(RECORDS)), Minibatches("replacement")
        found[label(optimizer, size, times)] = Simulation(
            potential,
            times * lowest[optimizer],
            size,
            noise,
            record[-1],
            record,
            "minimum",
            CHAINS[scale],
            optimizer=optimizer,
        )
    return found


def check(chains: Chains) -> list[claims.Finding]:
    """States of both optimizers that the g that is known is found."""
    return [calibration(chains, optimizer) for optimizer in NAMES]


def calibration(chains: Chains, optimizer: Optimizer) -> claims.Finding:
    """States that an optimizer's excess loss has the g that is known of it."""
    ratio, known = IN_WORDS[optimizer]
    about = claims.Statement(
        f"{optimizer}.g",
        f"calibration: {NAMES[optimizer]}'s excess loss goes as {ratio}",
        "g of <L> - L* ~ (eta/S^g)^p, least squares",
        paper=known,
        quantity=claims.G,
    )
    each = chains.samples[label(optimizer, SIZES[0], 1)].shape[1]
    found = chainwise.jackknife(partial(exponent, chains, optimizer), each)
    return claims.Finding(about, chainwise.Range(*RANGES[optimizer]), found)


def exponent(chains: Chains, optimizer: Optimizer, used: np.ndarray) -> float:
    """Returns g of an optimizer's excess loss over its two eta and two S, from the chains that are `used`."""
    loss = loss_of(chains)
    lowest = float(loss.loss(loss.minimum[None])[0])
    y = np.log(
        [[losses(chains, label(optimizer, size, times))[:, used].mean() - lowest for times in TIMES] for size in SIZES]
    )
    over_eta = (y[:, 1] - y[:, 0]).mean() / np.log(2)
    over_size = (y[1] - y[0]).mean() / np.log(SIZES[1] / SIZES[0])
    return float(-over_size / over_eta)
