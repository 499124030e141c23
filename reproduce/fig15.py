"""Figure 15. With random labels too, higher eta/S leads to flatter minima, with and without momentum.

The runs of Figure 5; the Hessian at the epoch of the best validation accuracy. Claims: its norm falls with eta/S for
momentum 0 (left) and 0.9 (right), and the two clouds fall on one curve against the effective noise eta/(S (1 - beta)).

    python reproduce/fig15.py
    python reproduce/fig15.py --data mnist --data-dir data
    python reproduce/fig15.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import equal_loss, memorisation
from three_factors.reproduce.experiments.memorisation import BEST_LOSS, MOMENTA, NORM, PLACE, select


def check(table):
    import numpy as np

    from three_factors.reproduce.engine import seedwise, statistics

    def falls(rho, claim, statistic="Spearman's rho with log eta/S, a seed", **options):
        rule = seedwise.Direction(-1, smallest=0.3)
        return seedwise.over_seeds(
            rho, rule, scale=seedwise.FISHER, claim=f"higher eta/S, smaller norm {claim}",
            statistic=statistic, **options,
        )  # fmt: skip

    found = []
    for fraction in sorted({PLACE[label].fraction for label in table.labels}):
        noise = f"{100 * fraction:g} % noise"
        for momentum in sorted(MOMENTA):
            labels, where = select(table.labels, fraction, momentum), f"{noise}, momentum {momentum:g}"
            log_n, norms = np.log([PLACE[label].n for label in labels]), np.log(table.grid(labels, NORM))
            rho = statistics.spearman(log_n, norms)
            at_best = falls(rho, f"at the best epoch; {where}", paper="falls, by eye")
            found.append(at_best)
            for level in equal_loss.LEVELS:
                rho, note = equal_loss.correlation(table, labels, log_n, level)
                words, control = f"at the first loss of {level:g}; {where}", at_best.claim
                found.append(falls(rho, words, equal_loss.STATISTIC, control_of=control, note=note))
            losses = np.log(table.grid(labels, BEST_LOSS))
            rho = statistics.partial_spearman(log_n, norms, losses)
            words = "partial rank correlation with log eta/S given log training loss, a seed"
            found.append(falls(rho, f"at equal training loss; {where}", words, control_of=at_best.claim))
        labels = select(table.labels, fraction)
        clouds = np.array([PLACE[label].momentum for label in labels])
        log_n = np.log([PLACE[label].effective_n for label in labels])
        ratio = [statistics.collapse(log_n, row, clouds) for row in np.log(table.grid(labels, NORM))]
        found.append(
            seedwise.over_seeds(
                np.array(ratio), seedwise.Direction(-1, smallest=0.0, null=1.5), scale=seedwise.LOG,
                claim=f"momentum acts as eta/(1 - beta): the two clouds fall on one curve; {noise}",
                statistic="mean squares left by one decreasing fit of log norm on log eta/(S (1 - beta)), over those "
                "left by a fit to each cloud, a seed",
            )
        )  # fmt: skip
    return found


def draw(table, axes):
    draw_metric(table, axes(1, len(MOMENTA), sharey=True), NORM, "Hessian norm at the best validation epoch")


def draw_beside(table, axes):
    from three_factors.reproduce.engine import plots

    columns = len(MOMENTA)
    panels = axes(len(plots.WORDS), columns, sharey="row")
    for row, (metric, words) in enumerate(plots.WORDS.items()):
        draw_metric(table, panels[row * columns : (row + 1) * columns], f"best {metric}", words)


def draw_metric(table, panels, metric, words):
    from three_factors.reproduce.engine import plots

    fractions = sorted({PLACE[label].fraction for label in table.labels})
    for panel, momentum in zip(panels, sorted(MOMENTA)):
        for fraction, colour in zip(fractions, (plots.BLUE, plots.ORANGE)):
            labels = select(table.labels, fraction, momentum)
            values, n = table.grid(labels, metric), [PLACE[label].n for label in labels]
            solid = plots.all_trained(table, labels)
            plots.points(panel, n, values, solid, colour, f"{100 * fraction:g} % random labels")
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
    data="mnist",
    substitute="digits28",
    experiment=memorisation,
    measurements=memorisation.measurements,
    derive=memorisation.derive,
    check=check,
    draw=draw,
    beside=draw_beside,
    arms=("time", "loss", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
