"""Figure 14. Learning curves with random labels: memorisation comes after generalisation.

The runs of Figure 5 without momentum. Solid: accuracy on the noisy training set; dotted: validation accuracy; warm
colours: high eta/S. Figure 5 judges it; here is how much of the wrong labels is fitted where validation accuracy is
best, of these runs alone.

    python reproduce/fig14.py
    python reproduce/fig14.py --data mnist --data-dir data
    python reproduce/fig14.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.memorisation import MEMORISATION, NOISY
from three_factors.reproduce.experiments.metrics import VALID
from three_factors.reproduce.experiments.random_labels import after_generalisation, fractions_of


def check(table: Evidence) -> list[claims.Finding]:
    return [after_generalisation(table, momentum=0.0)]


def draw(table: Table, axes: Any) -> None:
    fractions = fractions_of(table)
    panels = axes(1, len(fractions), sharey=True)
    for panel, fraction in zip(panels, fractions):
        labels = table.select(fraction=fraction, momentum=0.0)
        colours = plots.blue_to_red(table.column(labels, "n"))
        for label in labels:
            colour = colours[float(table.factors[label]["n"])]
            for metric in (NOISY, VALID):
                style: dict[str, Any] = {"legend": "_", "dotted": metric == VALID, "spread": False}
                plots.band(panel, table, label, metric, colour, percent=True, **style)
        words = "accuracy (%): noisy training set solid, validation dotted"
        panel.set(title=f"{100 * fraction:g} % random labels", xlabel="epoch", ylabel=words)
        panel.label_outer()
    plots.colour_bar(panels, table.column(table.select(momentum=0.0), "n"), "η/S")


FIGURE = Figure(
    name="fig14",
    title="Learning curves with random labels",
    doc=__doc__,
    data=("mnist",),
    substitute="digits28",
    experiment=MEMORISATION,
    check=check,
    draw=draw,
    spread="means",
    arms=(*arms.CONSTANT, *arms.FOR_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
