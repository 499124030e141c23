"""Curvature where runs have trained equally far: at the first evaluation at or below fixed training losses.

Cross-entropy's Hessian vanishes with the loss on separable data, so that "sharper" may only say "trained less". A run
at higher eta/S falls further in an epoch, and so further below a level: its log norm is moved to the level along its
own slope of log norm on log loss. Runs that never cross a level are listed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from three_factors.reproduce.engine import statistics
from three_factors.reproduce.engine.judge.table import Evidence
from three_factors.reproduce.experiments.metrics import LOSS, NORM

LEVELS = (0.3, 0.1, 0.03, 0.01)  # of the loss on the training subset, evaluated in eval mode without augmentation
MILESTONES = tuple(f"loss {level:g}" for level in LEVELS)


def at(level: float, metric: str = NORM) -> str:
    """Returns a metric's name at the first crossing of a level."""
    return f"loss {level:g} {metric}"


STATISTIC = (
    f"slope of log10 norm at the first crossings of {', '.join(f'{level:g}' for level in LEVELS)}, moved to the level, "
    "per decade of eta/S, an intercept a level, a seed"
)


def slope(table: Evidence, labels: Sequence[str], log_n: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns `STATISTIC`, (seeds,), of cells at log10 eta/S (cells,), and a note on the runs that lack a level.

    Over the (cell, level) pairs that every seed reached: those that some lack would be chosen by the outcome.
    """
    norms = _levels(table, labels)
    reached = ~np.isnan(norms).any(axis=1, keepdims=True)  # (levels, 1, cells)
    kept = np.where(reached, norms, np.nan)
    y = kept.transpose(1, 0, 2).reshape(norms.shape[1], -1)
    groups = np.repeat(np.arange(len(LEVELS)), len(labels))
    found = statistics.slopes(np.tile(log_n, len(LEVELS)), y, groups)
    return found, _left_out(table, labels, norms) if table.measured else ""


def _levels(table: Evidence, labels: Sequence[str]) -> np.ndarray:
    """Returns log10 norms moved to the levels, (levels, seeds, cells)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        norm, loss = (
            np.log10(np.stack([table.grid(labels, at(level, metric)) for level in LEVELS])) for metric in (NORM, LOSS)
        )
    own = _own_slopes(loss, norm)
    targets = np.log10(np.array(LEVELS))[:, None, None]
    found: np.ndarray = norm - own * (loss - targets)
    return found


def _own_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns each run's slope of y on x (levels, seeds, cells) over the levels it has: (1, seeds, cells).

    A run with one level has the mean slope of its seed's others.
    """
    there = ~(np.isnan(x) | np.isnan(y))
    count = there.sum(axis=0)
    mean_x, mean_y = (np.where(there, of, 0).sum(axis=0) / np.maximum(count, 1) for of in (x, y))
    dx, dy = (np.where(there, of - mean, 0.0) for of, mean in ((x, mean_x), (y, mean_y)))
    squares = (dx * dx).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where((count > 1) & (squares > 1e-12), (dx * dy).sum(axis=0) / squares, np.nan)
    usual = statistics.nanmean(found.T)[:, None]  # (seeds, 1)
    return np.nan_to_num(np.where(np.isnan(found), usual, found))[None]


def _left_out(table: Evidence, labels: Sequence[str], norms: np.ndarray) -> str:
    trained = ~np.isnan(table.grid(labels, LOSS))
    parts = []
    for level, of_level in zip(LEVELS, norms):
        never = trained & np.isnan(of_level)
        parts.append(f"{level:g}: {int(never.sum())}")
    return f"of {int(trained.sum())} runs that trained so many never cross {', '.join(parts)}; their cells are left out"


def ratio(table: Evidence, label: str, reference: str) -> tuple[np.ndarray, str]:
    """Returns the norm of one run over that of another at equal losses, and a note.

    A geometric mean over the levels that every seed of both crosses, (seeds,); NaN without such a level.
    """
    norms = np.log(10) * _levels(table, [label, reference])
    apart = norms[:, :, 0] - norms[:, :, 1]
    both = ~np.isnan(apart).any(axis=1)
    crossed = [f"{level:g} in {int(found.sum())}" for level, found in zip(LEVELS, ~np.isnan(apart))]
    note = f"levels that both cross, and in how many seeds: {', '.join(crossed)}"
    return (np.exp(apart[both].mean(axis=0)) if both.any() else np.full(apart.shape[1], np.nan)), note


def imagined(norm: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns, for a simulated world, the norms (seeds,) at every crossing, at losses that say nothing."""
    found = {}
    for level in LEVELS:
        found[at(level)] = norm
        found[at(level, LOSS)] = level * np.exp(random.uniform(-0.3, 0.0, len(norm)))
    return found
