"""Figure 15. With random labels too, higher eta/S leads to flatter minima, with and without momentum.

The runs of Figure 5; the Hessian at the epoch of the best validation accuracy. Claims: its norm falls with eta/S for
momentum 0 (left) and 0.9 (right), and the two clouds fall on one curve against the effective noise eta/(S (1 - beta)).

    python reproduce/fig15.py
    python reproduce/fig15.py --data mnist --data-dir data
    python reproduce/fig15.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from collections.abc import Sequence
from typing import Any

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise, statistics
from three_factors.reproduce.experiments import arms, loss_levels
from three_factors.reproduce.experiments.collapse import collapse
from three_factors.reproduce.experiments.memorisation import (
    MEMORISATION,
    MOMENTA,
    fractions_of,
)
from three_factors.reproduce.experiments.metrics import BEST_LOSS, BEST_NORM


def falls(table: Evidence, fraction: float, momentum: float) -> list[claims.Claim]:
    """Claims that the norm falls with eta/S at the best epoch; as controls, at equal training loss."""
    labels = table.select(fraction=fraction, momentum=momentum)
    log_n, norms = np.log(table.column(labels, "n")), np.log(table.grid(labels, BEST_NORM))
    own = f"norm.{claims.key(100 * fraction)}.momentum_{claims.key(momentum)}"

    def about(control: str, words: str, statistic: str, **more: Any) -> claims.Statement:
        text = f"higher eta/S, smaller norm {words}; {100 * fraction:g} % noise, momentum {momentum:g}"
        return claims.Statement(f"{own}{control}", text, statistic, control_of=own if control else "", **more)

    at_best = about("", "at the best epoch", "Spearman's rho with log eta/S, a seed", paper="falls, by eye")
    ways = [(at_best, statistics.spearman(log_n, norms))]
    for level in loss_levels.LEVELS:
        rho, note = loss_levels.correlation(table, labels, log_n, level)
        crossing = about(
            f".at_{claims.key(level)}", f"at the first loss of {level:g}", loss_levels.STATISTIC, note=note
        )
        ways.append((crossing, rho))
    partial = "partial rank correlation with log eta/S given log training loss, a seed"
    given = statistics.partial_spearman(log_n, norms, np.log(table.grid(labels, BEST_LOSS)))
    ways.append((about(".partial", "at equal training loss", partial), given))
    rule = seedwise.Direction(-1, smallest=0.3)
    return [seedwise.over_seeds(statement, rho, rule, seedwise.FISHER) for statement, rho in ways]


def one_curve(table: Evidence, fraction: float) -> claims.Claim:
    labels = table.select(fraction=fraction)
    clouds, log_n = table.column(labels, "momentum"), np.log(table.column(labels, "effective n"))
    about = claims.Statement(
        f"one_curve.{claims.key(100 * fraction)}",
        f"momentum acts as eta/(1 - beta): the two clouds fall on one curve; {100 * fraction:g} % noise",
        "mean squares left by one decreasing fit of log norm on log eta/(S (1 - beta)), over those left by a fit to "
        "each cloud, a seed",
    )
    ratio = np.array([collapse(log_n, row, clouds) for row in np.log(table.grid(labels, BEST_NORM))])
    return seedwise.over_seeds(about, ratio, seedwise.Direction(-1, smallest=0.0, null=1.5), seedwise.LOG)


def check(table: Evidence) -> list[claims.Claim]:
    found = []
    for fraction in fractions_of(table):
        for momentum in sorted(MOMENTA):
            found += falls(table, fraction, momentum)
        found.append(one_curve(table, fraction))
    return found


def draw(table: Table, axes: Any) -> None:
    words = "Hessian norm at the best validation epoch"
    draw_metric(table, axes(1, len(MOMENTA), sharey=True), BEST_NORM, words)


def draw_beside(table: Table, axes: Any) -> None:
    columns = len(MOMENTA)
    shown = plots.beside(table, "best")
    panels = axes(len(shown), columns, sharey="row")
    for row, (metric, words) in enumerate(shown.items()):
        draw_metric(table, panels[row * columns : (row + 1) * columns], metric, words)


def draw_metric(table: Table, panels: Sequence[Any], metric: str, words: str) -> None:
    for panel, momentum in zip(panels, sorted(MOMENTA)):
        for fraction, colour in zip(fractions_of(table), (plots.BLUE, plots.ORANGE)):
            labels = table.select(fraction=fraction, momentum=momentum)
            values, solid = table.grid(labels, metric), plots.all_trained(table, labels)
            plots.points(panel, table.column(labels, "n"), values, solid, colour, f"{100 * fraction:g} % random labels")
        panel.set(title=f"momentum {momentum:g}", xlabel="η/S", ylabel=words)
        plots.log_scale(panel.xaxis)
        plots.log_scale(panel.yaxis)
        if plots.STABILITY in metric:
            plots.edge_of_stability(panel, momentum)
        panel.label_outer()
        plots.legend_below(panel, columns=2)


FIGURE = Figure(
    name="fig15",
    title="Higher eta/S leads to flatter minima with random labels too",
    doc=__doc__,
    data=("mnist",),
    substitute="digits28",
    experiment=MEMORISATION,
    check=check,
    draw=draw,
    beside=draw_beside,
    arms=(*arms.CONSTANT, *arms.EVERY),
)


if __name__ == "__main__":
    main(FIGURE)
