"""Figure 9. The same in a 20-layer network without batch norm, well and badly initialised.

A 20-layer ReLU MLP on FashionMNIST over learning rates and batch sizes: the norm of the Hessian from a good (a) and a
bad (b) initialisation, and validation accuracy from the good one (c). Claims: the norm falls with eta/S, though less
clearly than in the 4-layer network of Figure 1, and validation accuracy rises with it. (Which panel is which is our
reading of the text, which names 9a and 9c with the good and 9b with the bad initialisation.)

    python reproduce/fig9.py
    python reproduce/fig9.py --data fashionmnist --data-dir data --seeds 6
    python reproduce/fig9.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.metrics import END_NORM, VALID
from three_factors.reproduce.experiments.noise_grid import (
    BAD,
    DEEP_MLP,
    GOOD,
    REFERENCE,
    draw,
    draw_beside,
)


def weaker(table: Evidence, network: str) -> claims.Claim:
    own, other = (DEEP_MLP.networks[name].name for name in (network, REFERENCE))
    about = claims.Statement(
        f"{network}.weaker",
        f"the norm follows eta/S less clearly than in Figure 1's network ({own})",
        f"Fisher's z of rho(log eta/S, log norm), '{own}' minus '{other}', a seed",
        paper="though weaker",
    )
    return DEEP_MLP.weaker(table, network, REFERENCE, about)


def check(table: Evidence) -> list[claims.Claim]:
    return [
        *DEEP_MLP.check(table, GOOD, "falls (a), by eye", "rises (c), by eye"),
        *DEEP_MLP.check(table, BAD, "falls (b), by eye"),
        *(weaker(table, network) for network in (GOOD, BAD)),
    ]


def panels(table: Table, axes: Any) -> None:
    good, bad = (DEEP_MLP.networks[name].name for name in (GOOD, BAD))
    a, b, c = axes(1, 3)
    draw(table, [a], GOOD, f"(a) {good}", (END_NORM,))
    draw(table, [b], BAD, f"(b) {bad}", (END_NORM,))
    draw(table, [c], GOOD, f"(c) {good}", (VALID,))


FIGURE = Figure(
    name="fig9",
    title="Higher eta/S leads to flatter minima in a 20-layer network too",
    doc=__doc__,
    data=("fashionmnist",),
    substitute="digits28",
    experiment=DEEP_MLP,
    check=check,
    draw=panels,
    beside=lambda table, axes: draw_beside(table, axes, DEEP_MLP),
    arms=(*arms.CONSTANT, *arms.BATCH_NORM, *arms.EVERY),
)


if __name__ == "__main__":
    main(FIGURE)
