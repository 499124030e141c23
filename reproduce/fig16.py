"""Figure 16. Cyclical schedules oscillate between sharp and wide regions.

VGG-11 on CIFAR-10 on a discrete schedule of S, one of eta, a triangle of eta and two constant learning rates; training
loss (red) and norm of the Hessian (blue) along the way. Claims: the norm is lower in the high-noise phase of a cycle
than at its low-noise end; at the same training loss it is lower than on the constant baseline. Two claims are in
tension: that discrete S ends much wider than discrete eta (Table 1's caption), and that at equal eta/S both end alike.

    python reproduce/fig16.py
    python reproduce/fig16.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig16.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import cyclical


def check(table):
    from three_factors.reproduce.engine import seedwise

    found = []
    for label in cyclical.CYCLICAL:
        found.append(
            seedwise.over_seeds(
                table.grid([label], cyclical.PHASES)[:, 0], seedwise.Direction(-1, smallest=0.1), paper="oscillates",
                claim=f"lower norm at high noise than at the cycle's low-noise end: {label}",
                statistic="log norm in a phase less the line through the phases about it, high noise less low, mean "
                "over phases, a seed: the trend of training is taken out",
            )
        )  # fmt: skip
        found.append(
            seedwise.over_seeds(
                cyclical.at_matched_loss(table, label, cyclical.LOW_ETA),
                seedwise.Direction(-1, smallest=0.1, null=1.0), scale=seedwise.LOG, paper="wider at the same loss",
                claim=f"at the same training loss a smaller norm than on constant eta: {label}",
                statistic=f"norm over that of '{cyclical.LOW_ETA}' at equal training loss, geometric mean, a seed",
            )
        )  # fmt: skip
    return found + cyclical.tension(table)


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    *panels, spare = axes(2, 3)
    spare.remove()
    others = plots.twins(panels, "training loss", plots.RED, "norm of the Hessian", plots.BLUE)
    for panel, other, label in zip(panels, others, cyclical.ARMS):
        plots.band(panel, table, label, cyclical.LOSS, plots.RED)
        plots.band(other, table, label, cyclical.NORM, plots.BLUE)
        panel.set(title=label, xlabel="epoch")
        plots.log_scale(panel.yaxis)
        plots.log_scale(other.yaxis)


def draw_beside(table, axes):
    from three_factors.reproduce.engine import plots

    panels = axes(len(cyclical.ARMS), len(plots.WORDS), sharey="col")
    for panel, (label, metric) in zip(panels, [(label, metric) for label in cyclical.ARMS for metric in plots.WORDS]):
        plots.band(panel, table, label, metric, plots.BLUE, legend="_")
        panel.set(title=label, xlabel="epoch", ylabel=plots.WORDS[metric])
        plots.log_scale(panel.yaxis)
        if metric == plots.STABILITY:
            plots.edge_of_stability(panel)
            plots.legend_below(panel, columns=1)


FIGURE = Figure(
    name="fig16",
    title="Cyclical schedules oscillate between sharp and wide regions",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=cyclical,
    measurements=cyclical.measurements,
    derive=cyclical.derive,
    check=check,
    draw=draw,
    beside=draw_beside,
    arms=("ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
