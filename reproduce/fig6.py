"""Figure 6. Learning rate and batch size can be multiplied together up to a breaking point.

VGG-11 on CIFAR-10 at (0.1 b, 50 b) for three sizes of the training set (a-c), and at half the noise (d). Claims: the b
at which validation accuracy breaks rises with the size of the training set, and is about twice as large at half the
noise, as if a learning rate too high were the reason.

    python reproduce/fig6.py
    python reproduce/fig6.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig6.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.breaking_point import DATA_SIZES, EQUAL_TIME, MIDDLE_STABILITY, draw_panel
from three_factors.reproduce.experiments.breaking_statistics import EDGE

PANELS = ("a", "b", "c", "d")


def check(table: Evidence) -> list[claims.Claim]:
    a, b, c, d = (DATA_SIZES.stars(table, panel) for panel in PANELS)
    rises = claims.Statement(
        "rises", "the breaking point rises with the training set, (a) to (c)", "b*", paper="larger with N"
    )
    half = claims.Statement(
        "half_noise",
        "at half the noise it breaks at about twice the b: (d) over (c)",
        "ratio of b*, a seed",
        paper="much larger",
    )
    edge = claims.Statement(
        "edge",
        f"it breaks where eta times batch sharpness reaches {EDGE:g}: the edge of stability is the reason",
        "b* over the b at which eta times batch sharpness (train mode, median over the middle third of the steps) is "
        f"{EDGE:g}, panel (c), a seed",
    )
    small = claims.Statement(
        "small_batches",
        "too small a batch breaks it as well: lower accuracy at b < 1 than at b = 1",
        "highest validation accuracy (chance if diverged), b = 1 minus b < 1, mean over panels, a seed",
        paper="claimed, not tested",
    )
    broke = np.isfinite(c)
    twice = np.divide(d, c, out=np.full_like(c, np.nan), where=broke & np.isfinite(d))
    at_edge = np.divide(c, DATA_SIZES.edges(table), out=np.full_like(c, np.nan), where=broke)
    drop = DATA_SIZES.drop_at_small_batches(table)
    return [
        seedwise.rising(rises, [a, b, c]),
        seedwise.located(half, twice, seedwise.Range(1.5, 2.7), seedwise.LOG, censored=True),
        seedwise.located(edge, at_edge, seedwise.Range(1 / 1.5, 1.5), seedwise.LOG, censored=True),
        seedwise.over_seeds(small, drop, seedwise.Direction(1, smallest=0.01)),
    ]


def draw(table: Table, axes: Any) -> None:
    for panel, key in zip(axes(2, 2, sharey=True), PANELS):
        draw_panel(panel, table, table.select(panel=key))
        panel.set(title=DATA_SIZES.panels[key].name)
        plots.legend_below(panel, columns=3)


def draw_beside(table: Table, axes: Any) -> None:
    """Draws eta times batch sharpness against b, a line a seed, and b* of every seed; then panels at equal t_eta."""
    longer = [key for key in EQUAL_TIME.values() if table.select(panel=key)]
    panel, *others = axes(1, 1 + len(longer))
    for other, key in zip(others, longer):
        draw_panel(other, table, table.select(panel=key))
        other.set(title=DATA_SIZES.panels[key].name)
        plots.legend_below(other, columns=3)
    measured = DATA_SIZES.stability
    assert measured is not None
    labels = sorted(table.select(panel=measured), key=lambda label: table.factors[label]["b"])
    rows, stars = table.grid(labels, MIDDLE_STABILITY), DATA_SIZES.stars(table, measured)
    style = {"color": plots.BLUE, "marker": "o", "markersize": 3.5, "linewidth": 0.9}
    for i, (row, star) in enumerate(zip(rows, stars)):
        words = ("η · batch sharpness, a seed", "b*, a seed") if i == 0 else ("_", "_")
        panel.plot(table.column(labels, "b"), row, label=words[0], **style)
        panel.axvline(star if np.isfinite(star) else np.nan, color=plots.RED, linewidth=0.9, label=words[1])
    panel.set(title=DATA_SIZES.panels[measured].name, xlabel="b", ylabel="η · batch sharpness, middle third")
    plots.log_scale(panel.xaxis)
    plots.log_scale(panel.yaxis)
    plots.edge_of_stability(panel)
    plots.legend_below(panel, columns=3)


FIGURE = Figure(
    name="fig6",
    title="The breaking point of multiplying eta and S",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=DATA_SIZES,
    check=check,
    draw=draw,
    beside=draw_beside,
    arms=(*arms.BATCH_NORM, *arms.EVERY),
)


if __name__ == "__main__":
    main(FIGURE)
