"""Figure 5. With random labels, more noise generalises better at the same amount of memorisation.

An MLP on MNIST with 25 % or 50 % of the training labels random, over a grid of eta and S, with and without momentum.
Claims: where all labels are memorised, validation accuracy rises with eta/S; and memorisation comes after
generalisation: where validation accuracy is best next to no wrong label is fitted.

    python reproduce/fig5.py
    python reproduce/fig5.py --data mnist --data-dir data --seeds 8
    python reproduce/fig5.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.memorisation import MEMORISATION, MOMENTA, NOISY
from three_factors.reproduce.experiments.metrics import VALID
from three_factors.reproduce.experiments.random_labels import (
    after_generalisation,
    at_levels,
    at_the_endpoint,
    fractions_of,
    given_memorisation,
)


def check(table: Evidence) -> list[claims.Finding]:
    return [of(table) for of in (at_the_endpoint, after_generalisation, at_levels, given_memorisation)]


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
    primary=("endpoint", "after"),
    draw=draw,
    spread="a point a run",
    arms=(*arms.CONSTANT, *arms.FOR_ALL, arms.MEMORISED_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
