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

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.metrics import LOSS, TEST
from three_factors.reproduce.experiments.switching import HIGH, LOW, OUTCOMES, SHARES, SWITCHING, kept, switched

# φ at most 1/3: forgotten; at least 2/3: it decides. No φ lies beyond 10.
FORGOTTEN = seedwise.Range(-10, 1 / 3)
ORDERS = {HIGH: "high_first", LOW: "low_first"}


def check(table: Evidence) -> list[claims.Finding]:
    found = [both_orders(table, share, metric) for metric in OUTCOMES for share in SHARES]
    for metric, words in OUTCOMES.items():
        for first, name in ORDERS.items():
            for share in SHARES:
                own = f"{'loss.' if metric == LOSS else ''}{share}.{name}"
                about = claims.Statement(
                    own,
                    f"the noise of the first {share} % of the steps is forgotten ({first} first): {words}",
                    f"φ of log {words}: '{switched(first, share)}', a seed",
                )
                found.append(seedwise.ratio(about, *kept(table, first, share, metric), FORGOTTEN))
    return found


def both_orders(table: Evidence, share: int, metric: str) -> claims.Finding:
    """States what an equilibrium has, both orders averaged; a break-even point has φ at least 2/3 instead."""
    words = OUTCOMES[metric]
    about = claims.Statement(
        f"{'loss.' if metric == LOSS else ''}{share}",
        f"the noise of the first {share} % of the steps is forgotten: {words}",
        f"φ of log {words}, mean over both orders, a seed",
        paper="Theorem 1: an equilibrium; a break-even point has 2/3 or more"
        if share == SHARES[0]
        else "an equilibrium",
        quote="the distribution over minima depends on the noise that stands",
    )
    above, below = np.mean([kept(table, first, share, metric) for first in ORDERS], axis=0)
    return seedwise.ratio(about, above, below, FORGOTTEN)


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
    edition=3,  # the first had denominators that cancel; in the second t_eta differed by 12 %, that of quenches by 20 %
    check=check,
    primary=tuple(str(share) for share in SHARES),
    draw=draw,
    arms=(arms.NO_BN, *arms.FOR_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
