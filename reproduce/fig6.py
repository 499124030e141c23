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

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import breaking_point
from three_factors.reproduce.experiments.breaking_point import DATA_SIZES

PANELS = [panel.name for panel in breaking_point.VGG_PAPER.panels]


def check(table):
    import numpy as np

    from three_factors.reproduce.engine import seedwise

    a, b, c, d = (DATA_SIZES.stars(table, panel) for panel in PANELS)
    found = [
        seedwise.rising(
            [a, b, c], claim="the breaking point rises with the training set, (a) to (c)", statistic="b*",
            paper="larger with N",
        )
    ]  # fmt: skip
    broke = np.isfinite(c)
    ratio = np.divide(d, c, out=np.full_like(c, np.nan), where=broke & np.isfinite(d))
    edge = np.divide(c, DATA_SIZES.edges(table), out=np.full_like(c, np.nan), where=broke)
    return [
        *found,
        seedwise.located(
            ratio, seedwise.Range(1.5, 2.7), scale=seedwise.LOG, paper="much larger", statistic="ratio of b*, a seed",
            claim="at half the noise it breaks at about twice the b: (d) over (c)", censored=True,
        ),
        seedwise.located(
            edge, seedwise.Range(1 / 1.5, 1.5), scale=seedwise.LOG, censored=True,
            claim="it breaks where eta·lambda_max reaches 2: the edge of stability is the reason",
            statistic="b* over the b at which eta·lambda_max at the end is 2, panel (c), a seed",
        ),
        seedwise.over_seeds(
            DATA_SIZES.drop_at_small_batches(table), seedwise.Direction(1, smallest=0.01),
            claim="too small a batch breaks it as well: lower accuracy at b < 1 than at b = 1",
            statistic="highest validation accuracy (chance if diverged), b = 1 minus b < 1, mean over panels, a seed",
            paper="claimed, not tested",
        ),
    ]  # fmt: skip


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    for panel, name in zip(axes(2, 2, sharey=True), PANELS):
        labels = [label for label in table.labels if DATA_SIZES.place[label].panel == name]
        for label, colour in plots.shades(labels).items():
            plots.band(panel, table, label, breaking_point.ACCURACY, colour, percent=True,
                       legend=plots.highest(table, label, f"b {DATA_SIZES.place[label].beta:.3g}"))  # fmt: skip
        panel.set(title=name, xlabel="epoch", ylabel="validation accuracy (%)")
        plots.legend_below(panel, columns=3)


def draw_beside(table, axes):
    """eta·lambda_max at the end against b, a line a seed, and b* of every seed."""
    import numpy as np

    from three_factors.reproduce.engine import plots

    (panel,) = axes(1, 1)
    labels = [label for label in table.labels if DATA_SIZES.place[label].panel == DATA_SIZES.stability]
    labels = sorted(labels, key=lambda label: DATA_SIZES.place[label].beta)
    betas = [DATA_SIZES.place[label].beta for label in labels]
    rows = table.grid(labels, breaking_point.END_STABILITY)
    stars = DATA_SIZES.stars(table, DATA_SIZES.stability)
    for i, (row, star) in enumerate(zip(rows, stars)):
        panel.plot(betas, row, color=plots.BLUE, marker="o", markersize=3.5, linewidth=0.9,
                   label="largest eigenvalue x η, a seed" if i == 0 else "_")  # fmt: skip
        panel.axvline(
            star if np.isfinite(star) else np.nan, color=plots.RED, linewidth=0.9, label="b*, a seed" if i == 0 else "_"
        )
    panel.set(title=DATA_SIZES.stability, xlabel="b", ylabel=plots.WORDS[plots.STABILITY])
    plots.log_scale(panel.xaxis)
    plots.log_scale(panel.yaxis)
    plots.edge_of_stability(panel)
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
    beside=draw_beside,
    measurements=DATA_SIZES.measurements,
    arms=("ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
