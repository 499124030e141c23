"""Figure 14. Learning curves with random labels: memorisation begins where validation accuracy is best.

The runs of Figure 5 without momentum. Solid: accuracy on the noisy training set; dotted: validation accuracy; warm
colours: high eta/S. Claim: memorisation (accuracy on wrongly labelled examples 2 points above its lowest) begins after
the best validation epoch.

    python reproduce/fig14.py
    python reproduce/fig14.py --data mnist --data-dir data
    python reproduce/fig14.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import memorisation
from three_factors.reproduce.experiments.memorisation import CLEAN, NOISY, PLACE, select


def check(table):
    fractions = sorted({PLACE[label].fraction for label in table.labels})
    return [memorisation.begins_late(table, fraction, momentum=0.0) for fraction in fractions]


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    fractions = sorted({PLACE[label].fraction for label in table.labels})
    panels = axes(1, len(fractions), sharey=True)
    for panel, fraction in zip(panels, fractions):
        labels = select(table.labels, fraction, 0.0)
        colours = plots.blue_to_red([PLACE[label].n for label in labels])
        for label in labels:
            for metric in (NOISY, CLEAN):
                colour, dotted = colours[PLACE[label].n], metric == CLEAN
                plots.band(panel, table, label, metric, colour, percent=True, legend="_", dotted=dotted, spread=False)
        panel.set(title=f"{100 * fraction:g} % random labels", xlabel="epoch",
                  ylabel="accuracy (%): noisy training set solid, validation dotted")  # fmt: skip
        panel.label_outer()
    plots.colour_bar(panels, [PLACE[label].n for label in table.labels if not PLACE[label].momentum], "η/S")


FIGURE = Figure(
    name="fig14",
    title="Learning curves with random labels",
    doc=__doc__,
    data="mnist",
    substitute="digits28",
    experiment=memorisation,
    measurements=memorisation.measurements,
    derive=memorisation.derive,
    check=check,
    draw=draw,
    spread="means",
    arms=("time", "loss", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
