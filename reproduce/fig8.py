"""Figure 8. Validation accuracy peaks at an optimal ratio of learning rate to batch size.

ResNet56 on CIFAR-10 at 12 values of eta/S, each by two pairs. Claim: accuracy has a peak inside the range, at about
2e-3.

    python reproduce/fig8.py
    python reproduce/fig8.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig8.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.breaking_point import RESNET_RATIOS
from three_factors.reproduce.experiments.metrics import VALID


def check(table: Evidence) -> list[claims.Claim]:
    about = claims.Statement(
        "peak",
        "validation accuracy peaks at eta/S of about 2e-3",
        "vertex of a parabola in log eta/S about the best, a seed",
        paper="2e-3",
    )
    return [seedwise.located(about, RESNET_RATIOS.peaks(table), seedwise.Range(1e-3, 4e-3), seedwise.LOG)]


def draw(table: Table, axes: Any) -> None:
    (panel,) = axes(1, 1)
    for size, colour in zip(table.levels("S"), (plots.BLUE, plots.ORANGE)):
        labels = table.select(S=size)
        values, solid = 100 * table.grid(labels, VALID), plots.all_trained(table, labels)
        plots.points(panel, table.column(labels, "n"), values, solid, colour, f"S {size}")
    panel.set(xlabel="η/S", ylabel="validation accuracy (%)")
    plots.log_scale(panel.xaxis)
    plots.legend_below(panel, columns=2)


FIGURE = Figure(
    name="fig8",
    title="An optimal ratio of learning rate to batch size",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=RESNET_RATIOS,
    check=check,
    draw=draw,
    arms=(*arms.CONSTANT, *arms.BATCH_NORM, *arms.EVERY, arms.SVAG),
)


if __name__ == "__main__":
    main(FIGURE)
