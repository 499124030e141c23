"""Figure 2. A lower ratio of learning rate to batch size ends in a sharper minimum.

ResNet56 on CIFAR-10, trained with a larger batch or a smaller learning rate than the baseline; the loss on the lines
between where they end. Claims: in random directions from its end the loss of the run at higher eta/S takes longer to
rise (left, middle), and two runs at the same eta/S end in minima of equal width and depth, measured by what a quarter
of the noise does (right; exactly the same eta/S beside it).

    python reproduce/fig2.py
    python reproduce/fig2.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig2.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine import Evidence, Figure, claims, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.loss_profiles import draw
from three_factors.reproduce.experiments.resnet_valleys import (
    CONSTANT,
    EQUAL,
    LARGE_TO_BASE,
    LINES,
    OTHER_START,
    SMALL_TO_BASE,
)

WIDER = [LARGE_TO_BASE, SMALL_TO_BASE, OTHER_START]


def check(table: Evidence) -> list[claims.Finding]:
    return [
        *CONSTANT.wider(table, WIDER, quote="smaller eta/S leads to sharper minima"),
        *CONSTANT.alike(table, EQUAL, quote="similar quality at approximately the same eta/S"),
    ]


FIGURE = Figure(
    name="fig2",
    title="Lower eta/S leads to sharper minima",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=CONSTANT,
    check=check,
    primary=("wider", "wide", "deep"),
    spread="mean and range",
    draw=lambda table, axes: draw(table, axes, list(LINES)),
    beside=lambda table, axes: draw(table, axes, [OTHER_START]),
    arms=(*arms.CONSTANT, *arms.BATCH_NORM, *arms.FOR_ALL, *arms.TRIPLET),
    later={arms.TIME.name: 3},  # t_eta differed by 20 %; ends that are no minima were judged
)


if __name__ == "__main__":
    main(FIGURE)
