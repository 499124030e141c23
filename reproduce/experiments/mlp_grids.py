"""An MLP with batch norm, and one of twenty layers from two initialisations: the runs of Figures 1 and 9."""

from __future__ import annotations

from dataclasses import replace

from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments.measured import LIGHTER
from three_factors.reproduce.experiments.noise_grid import Network, NoiseGrid, Size

# The paper's ranges, Section 4.1; which values in them is not stated there.
PAPER = Size(
    train=50_000,
    validation=10_000,
    test=10_000,
    epochs=200,
    lrs=(0.005, 0.01, 0.02, 0.05, 0.1),
    batch_sizes=(25, 50, 100, 200, 500, 1000),
    seeds=5,
    measured=2_000,
)
# Frozen by time alone: the paper's whole grid at four seeds, an N that every S divides, five minutes on 2 cores.
QUICK = replace(PAPER, train=3_000, validation=1_000, test=1_000, epochs=20, seeds=4, measured=250)
SMALL = {"train": 400, "validation": 100, "test": 100, "epochs": 2, "seeds": 1, "measured": 50}
SMOKE = replace(QUICK, lrs=(0.05, 0.1), batch_sizes=(25, 100), **SMALL)

SCALES: dict[Scale, Size] = {"smoke": SMOKE, "quick": QUICK, "gpu": PAPER, "paper": PAPER}
REDUCTIONS = [
    ("50 000 training images", "3 000", "time; divisible by every S"),
    ("200 epochs", "20 epochs", "time; cells at low eta/S then end undertrained, drawn hollow"),
    ("5 seeds", "4 seeds", "time"),
    ("Hessian on 2 000 images", "250", "time"),
    LIGHTER,
    ("10 000 validation images", "1 000", "time"),
]
SHALLOW: dict[Scale, MLPNetwork] = {
    "smoke": MLPNetwork(hidden=(16,) * 4, batch_norm=True),
    "quick": MLPNetwork(hidden=(128,) * 4, batch_norm=True),
    # The paper says 4 layers; their width is our choice.
    **dict.fromkeys(("gpu", "paper"), MLPNetwork(hidden=(512,) * 4, batch_norm=True)),
}
SINGLE = "mlp"
BATCH_NORM_MLP = NoiseGrid(
    {SINGLE: Network("", SHALLOW)},
    SCALES,
    [("4 hidden layers of 512", "of 128", "11 times less arithmetic"), *REDUCTIONS],
)

GOOD, BAD, REFERENCE = "good", "bad", "reference"
FEWER = replace(QUICK, lrs=(0.005, 0.02, 0.1), batch_sizes=(25, 100, 200, 500))
DEEP_MLP = NoiseGrid(
    {
        GOOD: Network("good init", dict.fromkeys(SCALES, MLPNetwork(hidden=(50,) * 20))),
        # The paper does not say which it took. Glorot's is what the authors' code had by default; Neelakantan et al.'s,
        # all zeros, does not train, and with N(0, 0.1²) gradients of 1e-8 reach the first of 20 layers.
        BAD: Network("bad init", dict.fromkeys(SCALES, MLPNetwork(hidden=(50,) * 20, init="glorot"))),
        REFERENCE: Network("Fig. 1's MLP", SHALLOW),
    },
    {"smoke": SMOKE, "quick": FEWER, "gpu": PAPER, "paper": PAPER},
    [
        ("5 eta x 6 S", "3 x 4", "time: twenty layers take three times as long"),
        *REDUCTIONS,
    ],
    unstable={"quick": ("good init, eta 0.1, S 200",)},  # seed 2 of the first edition
)
