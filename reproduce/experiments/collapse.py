"""Whether two clouds of points fall on one decreasing curve: the statistic of Figure 15."""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

FEWEST = 5  # points of a cloud


def collapse(x: np.ndarray, y: np.ndarray, cloud: np.ndarray) -> float:
    """Returns how much worse one decreasing curve fits all points (cells,) than one a cloud: a ratio of mean squares.

    The mean is over the points less the steps (levels) of the isotonic fits. Fits that leave less than a hundredth of
    the variance count as leaving that: clouds that are monotone to the last point would make the ratio infinite. NaN
    with fewer than 5 points in a cloud.
    """
    valid = ~np.isnan(y)
    x, y, cloud = x[valid], y[valid], cloud[valid]
    if len(np.unique(cloud)) < 2 or min(np.unique(cloud, return_counts=True)[1]) < FEWEST:
        return np.nan
    apart = np.array([_decreasing_fit(x[cloud == c], y[cloud == c]) for c in np.unique(cloud)]).sum(axis=0)
    joint = _decreasing_fit(x, y)
    floor = 0.01 * float(y.var())
    left = [max(squares / max(len(y) - levels, 1), floor) for squares, levels in (joint, apart)]
    return float(left[0] / left[1]) if floor > 0 else np.nan


def _decreasing_fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the residual squares and the levels of the best decreasing step function; equal x have one value."""
    _where, index = np.unique(x, return_inverse=True)
    weights = np.bincount(index)
    means = np.bincount(index, weights=y) / weights
    fit = isotonic_regression(means, weights=weights, increasing=False).x
    return float(((y - fit[index]) ** 2).sum()), float(len(np.unique(fit)))
