"""Curvature where runs have trained equally far: at the first evaluation at or below fixed training losses.

Cross-entropy's Hessian vanishes with the loss on separable data, so that "sharper" may only say "trained less".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reproduce.engine.spec import Curvature, Measurement
from reproduce.engine.table import Evidence, Table

LEVELS = (0.3, 0.1, 0.03, 0.01)  # of the loss on the training subset, evaluated in eval mode without augmentation
FROBENIUS, LOSS = "hessian/frobenius", "train_subset/loss"


def at(level: float, metric: str = FROBENIUS) -> str:
    """A metric's name at the first crossing of a level."""
    return f"loss {level:g} {metric}"


def measurement(curvature: Curvature) -> Measurement:
    """The norm alone, at every level; of runs that keep their weights there."""
    return Measurement(replace(curvature, measures=("frobenius",)), tuple(f"loss {level:g}" for level in LEVELS))


def log_norms(table: Evidence, labels: Sequence[str], level: float) -> tuple[np.ndarray, str]:
    """(seeds, labels), NaN for runs that never cross the level; how many those are, and which losses the others had."""
    values = np.log(table.grid(labels, at(level)))
    if not isinstance(table, Table):
        return values, ""
    note = f"{int(np.isnan(values).sum())} of {values.size} runs never cross it"
    losses = table.grid(labels, at(level, LOSS))
    if not np.isnan(losses).all():
        note += f"; evaluated at losses from {np.nanmin(losses):.2g} to {np.nanmax(losses):.2g}"
    return values, note


def ratio(table: Evidence, label: str, reference: str) -> tuple[np.ndarray, str]:
    """Norm of one run over that of another at equal losses, geometric mean over the levels that both cross; (seeds,).

    NaN for seeds without such a level.
    """
    logs = [table.grid([label, reference], at(level)) for level in LEVELS]
    apart = np.array([np.log(values[:, 0]) - np.log(values[:, 1]) for values in logs])
    there = ~np.isnan(apart)
    mean = np.where(there, apart, 0.0).sum(axis=0) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)
    crossed = [f"{level:g} in {int(found.sum())}" for level, found in zip(LEVELS, there)]
    return np.exp(mean), f"levels that both cross, and in how many seeds: {', '.join(crossed)}"
