"""Figure 8. Validation accuracy peaks at an optimal ratio of learning rate to batch size.

ResNet56 on CIFAR-10 at 12 values of eta/S, each by two pairs. Claim: accuracy has a peak inside the range, at about
2e-3.

    python reproduce/fig8.py
    python reproduce/fig8.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig8.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments.breaking_point import ACCURACY, RESNET_RATIOS


def check(table):
    from three_factors.reproduce.engine import seedwise

    return [
        seedwise.located(
            RESNET_RATIOS.peaks(table), seedwise.Range(1e-3, 4e-3), scale=seedwise.LOG, paper="2e-3",
            claim="validation accuracy peaks at eta/S of about 2e-3",
            statistic="vertex of a parabola in log eta/S about the best, a seed",
        )
    ]  # fmt: skip


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    (panel,) = axes(1, 1)
    sizes = sorted({int(label.rsplit(" ", 1)[1]) for label in table.labels})
    for size, colour in zip(sizes, (plots.BLUE, plots.ORANGE)):
        labels = [label for label in table.labels if label.endswith(f"S {size}")]
        values = 100 * table.grid(labels, ACCURACY)
        n, solid = [RESNET_RATIOS.n[label] for label in labels], plots.all_trained(table, labels)
        plots.points(panel, n, values, solid, colour, f"S {size}")
    panel.set(xlabel="η/S", ylabel="validation accuracy (%)")
    plots.log_scale(panel.xaxis)
    plots.legend_below(panel, columns=2)


FIGURE = Figure(
    name="fig8",
    title="An optimal ratio of learning rate to batch size",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=RESNET_RATIOS,
    check=check,
    draw=draw,
    arms=("time", "loss", "ghost", "no-bn", "l2", "svag"),
)

if __name__ == "__main__":
    main(FIGURE)
