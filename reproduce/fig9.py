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

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments.noise_grid import (
    ACCURACY,
    BAD,
    DEEP_MLP,
    GOOD,
    NORM,
    REFERENCE,
    draw,
    draw_beside,
)


def check(table):
    weaker = "the norm follows eta/S less clearly than in Figure 1's network"
    return [
        *DEEP_MLP.claims(table, GOOD, "falls (a), by eye", "rises (c), by eye"),
        *DEEP_MLP.claims(table, BAD, "falls (b), by eye"),
        *(DEEP_MLP.weaker(table, network, REFERENCE, f"{weaker} ({network})") for network in (GOOD, BAD)),
    ]


def panels(table, axes):
    a, b, c = axes(1, 3)
    draw(table, [a], DEEP_MLP, GOOD, f"(a) {GOOD}", (NORM,))
    draw(table, [b], DEEP_MLP, BAD, f"(b) {BAD}", (NORM,))
    draw(table, [c], DEEP_MLP, GOOD, f"(c) {GOOD}", (ACCURACY,))


FIGURE = Figure(
    name="fig9",
    title="Higher eta/S leads to flatter minima in a 20-layer network too",
    doc=__doc__,
    data="fashionmnist",
    substitute="digits28",
    experiment=DEEP_MLP,
    measurements=DEEP_MLP.measurements,
    check=check,
    draw=panels,
    beside=lambda table, axes: draw_beside(table, axes, DEEP_MLP, (GOOD, BAD, REFERENCE)),
    arms=("time", "loss", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
