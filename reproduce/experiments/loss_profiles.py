"""Panels of loss and accuracy along lines between minima: what is drawn of Figures 2, 3 and 10-12."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from three_factors.reproduce.engine import plots
from three_factors.reproduce.engine.judge.table import Table


def draw(table: Table, axes: Any, labels: Sequence[str]) -> None:
    """Draws a panel for each line, over all seeds; four in a square."""
    shape = (2, 2) if len(labels) == 4 else (1, len(labels))
    _draw(table, axes(*shape), [(label, None, label) for label in labels])


def draw_seeds(table: Table, axes: Any, label: str) -> None:
    """Draws a panel for each seed of one line: each from another random initialisation."""
    seeds = sorted(seed for name, seed in table.profiles if name == label)
    _draw(table, axes(1, max(1, len(seeds))), [(label, seed, f"{label}, seed {seed}") for seed in seeds])


def _draw(table: Table, axes: Any, panels: list[tuple[str, int | None, str]]) -> None:
    """Draws loss (left axis; train solid, test dashed) and accuracy (right axis, red) along a line."""
    others = plots.twins(axes, "loss", plots.BLUE, "accuracy (%)", plots.RED)
    for panel, other, (label, seed, title) in zip(axes, others, panels):
        plots.profile(panel, table, label, "loss", plots.BLUE, seed=seed)
        plots.profile(other, table, label, "accuracy", plots.RED, percent=True, seed=seed)
        panel.set(title="\n".join([title, *_barriers(table, label, seed)]), xlabel="α: θ1 at 0, θ2 at 1")
        plots.log_scale(panel.yaxis)
        for end in (0, 1):
            panel.axvline(end, color="#999999", linewidth=0.8, linestyle=":")
        plots.legend_below(panel, columns=2)


def _barriers(table: Table, label: str, seed: int | None) -> list[str]:
    """Says how far the training loss rises above the ends' on a line, mean over seeds (or of one)."""
    kinds = {"barrier": "", "barrier, statistics interpolated": "without batch norm re-estimated "}
    rows = table.frame[(table.frame["label"] == label) & (table.frame["seed"].eq(seed) if seed is not None else True)]
    found = {words: rows[name].mean() for name, words in kinds.items() if name in rows and rows[name].notna().any()}
    return ["barrier " + ", ".join(f"{words}{value:.2g}" for words, value in found.items())] if found else []
