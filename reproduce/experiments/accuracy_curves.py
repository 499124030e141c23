"""Validation accuracy against the epoch, a shade a b: the panels of Figures 6 and 7."""

from __future__ import annotations

from typing import Any

from three_factors.reproduce.engine import plots
from three_factors.reproduce.engine.judge.table import Table
from three_factors.reproduce.experiments.metrics import VALID


def highest(table: Table, label: str, name: str) -> str:
    """Returns 'b 2 (81.3 ± 0.4 %)': mean and sd of the highest validation accuracy; * where a seed diverged."""
    _, _, values = table.curves(label, VALID)
    star = "*" if table.diverged(label) else ""
    if not len(values):
        return f"{name}{star}"
    best = 100 * values.max(axis=1)
    spread = f" ± {best.std(ddof=1):.1f}" if len(best) > 1 else ""
    return f"{name}{star} ({best.mean():.1f}{spread} %)"


def draw_panel(panel: Any, table: Table, labels: list[str]) -> None:
    """Draws validation accuracy against the epoch, a shade a b; the legend has the highest."""
    for label, colour in plots.shades(labels).items():
        legend = highest(table, label, f"b {table.factors[label]['b']:.3g}")
        plots.band(panel, table, label, VALID, colour, percent=True, legend=legend)
    panel.set(xlabel="epoch", ylabel="validation accuracy (%)")
