"""Panels against eta/S, a point a cell: what is drawn of Figures 1 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from three_factors.reproduce.engine import plots
from three_factors.reproduce.engine.judge.table import STABILITY, Table
from three_factors.reproduce.experiments import loss_levels
from three_factors.reproduce.experiments.grid_slopes import TRAINED
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, VALID
from three_factors.reproduce.experiments.noise_grid import NoiseGrid

CROSSING = loss_levels.at(0.1)
WORDS = {
    END_NORM: "Hessian norm (Frobenius)",
    VALID: "validation accuracy (%)",
    CROSSING: "Hessian norm where the loss first reaches 0.1",
}


def words_of(metric: str) -> str:
    """Returns a metric's words, for an axis."""
    return WORDS.get(metric) or (plots.WORDS | plots.THIRD_FACTOR)[metric.removeprefix("end ")]


def draw(table: Table, axes: Any, network: str, title: str = "", metrics: Sequence[str] = (END_NORM, VALID)) -> None:
    """Draws a panel for each metric against eta/S, a point a cell."""
    labels = table.select(network=network)
    sizes, n = table.column(labels, "S"), table.column(labels, "eta") / table.column(labels, "S")
    trained = table.grid(labels, LOSS) <= TRAINED
    for panel, metric in zip(axes, metrics):
        values = table.grid(labels, metric) * (100 if metric == VALID else 1)
        for size, colour in plots.shades(sorted(set(sizes))).items():
            chosen = np.flatnonzero(sizes == size)
            plots.points(panel, n[chosen], values[:, chosen], trained[:, chosen].mean(0) > 0.5, colour, f"S {size}")
        panel.set(xlabel="η/S", ylabel=words_of(metric), title=title)
        if np.isnan(values).all():
            ended = not np.isnan(table.grid(labels, LOSS)).all()
            none_trained = "no run trained: every one\nended above its first loss"
            plots.nothing(panel, "no run got there" if ended else none_trained)
            continue
        plots.log_scale(panel.xaxis)
        if metric != VALID:
            plots.log_scale(panel.yaxis)
        if STABILITY in metric:
            plots.edge_of_stability(panel)
        panel.scatter([], [], s=26, facecolors="white", edgecolors="#555555", label=f"hollow: loss above {TRAINED:g}")
        plots.legend_below(panel, columns=4)


def draw_beside(table: Table, axes: Any, grid: NoiseGrid) -> None:
    """Draws what the norm alone does not tell: at equal loss, the weights' scale taken out, stability, the noise."""
    names, shown = list(grid.networks), (CROSSING, *plots.beside(table, "end"))
    if len(names) == 1:
        panels = axes(-(-len(shown) // 2), 2)
        draw(table, panels, names[0], metrics=shown)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        return
    panels = axes(len(shown), len(names))
    for column, name in enumerate(names):
        draw(table, panels[column :: len(names)], name, grid.networks[name].name, shown)
