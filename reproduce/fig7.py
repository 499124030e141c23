"""Figure 7. In a residual network too, eta and S can be multiplied by up to about 5.

ResNet56 on CIFAR-10 at (0.1 b, 128 b): eta/S stays, both are multiplied. Claim: validation accuracy is kept up to a
factor of about 5 and degrades beyond.

    python reproduce/fig7.py
    python reproduce/fig7.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig7.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import breaking_point
from three_factors.reproduce.experiments.breaking_point import RESNET


def check(table):
    from three_factors.reproduce.engine import seedwise

    return [
        seedwise.located(
            RESNET.stars(table, "ResNet56"), seedwise.Range(4, 7), scale=seedwise.LOG, paper="5, by eye",
            claim="accuracy is kept up to a factor of about 5", statistic="b* of a hinge in log b, a seed",
        )
    ]  # fmt: skip


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    (panel,) = axes(1, 1)
    for label, colour in plots.shades(table.labels).items():
        plots.band(panel, table, label, breaking_point.ACCURACY, colour, percent=True,
                   legend=plots.highest(table, label, f"b {RESNET.place[label].beta:.3g}"))  # fmt: skip
    panel.set(xlabel="epoch", ylabel="validation accuracy (%)")
    plots.legend_below(panel, columns=2)


FIGURE = Figure(
    name="fig7",
    title="Multiplying eta and S in a residual network",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=RESNET,
    derive=breaking_point.derive,
    check=check,
    draw=draw,
    arms=("ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
