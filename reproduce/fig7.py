"""Figure 7. In a residual network too, eta and S can be multiplied by up to about 5.

ResNet56 on CIFAR-10 at (0.1 b, 128 b): eta/S stays, both are multiplied. Claim: validation accuracy is kept up to a
factor of about 5 and degrades beyond.

    python reproduce/fig7.py
    python reproduce/fig7.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig7.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.accuracy_curves import draw_panel
from three_factors.reproduce.experiments.resnet_scaling import RESNET


def check(table: Evidence) -> list[claims.Finding]:
    about = claims.Statement(
        "factor",
        "accuracy is kept up to a factor of about 5",
        "b*, 2 points below b of 1 and 2, a seed",
        paper="5, by eye",
        quote="up to a factor of 5",
        location=True,
    )
    (panel,) = RESNET.panels
    stars, largest = RESNET.stars(table, panel), RESNET.largest(table, panel)
    found = seedwise.over_seeds(about, stars, seedwise.Range(4, 7), seedwise.LOG, at_least=largest)
    noisy = RESNET.too_noisy(table, [panel])
    return [found.without(noisy) if noisy else found]


def draw(table: Table, axes: Any) -> None:
    (panel,) = axes(1, 1)
    draw_panel(panel, table, table.labels)
    plots.legend_below(panel, columns=2)


FIGURE = Figure(
    name="fig7",
    title="Multiplying eta and S in a residual network",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=RESNET,
    check=check,
    primary=("factor",),
    draw=draw,
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
