"""Curvature where runs have trained equally far: at the first evaluation at or below fixed training losses.

Cross-entropy's Hessian vanishes with the loss on separable data, so that "sharper" may only say "trained less". A run
at higher eta/S falls further in an epoch, and so further below a level: what is left of that is taken out by rank.
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


STATISTIC = "partial rank correlation with log eta/S given the log loss there, a seed"


def correlation(table: Evidence, labels: Sequence[str], log_n: np.ndarray, level: float) -> tuple[np.ndarray, str]:
    """Returns `STATISTIC` of the norm at the first crossing of a level, (seeds,), and a note.

    Runs that never cross it are left out, which the note counts and names.
    """
    norms, losses = np.log(table.grid(labels, at(level))), np.log(table.grid(labels, at(level, LOSS)))
    rho = statistics.partial_spearman(log_n, norms, losses)
    return rho, _left_out(table, labels, norms, losses) if table.measured else ""


def _left_out(table: Evidence, labels: Sequence[str], norms: np.ndarray, losses: np.ndarray) -> str:
    trained = ~np.isnan(table.grid(labels, LOSS))
    never = trained & np.isnan(norms)
    words = f"{int(never.sum())} of {int(trained.sum())} runs that trained never cross it"
    cells = [label for label, lost in zip(labels, never.all(axis=0)) if lost]
    if 0 < len(cells) < len(labels):
        words += f", all seeds of: {'; '.join(cells)}"
    if not np.isnan(losses).all():
        words += f"; evaluated at losses from {np.exp(np.nanmin(losses)):.2g} to {np.exp(np.nanmax(losses)):.2g}"
    return words


def ratio(table: Evidence, label: str, reference: str) -> tuple[np.ndarray, str]:
    """Returns the norm of one run over that of another at equal losses, and a note.

    A geometric mean over the levels that both cross, (seeds,).

    NaN for seeds without such a level. The note tells the ratio of the losses there.
    """
    apart = _log_ratios(table, label, reference, NORM)
    valid = ~np.isnan(apart)
    mean = np.where(valid, apart, 0.0).sum(axis=0) / np.where(valid.any(axis=0), valid.sum(axis=0), np.nan)
    crossed = [f"{level:g} in {int(found.sum())}" for level, found in zip(LEVELS, valid)]
    note = f"levels that both cross, and in how many seeds: {', '.join(crossed)}"
    if table.measured and valid.any():
        losses = _log_ratios(table, label, reference, LOSS)[valid]
        note += f"; the losses' own ratio there is {np.exp(losses.mean()):.2f}"
    return np.exp(mean), note


def _log_ratios(table: Evidence, label: str, reference: str, metric: str) -> np.ndarray:
    """Returns log ratios of a metric at every level, (levels, seeds)."""
    values = [table.grid([label, reference], at(level, metric)) for level in LEVELS]
    return np.array([np.log(v[:, 0]) - np.log(v[:, 1]) for v in values])


def imagined(norm: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns, for the power, the norms (seeds,) at every crossing, at losses that say nothing."""
    found = {}
    for level in LEVELS:
        found[at(level)] = norm
        found[at(level, LOSS)] = level * np.exp(random.uniform(-0.3, 0.0, len(norm)))
    return found
