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

from reproduce.engine.figure import Figure, main
from reproduce.experiments import breaking_point
from reproduce.experiments.breaking_point import DATA_SIZES

PANELS = [panel.name for panel in breaking_point.VGG_PAPER.panels]


def check(table):
    import numpy as np

    from reproduce.engine import seedwise

    a, b, c, d = (DATA_SIZES.stars(table, panel) for panel in PANELS)
    found = [
        seedwise.over_seeds(
            upper / lower, seedwise.Direction(1, smallest=0.1, null=1.0), scale=seedwise.LOG, paper="larger with N",
            claim=f"the breaking point rises with the training set: {name}", statistic="ratio of b*, a seed",
        )
        for upper, lower, name in ((b, a, "(b) over (a)"), (c, b, "(c) over (b)"))
    ]  # fmt: skip
    found.append(
        seedwise.over_seeds(
            d / c, seedwise.Range(1.5, 2.7), scale=seedwise.LOG, paper="much larger",
            claim="at half the noise it breaks at about twice the b: (d) over (c)", statistic="ratio of b*, a seed",
        )
    )  # fmt: skip
    small = [label for label in table.labels if DATA_SIZES.place[label].beta < 1]
    if small:
        at_one = [label for label in table.labels if DATA_SIZES.place[label].beta == 1]
        drop = np.nanmean(table.grid(at_one, breaking_point.BEST), axis=1) - np.nanmean(
            table.grid(small, breaking_point.BEST), axis=1
        )
        found.append(
            seedwise.over_seeds(
                drop, seedwise.Direction(1, smallest=0.01), control=True, paper="claimed, not tested",
                claim="too small a batch breaks it as well: lower accuracy at b < 1 than at b = 1",
                statistic="highest validation accuracy, mean over panels, b = 1 minus b < 1, a seed",
            )
        )  # fmt: skip
    return found


def draw(table, axes):
    from reproduce.engine import plots

    for panel, name in zip(axes(2, 2, sharey=True), PANELS):
        labels = [label for label in table.labels if DATA_SIZES.place[label].panel == name]
        for label, colour in plots.shades(labels).items():
            plots.band(panel, table, label, breaking_point.ACCURACY, colour, percent=True,
                       legend=plots.highest(table, label, f"b {DATA_SIZES.place[label].beta:.3g}"))  # fmt: skip
        panel.set(title=name, xlabel="epoch", ylabel="validation accuracy (%)")
        plots.legend_below(panel, columns=3)


FIGURE = Figure(
    name="fig6",
    title="The breaking point of multiplying eta and S",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=DATA_SIZES,
    derive=breaking_point.derive,
    check=check,
    draw=draw,
    arms=("ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
