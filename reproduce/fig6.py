"""Figure 6. Learning rate and batch size can be multiplied together up to a breaking point.

VGG-11 on CIFAR-10 at (0.1 b, 50 b) for three sizes of the training set (a-c), and at half the noise (d). Claims: the b
at which validation accuracy breaks rises with the size of the training set, and is about twice as large at half the
noise, as if a learning rate too high were the reason.

    python reproduce/fig6.py
    python reproduce/fig6.py --data cifar10 --data-dir data --seeds 8
    python reproduce/fig6.py --scale paper --devices 2 --wandb online
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from collections.abc import Sequence
from typing import Any

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.accuracy_curves import draw_panel
from three_factors.reproduce.experiments.breaking_point import EDGE, MIDDLE_STABILITY
from three_factors.reproduce.experiments.vgg_scaling import DATA_SIZES, EQUAL_TIME

PANELS = ("a", "b", "c", "d")


def check(table: Evidence) -> list[claims.Finding]:
    a, b, c, d = (DATA_SIZES.stars(table, panel) for panel in PANELS)
    return [_rises(table, a, b, c), _half(table, c, d), _edge(table, c), *_beside(table)]


def _rises(table: Evidence, *stars: np.ndarray) -> claims.Finding:
    about = claims.Statement(
        "rises",
        "the breaking point rises with the training set, (a) to (c)",
        "slope of log b* on log N, a seed",
        quote="the range grows with the size of the training set",
    )
    sizes = np.log([DATA_SIZES.panels[panel].train for panel in PANELS[:3]])
    # A b* that lies beyond the b that were tried has no slope; for the order it is the largest.
    logs = np.log(np.where(np.isinf(stars), np.nan, stars)).T
    centred = sizes - sizes.mean()
    slopes = logs @ centred / (centred @ centred)
    found = seedwise.rising(about, stars, slopes, smallest=0.25)
    return _unless_noisy(found, table, PANELS[:3])


def _half(table: Evidence, c: np.ndarray, d: np.ndarray) -> claims.Finding:
    about = claims.Statement(
        "half_noise",
        "at half the noise it breaks at about twice the b: (d) over (c)",
        "ratio of b*, a seed",
        quote="for a smaller learning rate the range is larger",
    )
    known = np.where(np.isinf(c), np.nan, c)
    found = seedwise.over_seeds(
        about, d / known, seedwise.Range(1.5, 2.7), seedwise.LOG, at_least=DATA_SIZES.largest(table, "d") / known
    )
    return _unless_noisy(found, table, PANELS[2:])


def _edge(table: Evidence, c: np.ndarray) -> claims.Finding:
    about = claims.Statement(
        "edge",
        f"it breaks where eta times batch sharpness reaches {EDGE:g}: the edge of stability is the reason",
        "the b at which eta times batch sharpness (train mode, median over the middle third of the steps) is "
        f"{EDGE:g}, over b*, panel (c), a seed",
    )
    known = np.where(np.isinf(c), np.nan, c)
    reached, largest = DATA_SIZES.edges(table), DATA_SIZES.largest(table, "c")
    found = seedwise.over_seeds(
        about,
        np.where(np.isneginf(reached), -np.inf, reached / known),
        seedwise.Range(1 / 1.5, 1.5),
        seedwise.LOG,
        at_least=largest / known,
        at_most=1 / known,
    )
    return _unless_noisy(found, table, PANELS[2:3])


def _unless_noisy(found: claims.Finding, table: Evidence, panels: Sequence[str]) -> claims.Finding:
    noisy = DATA_SIZES.too_noisy(table, panels)
    return found.without(noisy) if noisy else found


def _beside(table: Evidence) -> list[claims.Finding]:
    """Estimates b* of panels at equal t_eta, and what is lost below b = 1."""
    found = []
    for key in EQUAL_TIME.values():
        if table.select(panel=key):
            about = claims.Statement(f"equal_time.{key[0]}", f"b* of {DATA_SIZES.panels[key].name}", "b*, a seed")
            stars, largest = DATA_SIZES.stars(table, key), DATA_SIZES.largest(table, key)
            rule = seedwise.Range(1.0, largest)
            found.append(seedwise.over_seeds(about, stars, rule, seedwise.LOG, at_least=largest))
    small = claims.Statement(
        "small_batches",
        "too small a batch breaks it as well: lower accuracy at b < 1 than at b = 1",
        "end accuracy (chance if diverged), b = 1 minus b < 1, mean over panels, a seed",
        paper="claimed, not tested",
    )
    drop = DATA_SIZES.drop_at_small_batches(table)
    return [*found, seedwise.over_seeds(small, drop, seedwise.Direction(1, smallest=0.01), unit="share")]


def draw(table: Table, axes: Any) -> None:
    for panel, key in zip(axes(2, 2, sharey=True), PANELS):
        draw_panel(panel, table, table.select(panel=key))
        panel.set(title=DATA_SIZES.panels[key].name)
        plots.legend_below(panel, columns=3)


def draw_beside(table: Table, axes: Any) -> None:
    """Draws eta times batch sharpness against b, a line a seed, and b* of every seed; then panels at equal t_eta."""
    longer = [key for key in EQUAL_TIME.values() if table.select(panel=key)]
    panel, *others = axes(1, 1 + len(longer))
    for other, key in zip(others, longer):
        draw_panel(other, table, table.select(panel=key))
        other.set(title=DATA_SIZES.panels[key].name)
        plots.legend_below(other, columns=3)
    measured = DATA_SIZES.stability
    assert measured is not None
    labels = sorted(table.select(panel=measured), key=lambda label: table.factors[label]["b"])
    rows, stars = table.grid(labels, MIDDLE_STABILITY), DATA_SIZES.stars(table, measured)
    style = {"color": plots.BLUE, "marker": "o", "markersize": 3.5, "linewidth": 0.9}
    for i, (row, star) in enumerate(zip(rows, stars)):
        words = ("η · batch sharpness, a seed", "b*, a seed") if i == 0 else ("_", "_")
        panel.plot(table.column(labels, "b"), row, label=words[0], **style)
        panel.axvline(star if np.isfinite(star) else np.nan, color=plots.RED, linewidth=0.9, label=words[1])
    panel.set(title=DATA_SIZES.panels[measured].name, xlabel="b", ylabel="η · batch sharpness, middle third")
    plots.log_scale(panel.xaxis)
    plots.log_scale(panel.yaxis)
    plots.edge_of_stability(panel)
    plots.legend_below(panel, columns=3)


FIGURE = Figure(
    name="fig6",
    title="The breaking point of multiplying eta and S",
    doc=__doc__,
    data=("cifar10",),
    substitute="digits",
    experiment=DATA_SIZES,
    check=check,
    primary=("rises", "half_noise", "edge"),
    draw=draw,
    beside=draw_beside,
    arms=(*arms.BATCH_NORM, *arms.FOR_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
