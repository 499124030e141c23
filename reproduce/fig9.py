"""Figure 9. The same in a 20-layer network without batch norm, well and badly initialised.

A 20-layer ReLU MLP on FashionMNIST over learning rates and batch sizes: the norm of the Hessian from a good (a) and a
bad (b) initialisation, and validation accuracy from the good one (c). Claims: the norm falls with eta/S, though less
clearly than in the 4-layer network of Figure 1, and validation accuracy rises with it. (Which panel is which is our
reading of the text, which names 9a and 9c with the good and 9b with the bad initialisation.)

    python reproduce/fig9.py
    python reproduce/fig9.py --data fashionmnist --data-dir data --seeds 6
    python reproduce/fig9.py --scale paper --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, seedwise, statistics
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.grid_panels import draw, draw_beside
from three_factors.reproduce.experiments.metrics import END_NORM, VALID
from three_factors.reproduce.experiments.mlp_grids import BAD, DEEP_MLP, GOOD, REFERENCE
from three_factors.reproduce.experiments.noise_grid import FALLS, RISES

BOTH: dict[
    str, tuple[str, str, seedwise.Direction, claims.Unit]
] = {  # what is stated of both initialisations together: id -> metric, words, the rule, its unit
    "norm": (END_NORM, "higher eta/S, smaller Hessian norm", FALLS, ""),
    "accuracy": (VALID, "higher eta/S, higher validation accuracy", RISES, "share"),
}


def averaged(table: Evidence) -> list[claims.Finding]:
    found = []
    for name, (metric, text, rule, unit) in BOTH.items():
        slopes = statistics.mean_of([DEEP_MLP.slopes(table, network, metric) for network in (GOOD, BAD)])
        what = "validation accuracy" if unit else "log10 norm"
        about = claims.Statement(
            name,
            f"{text}, in a 20-layer network too",
            f"slope of {what} per decade of eta/S over cells, mean over both initialisations, a seed",
            quote="similar results for a different network, though weaker",
        )
        found.append(seedwise.over_seeds(about, slopes, rule, unit=unit))
    return found


def weaker(table: Evidence, network: str) -> claims.Finding:
    own, other = (DEEP_MLP.networks[name].name for name in (network, REFERENCE))
    about = claims.Statement(
        f"{network}.weaker",
        f"the norm falls less with eta/S than in Figure 1's network ({own})",
        f"slope of log10 norm per decade of eta/S, '{own}' less '{other}', a seed",
        quote="though weaker",
    )
    slopes = [DEEP_MLP.slopes(table, name, END_NORM) for name in (network, REFERENCE)]
    return seedwise.over_seeds(about, slopes[0] - slopes[1], seedwise.Direction(1, smallest=0.05))


def check(table: Evidence) -> list[claims.Finding]:
    each = [claim for network in (GOOD, BAD) for claim in DEEP_MLP.check(table, network)]
    return [*averaged(table), *each, *(weaker(table, network) for network in (GOOD, BAD))]


def panels(table: Table, axes: Any) -> None:
    good, bad = (DEEP_MLP.networks[name].name for name in (GOOD, BAD))
    a, b, c = axes(1, 3)
    draw(table, [a], GOOD, f"(a) {good}", (END_NORM,))
    draw(table, [b], BAD, f"(b) {bad}", (END_NORM,))
    draw(table, [c], GOOD, f"(c) {good}", (VALID,))


FIGURE = Figure(
    name="fig9",
    title="Higher eta/S leads to flatter minima in a 20-layer network too",
    doc=__doc__,
    data=("fashionmnist",),
    substitute="digits28",
    experiment=DEEP_MLP,
    check=check,
    primary=("norm", "accuracy"),
    draw=panels,
    beside=lambda table, axes: draw_beside(table, axes, DEEP_MLP),
    arms=(*arms.CONSTANT, *arms.FOR_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
