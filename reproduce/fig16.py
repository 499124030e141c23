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

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots
from three_factors.reproduce.experiments import arms, cyclical
from three_factors.reproduce.experiments.metrics import LOSS, NORM


def check(table: Evidence) -> list[claims.Finding]:
    by_phase, matched = cyclical.norm_by_phase(table), cyclical.smaller_at_matched_loss(table)
    return [*by_phase, *matched, *cyclical.tension(table)]


def draw(table: Table, axes: Any) -> None:
    *panels, spare = axes(2, 3)
    spare.remove()
    others = plots.twins(panels, "training loss", plots.RED, "norm of the Hessian", plots.BLUE)
    for panel, other, label in zip(panels, others, cyclical.SCHEDULES):
        plots.band(panel, table, label, LOSS, plots.RED)
        plots.band(other, table, label, NORM, plots.BLUE)
        panel.set(title=label, xlabel="epoch")
        plots.log_scale(panel.yaxis)
        plots.log_scale(other.yaxis)


def draw_beside(table: Table, axes: Any) -> None:
    places = [(label, metric) for label in cyclical.SCHEDULES for metric in plots.WORDS]
    panels = axes(len(cyclical.SCHEDULES), len(plots.WORDS), sharey="col")
    for panel, (label, metric) in zip(panels, places):
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
    data=("cifar10",),
    substitute="digits",
    experiment=cyclical.CYCLICAL_SCHEDULES,
    check=check,
    primary=("phases", "matched_loss", "tension.wider", "tension.alike"),
    draw=draw,
    beside=draw_beside,
    edition=2,  # where a run ends was another stretch of epochs where S cycles
    later={arms.QUENCHED.name: 3},  # a quench of odd length left the norm at its end unmeasured
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL, *arms.TRIPLET),
)


if __name__ == "__main__":
    main(FIGURE)
