"""Figure 5. With random labels, more noise generalises better at the same amount of memorisation.

An MLP on MNIST with 25 % or 50 % of the training labels random, over a grid of eta and S, with and without momentum.
Claim: at the moment when the accuracy on the noisy training set first reaches a level, validation accuracy rises with
eta/S. And memorisation begins after the best validation epoch.

    python reproduce/fig5.py
    python reproduce/fig5.py --data mnist --data-dir data --seeds 8
    python reproduce/fig5.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise, statistics
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.memorisation import (
    LEVELS,
    MEMORISATION,
    MOMENTA,
    NOISY,
    at_level,
    begins_late,
    fractions_of,
)
from three_factors.reproduce.experiments.metrics import VALID

STATISTIC = (
    "Spearman's rho of eta/S and validation accuracy where the accuracy on the noisy training set first reaches "
    f"{', '.join(f'{level:g}' for level in LEVELS)}, mean over these, a seed"
)


def rising(table: Evidence, fraction: float, momentum: float) -> claims.Claim:
    labels = table.select(fraction=fraction, momentum=momentum)
    accuracies = {level: table.grid(labels, at_level(level)) for level in LEVELS}
    log_n = np.log(table.column(labels, "n"))
    rho = statistics.nanmean(np.array([statistics.spearman(log_n, values) for values in accuracies.values()]))
    reached = ", ".join(f"{level:g}: {int((~np.isnan(values)).sum())}" for level, values in accuracies.items())
    about = claims.Statement(
        f"memorisation.{claims.key(100 * fraction)}.momentum_{claims.key(momentum)}",
        f"higher eta/S generalises better at equal memorisation; {100 * fraction:g} % noise, momentum {momentum:g}",
        STATISTIC,
        paper="by eye",
        note=f"of {accuracies[LEVELS[0]].size} runs so many reach {reached}",
    )
    return seedwise.over_seeds(about, rho, seedwise.Direction(1, smallest=0.3), seedwise.FISHER)


def check(table: Evidence) -> list[claims.Claim]:
    found = []
    for fraction in fractions_of(table):
        found += [rising(table, fraction, momentum) for momentum in MOMENTA]
        found.append(begins_late(table, fraction))
    return found


def draw(table: Table, axes: Any) -> None:
    places = [(fraction, momentum) for fraction in fractions_of(table) for momentum in MOMENTA]
    panels = axes(len(places) // len(MOMENTA), len(MOMENTA), sharex="col", sharey="row")
    everywhere = table.column(table.labels, "n")
    colours = plots.blue_to_red(everywhere)
    for panel, (fraction, momentum) in zip(panels, places):
        for label in table.select(fraction=fraction, momentum=momentum):
            ends = (100 * table.values(label, metric) for metric in (NOISY, VALID))
            colour = colours[float(table.factors[label]["n"])]
            panel.scatter(*ends, s=16, color=colour, linewidths=0.4, edgecolors="#444444")
        panel.set(
            title=f"{100 * fraction:g} % random labels, momentum {momentum:g}",
            xlabel="accuracy on the noisy training set (%)",
            ylabel="validation accuracy (%)",
        )
        panel.label_outer()
    plots.colour_bar(panels, everywhere, "η/S")


FIGURE = Figure(
    name="fig5",
    title="More noise generalises better at the same amount of memorisation",
    doc=__doc__,
    data=("mnist",),
    substitute="digits28",
    experiment=MEMORISATION,
    check=check,
    draw=draw,
    spread="a point a run",
    arms=(*arms.CONSTANT, *arms.EVERY, arms.MEMORISED_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
