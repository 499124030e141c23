"""Figure 15. With random labels too, higher eta/S leads to flatter minima, with and without momentum.

The runs of Figure 5; the Hessian at the epoch of the best validation accuracy. Claims: its norm falls with eta/S for
momentum 0 (left) and 0.9 (right), and the two clouds lie apart by what the effective noise eta/(S (1 - beta)) predicts.

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
from three_factors.reproduce.experiments.memorisation import MEMORISATION, MOMENTA
from three_factors.reproduce.experiments.metrics import BEST_NORM
from three_factors.reproduce.experiments.noise_grid import RATIO
from three_factors.reproduce.experiments.random_labels import FALLS, fractions_of, log_n, strata


def falls(table: Evidence) -> list[claims.Finding]:
    """States that the norm falls with eta/S at the best epoch: noise and momentum averaged, each, at equal loss."""
    of = strata(table)
    with np.errstate(divide="ignore"):
        each = {key: statistics.slopes(log_n(table, k), np.log10(table.grid(k, BEST_NORM))) for key, k in of.items()}
    statistic = "slope of log10 norm at the best validation epoch per decade of eta/S over cells, a seed"
    about = claims.Statement(
        "norm",
        "higher eta/S, smaller norm at the best epoch",
        f"{statistic}, mean over label noise and momentum",
        quote="the norm of the Hessian falls with eta/S",
    )
    if not each:
        return [claims.Finding(about, FALLS, None)]
    found = [seedwise.over_seeds(about, statistics.mean_of([*each.values()]), FALLS)]
    for (fraction, momentum), slopes in each.items():
        words = f"{100 * fraction:g} % noise, momentum {momentum:g}"
        name = f"norm.{claims.key(100 * fraction)}.momentum_{claims.key(momentum)}"
        found.append(seedwise.over_seeds(claims.Statement(name, f"the same; {words}", statistic), slopes, FALLS))
    levels = [loss_levels.slope(table, labels, log_n(table, labels)) for labels in of.values()]
    about = claims.Statement(
        "norm.equal_loss",
        "higher eta/S, smaller norm at equal training loss",
        f"{loss_levels.STATISTIC}, mean over label noise and momentum",
        control_of="norm",
        note=claims.joined(*(note for _, note in levels)),
    )
    return [*found, seedwise.over_seeds(about, statistics.nanmean([slopes for slopes, _ in levels]), FALLS)]


def effective(table: Evidence) -> claims.Finding:
    """States that momentum acts as eta/(1 - beta): the clouds lie apart by what that predicts."""
    about = claims.Statement(
        "effective",
        "momentum acts as eta/(1 - beta): the clouds of both momenta are one against eta/(S (1 - beta))",
        "k = -d/p of log norm = c - p log eta/S + d with momentum, d in units of log 1/(1 - beta), over the range that "
        "both clouds have, least squares a seed, mean over label noise",
    )
    above, below = [], []
    for fraction in fractions_of(table):
        labels = _in_both(table, fraction)
        if not labels:
            continue
        beta = table.column(labels, "momentum").astype(float)
        with np.errstate(divide="ignore"):
            norms = np.log10(table.grid(labels, BEST_NORM))
        fits = statistics.coefficients(norms, log_n(table, labels), -np.log10(1 - beta))
        above.append(-fits[:, 1])
        below.append(-fits[:, 0])
    rule = seedwise.Range(0.8, 1.2)
    if not above:
        return claims.Finding(about, rule, None)
    return seedwise.ratio(about, statistics.nanmean(above), statistics.nanmean(below), rule)


def _in_both(table: Evidence, fraction: float) -> list[str]:
    """Returns the settings whose effective noise lies in the range that every momentum has."""
    clouds = [table.select(fraction=fraction, momentum=momentum) for momentum in MOMENTA]
    if not all(clouds):
        return []
    noise = [table.column(labels, "effective n").astype(float) for labels in clouds]
    low, high = max(of.min() for of in noise), min(of.max() for of in noise)
    return [
        label for labels, of in zip(clouds, noise) for label, n in zip(labels, of) if low * 0.999 <= n <= high * 1.001
    ]


def exponent(table: Evidence) -> claims.Finding:
    about = claims.Statement(
        "exponent",
        f"only the ratio counts: g = 1{claims.AT_EQUAL_EPOCHS}",
        "g of log norm = s(log eta - g log S), s cubic, least squares a seed, mean over label noise, momentum 0",
        quantity=claims.MIXED,
    )
    found = []
    for (_, momentum), labels in strata(table).items():
        if momentum == 0:
            eta, size = (np.log(table.column(labels, factor).astype(float)) for factor in ("eta", "S"))
            with np.errstate(divide="ignore"):
                found.append(statistics.index(eta, size, np.log(table.grid(labels, BEST_NORM))))
    return seedwise.over_seeds(about, statistics.nanmean(found), RATIO) if found else claims.Finding(about, RATIO, None)


def check(table: Evidence) -> list[claims.Finding]:
    return [*falls(table), effective(table), exponent(table)]


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
    primary=("norm", "effective"),
    draw=draw,
    beside=draw_beside,
    arms=arms.FOR_ALL,  # the best epoch is before the end, and the others change that alone
)


if __name__ == "__main__":
    main(FIGURE)
