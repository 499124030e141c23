"""Table 1. Cyclical schedules, in eta or in S, generalise better than a constant learning rate.

VGG-11 on CIFAR-10 on discrete schedules of eta and of S, a triangle of eta, and a constant eta; each tuned on
validation accuracy, the baseline too, and then run on other seeds. Claims: every cyclical schedule ends higher than the
constant one; discrete S and discrete eta end alike, and not below the triangle. Two claims are in tension: that
discrete S ends much wider than discrete eta (the caption), and that both end equally wide (the theory).

    python reproduce/table1.py
    python reproduce/table1.py --data cifar10 --data-dir data --seeds 8
    python reproduce/table1.py --scale paper --devices 2 --wandb online
"""

from dataclasses import replace

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from three_factors.reproduce.engine.figure import Figure, main
from three_factors.reproduce.experiments import cyclical, tuning
from three_factors.reproduce.experiments.tuning import BASELINE, TEST


def check(table):
    from three_factors.reproduce.engine import claims

    eta, s, triangle = cyclical.DISCRETE_ETA, cyclical.DISCRETE_S, cyclical.TRIANGLE_ETA
    found = [
        claims.differ(
            table, arm, BASELINE, on=TEST, smallest=0.005, claim=f"{arm} ends higher than a tuned constant eta",
            paper="90.0 % and 87.7 %",
        )
        for arm in (eta, s, triangle)
    ]  # fmt: skip
    edges = [[tuning.at_the_edge(table, arm) for arm in (BASELINE, cyclic)] for cyclic in (eta, s, triangle)]
    found = [replace(claim, note="; ".join(filter(None, words))) for claim, words in zip(found, edges)]
    found.append(
        claims.equivalent(
            table, s, eta, on=TEST, margin=0.005, claim="discrete S and discrete eta end within 0.5 points",
            paper="90.07 % and 90.04 %",
        )
    )  # fmt: skip
    found += [
        claims.differ(
            table, arm, triangle, on=TEST, smallest=0.0, null=-0.003, paper="90.0 % both",
            claim=f"{arm} ends not more than 0.3 points below the triangle",
        )
        for arm in (eta, s)
    ]  # fmt: skip
    return found + cyclical.tension(table)


def draw(table, axes):
    from three_factors.reproduce.engine import plots

    ours = (f"{name}\n(paper)" for name in tuning.COLUMNS.values())
    plots.written(axes(1, 3), ["schedule", "tuned to", *ours, *tuning.BESIDE.values()], tuning.written(table))


def draw_tuning(table, axes):
    from three_factors.reproduce.engine import plots

    found = tuning.known(table)
    for panel, arm in zip(axes(1, len(tuning.ARMS), sharey=True), tuning.ARMS):
        for period, colour in plots.shades(sorted({c.period for c in found if c.arm == arm}, key=str)).items():
            points = {c.lr: tuning.accuracies(table, c.label) for c in found if (c.arm, c.period) == (arm, period)}
            there = {lr: 100 * values.mean() for lr, values in points.items() if len(values)}
            name = f"cycle {period:g}" if period else "constant"
            panel.plot(list(there), list(there.values()), marker="o", markersize=4, color=colour, label=name)
        panel.set(title=arm, xlabel="η (highest of the cycle)", ylabel="validation accuracy (%), tuning seeds")
        plots.log_scale(panel.xaxis)
        panel.label_outer()
        plots.legend_below(panel, columns=3)


FIGURE = Figure(
    name="table1",
    title="Cyclical schedules against a tuned constant learning rate",
    doc=__doc__,
    data="cifar10",
    substitute="digits",
    experiment=tuning,
    tuning=tuning.TUNING,
    measurements=tuning.measurements,
    check=check,
    draw=draw,
    beside=draw_tuning,
    arms=("ghost", "no-bn", "l2"),
)

if __name__ == "__main__":
    main(FIGURE)
