"""Table 1. Cyclical schedules, in eta or in S, generalise better than a constant learning rate.

VGG-11 on CIFAR-10 on discrete schedules of eta and of S, a triangle of eta, and a constant eta; each tuned on
validation accuracy, the baseline too, and then run on other seeds. Claims: cyclical schedules end higher than the
constant one, also where that is quenched at last; discrete S and discrete eta end alike, measured by what they gain,
and not below the triangle. How wide they end is Figure 16's.

    python reproduce/table1.py
    python reproduce/table1.py --data cifar10 --data-dir data --seeds 8
    python reproduce/table1.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise, statistics
from three_factors.reproduce.experiments import arms, cyclical, tuning
from three_factors.reproduce.experiments.metrics import TEST
from three_factors.reproduce.experiments.tuning import BASELINE, QUENCHED


def check(table: Evidence) -> list[claims.Finding]:
    s, eta, triangle = cyclical.DISCRETE_S, cyclical.DISCRETE_ETA, cyclical.TRIANGLE_ETA
    final = [s, eta, triangle, BASELINE, QUENCHED]
    ends = dict(zip(final, table.grid(final, TEST).T))
    cyclic = statistics.mean_of([ends[label] for label in (s, eta, triangle)])
    edges = claims.joined(*(tuning.at_the_edge(table, of) for of in (BASELINE, *cyclical.CYCLICAL)))
    higher, words = seedwise.Direction(1, smallest=0.003), "mean test accuracy of the three cyclical schedules less"
    over = claims.Statement(
        "higher",
        "cyclical schedules end higher than a tuned constant eta",
        f"{words} that of '{BASELINE}', a seed",
        paper="90.0 % and 87.7 %",
        quote="cyclical schedules generalise better",
        note=edges,
    )
    quench = claims.Statement(
        "higher_than_quenched",
        "cyclical schedules end higher than the constant eta quenched: more than annealing helps",
        f"{words} that of '{QUENCHED}', a seed",
    )
    not_below = claims.Statement(
        "not_below",
        "discrete schedules end not more than 0.3 points below the triangle",
        "mean test accuracy of discrete S and discrete eta less that of the triangle, a seed",
        paper="90.0 % both",
    )
    alike = claims.Statement(
        "alike",
        "discrete S and discrete eta end alike",
        paper="90.07 % and 90.04 %",
        quote="discrete schedules in either",
    )
    discrete = (ends[s] + ends[eta]) / 2 - ends[triangle]
    within = seedwise.Direction(1, smallest=0.0, null=-0.003)
    found = [
        seedwise.over_seeds(over, cyclic - ends[BASELINE], higher, unit="share"),
        seedwise.over_seeds(quench, cyclic - ends[QUENCHED], higher, unit="share"),
        seedwise.share(alike, table, s, eta, seedwise.NoiseContrast((s, eta), BASELINE, TEST)),
        seedwise.over_seeds(not_below, discrete, within, unit="share"),
    ]
    for label, name in cyclical.IDS.items():
        one = claims.Statement(f"higher.{name}", f"{label} ends higher than a tuned constant eta")
        found.append(seedwise.differ(one, table, label, BASELINE, higher, on=TEST))
    return found


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
    primary=("higher", "higher_than_quenched", "alike", "not_below"),
    draw=draw,
    beside=draw_tuning,
    edition=2,  # where a run ends was another stretch of epochs where S cycles
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL),  # its quench, of the constant alone, is one of its settings
)


if __name__ == "__main__":
    main(FIGURE)
