"""Table 1. Cyclical schedules, in eta or in S, generalise better than a constant learning rate.

VGG-11 on CIFAR-10 on discrete schedules of eta and of S, a triangle of eta, and a constant eta; each tuned on
validation accuracy, the baseline too, and then run on other seeds. Claims: every cyclical schedule ends higher than the
constant one; discrete S and discrete eta end alike, and not below the triangle. Two claims are in tension: that
discrete S ends much wider than discrete eta (the caption), and that both end equally wide (the theory).

    python reproduce/table1.py
    python reproduce/table1.py --data cifar10 --data-dir data --seeds 8
    python reproduce/table1.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms, cyclical, tuning
from three_factors.reproduce.experiments.metrics import TEST
from three_factors.reproduce.experiments.tuning import BASELINE


def check(table: Evidence) -> list[claims.Claim]:
    found, s, eta, triangle = [], cyclical.DISCRETE_S, cyclical.DISCRETE_ETA, cyclical.TRIANGLE_ETA
    for schedule in (eta, s, triangle):
        about = claims.Statement(
            f"higher.{cyclical.IDS[schedule]}",
            f"{schedule} ends higher than a tuned constant eta",
            paper="90.0 % and 87.7 %",
            note=claims.joined(*(tuning.at_the_edge(table, tuned) for tuned in (BASELINE, schedule))),
        )
        higher = seedwise.Direction(1, smallest=0.005)
        found.append(claims.differ(about, table, schedule, BASELINE, higher, on=TEST))
    alike = claims.Statement(
        "discrete_alike", "discrete S and discrete eta end within 0.5 points", paper="90.07 % and 90.04 %"
    )
    found.append(claims.equivalent(alike, table, s, eta, on=TEST, margin=0.005))
    for schedule in (eta, s):
        about = claims.Statement(
            f"not_below.{cyclical.IDS[schedule]}",
            f"{schedule} ends not more than 0.3 points below the triangle",
            paper="90.0 % both",
        )
        not_below = seedwise.Direction(1, smallest=0.0, null=-0.003)
        found.append(claims.differ(about, table, schedule, triangle, not_below, on=TEST))
    return found + cyclical.tension(table)


def draw(table: Table, axes: Any) -> None:
    ours = (f"{name}\n(paper)" for name in tuning.COLUMNS.values())
    plots.written(axes(1, 3), ["schedule", "tuned to", *ours, *tuning.BESIDE.values()], tuning.written(table))


def draw_tuning(table: Table, axes: Any) -> None:
    found = tuning.known(table)
    for panel, schedule in zip(axes(1, len(tuning.SCHEDULES), sharey=True), tuning.SCHEDULES):
        tried = {label: candidate for label, candidate in found.items() if candidate.schedule == schedule}
        for period, colour in plots.shades(sorted({c.period for c in tried.values()}, key=str)).items():
            points = {c.lr: tuning.accuracies(table, label) for label, c in tried.items() if c.period == period}
            trained = {lr: 100 * values.mean() for lr, values in points.items() if len(values)}
            name = f"cycle {period:g}" if period else "constant"
            panel.plot(list(trained), list(trained.values()), marker="o", markersize=4, color=colour, label=name)
        panel.set(title=schedule, xlabel="η (highest of the cycle)", ylabel="validation accuracy (%), tuning seeds")
        plots.log_scale(panel.xaxis)
        panel.label_outer()
        plots.legend_below(panel, columns=3)


FIGURE = Figure(
    name="table1",
    title="Cyclical schedules against a tuned constant learning rate",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=tuning.TUNED,
    check=check,
    draw=draw,
    beside=draw_tuning,
    arms=(*arms.BATCH_NORM, *arms.EVERY, *arms.TRIPLET),
)


if __name__ == "__main__":
    main(FIGURE)
