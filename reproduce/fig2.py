"""Figure 2. A lower ratio of learning rate to batch size ends in a sharper minimum.

ResNet56 on CIFAR-10, trained with a larger batch or a smaller learning rate than the baseline; the loss on the lines
between where they end. Claims: beyond its end the loss of the run at higher eta/S takes longer to rise (left, middle),
and two runs at about the same eta/S end in minima of equal width and depth (right; exactly the same eta/S beside it).

    python reproduce/fig2.py
    python reproduce/fig2.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig2.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine import Evidence, Figure, claims, main
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.valleys import (
    CONSTANT,
    EXACT,
    LARGE_TO_BASE,
    LARGE_TO_SMALL,
    LINES,
    OTHER_START,
    SMALL_TO_BASE,
    draw,
)


def check(table: Evidence) -> list[claims.Claim]:
    return [
        *CONSTANT.wider(table, LARGE_TO_BASE, paper="sharper at lower eta/S, by eye"),
        *CONSTANT.wider(table, SMALL_TO_BASE, paper="sharper at lower eta/S, by eye"),
        *CONSTANT.alike(table, LARGE_TO_SMALL, paper="similar quality, by eye"),
        *CONSTANT.alike(table, EXACT, control_of=LARGE_TO_SMALL),
        *CONSTANT.wider(table, OTHER_START, control_of=LARGE_TO_BASE),
    ]


FIGURE = Figure(
    name="fig2",
    title="Lower eta/S leads to sharper minima",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=CONSTANT,
    check=check,
    spread="mean and range",
    draw=lambda table, axes: draw(table, axes, list(LINES)),
    beside=lambda table, axes: draw(table, axes, [OTHER_START]),
    arms=(*arms.CONSTANT, *arms.BATCH_NORM, *arms.EVERY, *arms.TRIPLET),
)


if __name__ == "__main__":
    main(FIGURE)
