"""Figure 3. The same ratio of learning rate to batch size ends in minima of the same width and depth.

VGG-11 on CIFAR-10 at eta = 0.1 b, S = 50 b for b of 0.25, 1 and 4; the loss on the lines from b = 1 to the others.
Claims: the minima at both ends are equally wide and equally deep, measured by what a quarter of the noise does.

    python reproduce/fig3.py
    python reproduce/fig3.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig3.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine import Evidence, Figure, claims, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.loss_profiles import draw
from three_factors.reproduce.experiments.vgg_valleys import ALIKE, EQUAL_NOISE, SCALED


def check(table: Evidence) -> list[claims.Finding]:
    return SCALED.alike(table, ALIKE, quote="the minima are similar in width and depth")


FIGURE = Figure(
    name="fig3",
    title="Equal eta/S leads to minima of equal width and depth",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=SCALED,
    check=check,
    primary=("wide", "deep"),
    spread="mean and range",
    draw=lambda table, axes: draw(table, axes, list(EQUAL_NOISE)),
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL, *arms.TRIPLET),
)


if __name__ == "__main__":
    main(FIGURE)
