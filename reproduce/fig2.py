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

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments.valleys import CONSTANT, LINES, draw


def check(table):
    left, middle, right, exact = LINES
    return [
        *CONSTANT.wider(table, left, paper="sharper at lower eta/S, by eye"),
        *CONSTANT.wider(table, middle, paper="sharper at lower eta/S, by eye"),
        *CONSTANT.alike(table, right, paper="similar quality, by eye"),
        *CONSTANT.alike(table, exact, control_of=right),
        *(claim for line, same in CONSTANT.apart.items() for claim in CONSTANT.wider(table, line, control_of=same)),
    ]


FIGURE = Figure(
    name="fig2",
    title="Lower eta/S leads to sharper minima",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=CONSTANT,
    paths=CONSTANT.paths,
    check=check,
    spread="mean and range",
    draw=lambda table, axes: draw(table, axes, list(LINES)),
    beside=lambda table, axes: draw(table, axes, list(CONSTANT.apart)),
    arms=("time", "loss", "ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
