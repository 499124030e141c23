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

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import memorisation
from three_factors.reproduce.experiments.memorisation import CLEAN, LEVELS, MOMENTA, NOISY, PLACE, at_level, select


def check(table):
    import numpy as np

    from three_factors.reproduce.engine import seedwise, statistics

    def rising(labels):
        """Spearman's rho of log n and validation accuracy at equal memorisation, its mean over levels; (seeds,)."""
        log_n = np.log([PLACE[label].n for label in labels])
        of_levels = [statistics.spearman(log_n, table.grid(labels, at_level(x))) for x in LEVELS]
        return statistics.mean_of_those_there(np.array(of_levels))

    found = []
    for fraction in sorted({PLACE[label].fraction for label in table.labels}):
        for momentum in MOMENTA:
            labels = select(table.labels, fraction, momentum)
            where = f"{100 * fraction:g} % noise, momentum {momentum:g}"
            there = {x: ~np.isnan(table.grid(labels, at_level(x))) for x in LEVELS}
            reached = ", ".join(f"{x:g}: {int(of_level.sum())}" for x, of_level in there.items())
            found.append(
                seedwise.over_seeds(
                    rising(labels), seedwise.Direction(1, smallest=0.3), scale=seedwise.FISHER,
                    note=f"of {there[LEVELS[0]].size} runs so many reach {reached}",
                    claim=f"higher eta/S generalises better at equal memorisation; {where}", paper="by eye",
                    statistic="Spearman's rho of eta/S and validation accuracy where the accuracy on the noisy "
                    f"training set first reaches {', '.join(f'{x:g}' for x in LEVELS)}, mean over these, a seed",
                )
            )  # fmt: skip
        found.append(memorisation.begins_late(table, fraction))
    return found


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    fractions = sorted({PLACE[label].fraction for label in table.labels})
    panels = axes(len(fractions), len(MOMENTA), sharex="col", sharey="row")
    colours = plots.blue_to_red([PLACE[label].n for label in table.labels])
    for panel, (fraction, momentum) in zip(panels, [(f, m) for f in fractions for m in MOMENTA]):
        labels = select(table.labels, fraction, momentum)
        plots.final_points(panel, table, labels, NOISY, CLEAN, colours, [PLACE[label].n for label in labels])
        panel.set(
            title=f"{100 * fraction:g} % random labels, momentum {momentum:g}",
            xlabel="accuracy on the noisy training set (%)", ylabel="validation accuracy (%)",
        )  # fmt: skip
        panel.label_outer()
    plots.colour_bar(panels, [PLACE[label].n for label in table.labels], "η/S")


FIGURE = Figure(
    name="fig5",
    title="More noise generalises better at the same amount of memorisation",
    doc=__doc__,
    data="mnist",
    substitute="digits28",
    experiment=memorisation,
    measurements=memorisation.measurements,
    derive=memorisation.derive,
    check=check,
    draw=draw,
    spread="a point a run",
    arms=("time", "loss", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
