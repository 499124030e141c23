"""Figure 8. Validation accuracy peaks at an optimal ratio of learning rate to batch size.

ResNet56 on CIFAR-10 at 8 values of eta/S, each by two pairs. Claim: accuracy has a peak inside the range, at about
2e-3.

    python reproduce/fig8.py
    python reproduce/fig8.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig8.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, estimates, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.best_ratio import RESNET_RATIOS
from three_factors.reproduce.experiments.metrics import VALID


def check(table: Evidence) -> list[claims.Finding]:
    tried = table.levels("n")
    best = RESNET_RATIOS.best(table)
    at_best = RESNET_RATIOS.means(table, best)
    interior = claims.Statement(
        "interior",
        "validation accuracy peaks at an eta/S between the largest and the smallest",
        f"end accuracy at eta/S {best:g} less that at {tried[0]:g}, and at {tried[-1]:g}; the smaller, a seed",
        quote="there is an optimal ratio of learning rate to batch size",
    )
    edges = [at_best - RESNET_RATIOS.means(table, n) for n in (tried[0], tried[-1])]
    parts = [of for of in (estimates.estimated([edge], estimates.OverSeeds) for edge in edges) if of is not None]
    rule = seedwise.Direction(1, smallest=0.005)
    both = (
        estimates.AllOf(parts, lambda of: min(of, key=lambda one: one.value or 0.0))
        if len(parts) == len(edges)
        else None
    )
    location = claims.Statement(
        "location",
        "it peaks at n N of about 90",
        "n N at the vertex of a parabola in log n, an intercept for each S, a seed",
        paper="2e-3 x 45 000",
        quote="an eta/S of about 2e-3 is best",
        location=True,
    )
    sizes = table.levels("S")
    logs = np.log(np.stack([RESNET_RATIOS.locations(table, size) for size in sizes], axis=1))
    x = np.log(np.array(sizes, dtype=float))
    centred = x - x.mean()
    slope = claims.Statement(
        "slope", "the ratio decides: the best eta/S is the same at every S", "slope of log n* on log S, a seed"
    )
    found = claims.Finding(interior, rule, both, unit="share")
    if best in (tried[0], tried[-1]):  # as of an arm that leaves the best one's neighbours out
        found = found.without(f"the eta/S that was best in pilots, {best:g}, is at the edge of those that are here")
    return [
        found,
        seedwise.over_seeds(location, RESNET_RATIOS.locations(table), seedwise.Range(45, 180), seedwise.LOG),
        seedwise.over_seeds(slope, logs @ centred / (centred @ centred), seedwise.within(0.25)),
    ]


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
    primary=("interior", "location", "slope"),
    draw=draw,
    arms=(*arms.CONSTANT, *arms.BATCH_NORM, *arms.FOR_ALL, arms.SVAG),
    later={arms.TIME.name: 2},  # t_eta differed by up to 2.7
)


if __name__ == "__main__":
    main(FIGURE)
