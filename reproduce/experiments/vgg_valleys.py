"""VGG-11 at (eta b, S b) for three b of equal noise, and at a quarter of it: the runs of Figure 3."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.engine.experiment import Line
from three_factors.reproduce.experiments.resnet_valleys import GPU_REDUCTIONS, RESNET_PAPER
from three_factors.reproduce.experiments.valleys import Triplet, Valleys

SMALL_BETA, BETA_1, LARGE_BETA = "b = 0.25", "b = 1", "b = 4"
QUIETER = "b = 1, a quarter of the noise"
# Section 4.1: eta = 0.1 b, S = 50 b. S = 12.5 is 13, with eta to match.
VGG_PAPER = replace(
    RESNET_PAPER,
    network=VGG11Network(),
    train=44_200,
    pairs={SMALL_BETA: (0.1 / 50 * 13, 13), BETA_1: (0.1, 50), LARGE_BETA: (0.4, 200), QUIETER: (0.1, 200)},
    stretched={QUIETER: 4},
    apart="",
)
# Frozen by the criteria of `resnet_valleys`: at 10 epochs b = 0.25 ends at 0.8, at 16 below 0.5.
VGG_QUICK = replace(
    VGG_PAPER,
    network=VGG11Network(width=1 / 8),
    train=2_400,
    validation=500,
    test=1_000,
    epochs=16,
    augment=False,
    pairs={SMALL_BETA: (0.01 / 24 * 6, 6), BETA_1: (0.01, 24), LARGE_BETA: (0.04, 96)},
    stretched={},
    examples=500,
    points=25,
    directions=2,
    seeds=4,
    evaluate_every=4,
    measured=None,
)
VGG_SMOKE = replace(
    VGG_QUICK,
    network=VGG11Network(width=1 / 32),
    train=240,
    validation=100,
    test=100,
    epochs=2,
    examples=100,
    points=7,
    directions=1,
    seeds=1,
    evaluate_every=1,
    measured=None,
)
EQUAL_NOISE = {
    "b = 1 to b = 4": Line("larger", BETA_1, LARGE_BETA),
    "b = 1 to b = 0.25": Line("smaller", BETA_1, SMALL_BETA),
}
# A is b = 1, B either of the others, C b = 1 with a quarter of the noise.
ALIKE = Triplet(
    {"b = 1 to b = 4": -float(np.log(4)), "b = 1 to b = 0.25": float(np.log(4))}, "b = 1 to a quarter of the noise", 4
)
SCALED = Valleys(
    {
        "smoke": VGG_SMOKE,
        "quick": VGG_QUICK,
        "gpu": replace(VGG_PAPER, epochs=20, seeds=4),
        "paper": VGG_PAPER,
    },
    EQUAL_NOISE | {"b = 1 to a quarter of the noise": Line("noise", BETA_1, QUIETER)},
    {
        "quick": [
            ("VGG-11, width 1", "width 1/8", "64 times less arithmetic"),
            ("44 200 training images", "2 400", "time"),
            ("crop and flip", "no augmentation", "otherwise the training loss stays high in this time"),
            ("200 epochs", "16", "time"),
            ("eta 0.1 b, S 50 b", "0.01 b, 24 b", "trains in 16 epochs, an eighth of the eta that breaks at b = 4"),
            ("61 points on 5 000 images", "25 on 500", "time"),
            ("Hessian at the end on 2 000 images", "not measured", "time"),
            ("10 random directions", "2", "time"),
            ("5 seeds", "4 seeds", "time"),
        ],
        "gpu": GPU_REDUCTIONS,
    },
)
