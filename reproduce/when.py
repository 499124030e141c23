"""When noise acts. Is the minimum decided by the noise of early training, or by the noise that stands at the end?

Fig. 4's VGG-11 at eta 0.001, with S switched from 128 to 640 or back after 15 or 85 % of the steps, beside the two
unswitched runs: same eta, same steps, same t_eta, and the same quench at the end. φ is how much of the first phase's
noise the end remembers. Theorem 1's equilibrium forgets: φ at most 1/3 in either case. A break-even point early in
training keeps it: φ at least 2/3 already after 15 %. Exposure alone has φ equal to the share of the steps.

    python reproduce/when.py
    python reproduce/when.py --data cifar10 --data-dir data
    python reproduce/when.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.metrics import LOSS, TEST
from three_factors.reproduce.experiments.switching import HIGH, LOW, OUTCOMES, SHARES, SWITCHING, kept, switched

FORGOTTEN, REMEMBERED = seedwise.Range(-10, 1 / 3), seedwise.Range(2 / 3, 10)  # no φ lies beyond 10
ORDERS = {HIGH: "high_first", LOW: "low_first"}


def check(table: Evidence) -> list[claims.Claim]:
    found = []
    for metric, words in OUTCOMES.items():
        for first, name in ORDERS.items():
            for share in SHARES:
                above, below = kept(table, first, share, metric)
                own = f"{'loss.' if metric == LOSS else ''}{name}.{share}"
                statistic = f"φ of log {words}: '{switched(first, share)}', a seed"
                forgets = claims.Statement(
                    f"{own}.forgotten",
                    f"the noise of the first {share} % of the steps is forgotten ({first} first): {words}",
                    statistic,
                    paper="Theorem 1: an equilibrium",
                )
                keeps = claims.Statement(
                    f"{own}.remembered",
                    f"the noise of the first {share} % of the steps decides ({first} first): {words}",
                    statistic,
                    paper="a break-even point" if share == SHARES[0] else "",
                )
                found += [
                    seedwise.ratio_over_seeds(about, above, below, rule)
                    for about, rule in ((forgets, FORGOTTEN), (keeps, REMEMBERED))
                ]
    return found


def colours() -> dict[str, str]:
    labels = [HIGH, LOW, *(switched(first, share) for first in ORDERS for share in SHARES)]
    return dict(zip(labels, (plots.RED, plots.BLUE, plots.ORANGE, plots.PURPLE, plots.GREEN, plots.GREY)))


def draw(table: Table, axes: Any) -> None:
    curves, *ends = axes(2, 2)
    for label, colour in colours().items():
        plots.band(curves, table, label, TEST, colour, percent=True, legend=label, against="t_eta")
    curves.set(xlabel="rescaled time t_eta", ylabel="test accuracy (%)")
    plots.legend_below(curves, columns=1)
    for panel, (metric, words) in zip(ends, (*OUTCOMES.items(), (TEST, "test accuracy (%)"))):
        for place, (label, colour) in enumerate(colours().items()):
            values = table.grid([label], metric) * (100 if metric == TEST else 1)
            plots.points(panel, [place], values, plots.all_trained(table, [label]), colour, label)
        ticks = ["high", "low", *(f"{first.split()[0]} for\n{share} %" for first in ORDERS for share in SHARES)]
        panel.set_xticks(range(len(ticks)), ticks, fontsize=7)
        panel.set(ylabel=words, title="after the quench")
        if metric != TEST:
            plots.log_scale(panel.yaxis)


FIGURE = Figure(
    name="when",
    title="When noise acts: switched early or late",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=SWITCHING,
    check=check,
    draw=draw,
    arms=(arms.NO_BN, *arms.EVERY),
)


if __name__ == "__main__":
    main(FIGURE)
