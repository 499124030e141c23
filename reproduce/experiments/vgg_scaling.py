"""VGG-11 at (eta b, S b) on three sizes of the training set, and at half the noise: the runs of Figure 6."""

from __future__ import annotations

from dataclasses import replace

from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.experiments.breaking_point import Panel, Scaling, Size

_BETAS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24)  # every S divides every N
ALL_DATA = "c"
EQUAL_TIME = {"a": "a_time", "d": "d_time"}  # panels once more, at the t_eta of (c)
VGG_PAPER = Size(
    network=VGG11Network(),
    panels=(
        Panel("a", "(a) a quarter of the data", 12_000, 0.1, 50, _BETAS, 4.0),
        Panel("b", "(b) half of the data", 21_600, 0.1, 50, _BETAS, 5.0),
        Panel(ALL_DATA, "(c) all data", 43_200, 0.1, 50, _BETAS, 6.0),
        Panel("d", "(d) all data, half the noise", 43_200, 0.05, 50, _BETAS, 12.0),
        Panel("a_time", "(a) at the t_eta of (c)", 12_000, 0.1, 50, _BETAS, 6.0, stretch=3.6),
        Panel("d_time", "(d) at the t_eta of (c)", 43_200, 0.05, 50, _BETAS, 12.0, stretch=2.0),
    ),
    validation=5_000,
    test=10_000,
    epochs=200,
    augment=True,
    seeds=5,
)
# Frozen on pilot seed 1000, which no verdict uses: six minutes on 2 cores; eta/S as high as still trains at b = 1; and
# a range of b that holds the break in every panel. Where it breaks is what the claims are about, not that it does.
# N is divisible by every S, else the panels would lose different shares of an epoch at large b.
VGG_QUICK = replace(
    VGG_PAPER,
    network=VGG11Network(width=1 / 8),
    panels=tuple(
        replace(panel, train=train, batch_size=8, lr=0.3 * panel.lr, betas=(*small, 1, 1.5, 2, 3, 4, 6, 8, 12, 16))
        for panel, train, small in zip(VGG_PAPER.panels, (384, 768, 1_536, 1_536), ((0.5,), (0.5,), (), ()))
    ),
    validation=500,
    test=200,
    epochs=5,
    augment=False,
    seeds=4,
    watched=3,
    watch_every=1,
)
VGG_SMOKE = replace(
    VGG_QUICK,
    network=VGG11Network(width=1 / 32),
    validation=100,
    test=100,
    epochs=2,
    seeds=1,
    panels=tuple(replace(p, train=160 + 80 * i, betas=(1, 1.5, 4)) for i, p in enumerate(VGG_QUICK.panels)),
)
DATA_SIZES = Scaling(
    {
        "smoke": VGG_SMOKE,
        "quick": VGG_QUICK,
        "gpu": replace(
            VGG_PAPER,
            epochs=20,
            seeds=4,
            watch_every=1,
            panels=tuple(replace(panel, betas=(1, 1.5, 4, 8, 16)) for panel in VGG_PAPER.panels),
        ),
        "paper": VGG_PAPER,
    },
    {
        "quick": [
            ("VGG-11, width 1", "width 1/8", "64 times less arithmetic"),
            ("N 12 000, 21 600, 43 200", "384, 768, 1 536", "time; divisible by every S"),
            ("(a) and (d) at the t_eta of (c) too", "not", "time"),
            ("crop and flip", "no augmentation", "otherwise it does not train in this time"),
            ("10 000 test images", "200", "time; no claim uses them"),
            ("batch sharpness on 8 batches", "on 3", "time"),
            ("200 epochs", "5", "time"),
            ("eta 0.1 b, S 50 b, b to 24", "0.03 b, 8 b, b to 16", "steps an epoch at the largest b; time"),
            ("5 seeds", "4 seeds", "time"),
        ],
        "gpu": [
            ("200 epochs", "20", "time"),
            ("10 values of b from 1 to 24", "1, 1.5, 4, 8, 16", "time"),
            ("5 seeds", "4 seeds", "time"),
        ],
    },
    stability=ALL_DATA,
)
