"""Rivals. Which power of the batch size decides, eta/S, eta/√S, or eta alone?

Figure 1's MLP on FashionMNIST, without batch norm and with it over ghost batches of one size, at every pair of eta and
S that reaches the same rescaled time t_eta. One number a network, g of log y = s(log eta - g log S): 1 for every theory
of eta/S, 1/2 for linear stability, 0 for the edge of stability; where eta/S changes nothing at equal t_eta it was time
alone. Claim: g = 1, in the norm of the Hessian where runs end (with batch norm scale-normalised). Beside it the largest
eigenvalue and the training loss, and a small network on the square loss, of which g = 0 is known. The report has the g
of other figures in one picture with these.

    python reproduce/rivals.py
    python reproduce/rivals.py --data fashionmnist --data-dir data
    python reproduce/rivals.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots
from three_factors.reproduce.experiments.edge import EDGE
from three_factors.reproduce.experiments.rivals import (
    GHOSTS,
    GRID,
    OUTCOMES,
    PLAIN,
    SHARPEST,
    VALUES,
    calibrated,
    interval,
    judged,
    levels,
)

NAMES = {PLAIN: "without batch norm", GHOSTS: "batch norm over ghosts"}


def check(table: Evidence) -> list[claims.Finding]:
    found = [
        finding
        for network, name in NAMES.items()
        for outcome in OUTCOMES
        for finding in judged(table, network, outcome, name)
    ]
    return [*found, *levelled(table), *calibrated(table)]


def levelled(table: Evidence) -> list[claims.Finding]:
    """States of each network what the rivals say of the level at which runs end."""
    return [finding for network, name in NAMES.items() for finding in levels(table, network, name).values()]


def draw(table: Table, axes: Any) -> None:
    numbers, *others = axes(1, 1 + len(NAMES))
    places = [*((network, outcome) for network in NAMES for outcome in OUTCOMES), (EDGE, SHARPEST)]
    for g, (words, value) in zip((plots.BLUE, plots.ORANGE, plots.RED), VALUES.items()):
        numbers.axvline(value, color=g, linewidth=1, label=f"{words}: g = {value:g}")
    for place, (network, outcome) in enumerate(places):
        of = interval(table, network, outcome)
        if of is not None:
            value, low, high = of
            numbers.plot([low, high], [place, place], color="#333333", linewidth=1.4)
            numbers.plot([value], [place], marker="o", color="#333333", markersize=5)
    ticks = [
        f"{outcome.of(network)},\n{NAMES.get(network, 'square loss (g = 0 is known)')}" for network, outcome in places
    ]
    numbers.set_yticks(range(len(places)), ticks, fontsize=7)
    numbers.set(xlabel="g, 95 % interval over seeds", xlim=(-1, 3), ylim=(len(places) - 0.5, -0.5))
    plots.legend_below(numbers, columns=3)
    for panel, (network, name) in zip(others, NAMES.items()):
        labels, metric = table.select(network=network), OUTCOMES[0].metrics[network]
        sizes = table.column(labels, "S")
        n, values = table.column(labels, "eta") / sizes, table.grid(labels, metric)
        for size, colour in plots.shades(sorted(set(sizes))).items():
            chosen = [i for i, of in enumerate(sizes) if of == size]
            solid = plots.all_trained(table, [labels[i] for i in chosen])
            plots.points(panel, n[chosen], values[:, chosen], solid, colour, f"S {size}")
        words = "scale-normalised sharpness" if network == GHOSTS else "Hessian norm (Frobenius)"
        panel.set(xlabel="η/S", ylabel=f"{words}, at equal t_eta", title=name)
        plots.log_scale(panel.xaxis)
        plots.log_scale(panel.yaxis)
        plots.legend_below(panel, columns=3)


FIGURE = Figure(
    name="rivals",
    title="Which power of the batch size decides",
    doc=__doc__,
    data=("fashionmnist",),
    substitute="digits28",
    experiment=GRID,
    edition=2,  # t_eta differed by 9 %
    check=check,
    primary=(f"{PLAIN}.norm", f"{GHOSTS}.norm"),
    draw=draw,
    spread="mean and 95 % interval",
)


if __name__ == "__main__":
    main(FIGURE)
