"""Statistics of one seed's grid of runs: correlations, exponents, crossings. NaN marks a run that has no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

FEWEST = 5  # cells; a rank correlation of fewer says nothing


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of x (cells,) and y (cells,) where both are there; NaN for fewer than 5 cells."""
    there = ~(np.isnan(x) | np.isnan(y))
    return _correlation(rankdata(x[there]), rankdata(y[there])) if there.sum() >= FEWEST else np.nan


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Rank correlation of x and y at fixed `given`, all (cells,): of the ranks' residuals."""
    there = ~(np.isnan(x) | np.isnan(y) | np.isnan(given))
    if there.sum() < FEWEST:
        return np.nan
    ranks = [rankdata(v[there]) for v in (x, y, given)]
    design = np.stack([np.ones(int(there.sum())), ranks[2]], axis=1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    return _correlation(*left)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 1e-12 else np.nan


def exponents(log_lr: np.ndarray, log_size: np.ndarray, log_norm: np.ndarray) -> tuple[float, float]:
    """(p, p g) of log norm = c - p (log eta - g log S), by least squares over the cells that are there."""
    there = ~np.isnan(log_norm)
    if there.sum() < FEWEST:
        return np.nan, np.nan
    design = np.stack([np.ones(int(there.sum())), log_lr[there], log_size[there]], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, log_norm[there], rcond=None)
    return (float(-solution[1]), float(solution[2])) if rank == 3 else (np.nan, np.nan)


def leave_one_out(
    statistic: Callable[[np.ndarray], float], rows: np.ndarray, columns: np.ndarray
) -> tuple[float, float]:
    """The range of a statistic of a mask (cells,) when each row and each column of the grid is left out in turn."""
    found = np.array([statistic(label != value) for label in (rows, columns) for value in np.unique(label)])
    found = found[~np.isnan(found)]
    return (float(found.min()), float(found.max())) if len(found) else (np.nan, np.nan)


def mean_of_those_there(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN, (n,) of (k, n); NaN where nothing is."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0.0).sum(axis=0) / there.sum(axis=0)


def jonckheere(groups: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Jonckheere's trend over ordered groups: (tau, its standard deviation without a trend, exact one-sided p).

    tau in [-1, 1] is the share of pairs from two groups that rise less that which fall; ties count half. p is from the
    permutation distribution without ties, whose generating function is a Gaussian multinomial coefficient.
    """
    sizes = [len(group) for group in groups]
    rises, pairs = 0.0, 0
    for i, low in enumerate(groups):
        for high in groups[i + 1 :]:
            difference = high[None, :] - low[:, None]
            rises += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
            pairs += difference.size
    counts = np.ones(1)
    for i, size in enumerate(sizes):
        counts = np.convolve(counts, _gaussian_binomial(sum(sizes[: i + 1]), size))
    share = counts / counts.sum()
    at = 2 * np.arange(len(share)) / pairs - 1
    p = float(share[math.floor(rises + 1e-9) :].sum())  # half a tie more is not counted in favour
    return 2 * rises / pairs - 1, float(np.sqrt(share @ at**2)), p


def _gaussian_binomial(n: int, k: int) -> np.ndarray:
    """Coefficients in q of [n choose k]: how many of the orders of n values give the last k each Mann-Whitney U."""
    counts = [[np.ones(1)] + [np.zeros(1)] * k for _ in range(n + 1)]
    for size in range(1, n + 1):
        for chosen in range(1, min(size, k) + 1):
            with_last = np.concatenate([np.zeros(size - chosen), counts[size - 1][chosen - 1]])
            without = counts[size - 1][chosen] if chosen < size else np.zeros(1)
            total = np.zeros(max(len(with_last), len(without)))
            total[: len(with_last)] += with_last
            total[: len(without)] += without
            counts[size][chosen] = total
    return counts[n][k]


def collapse(x: np.ndarray, y: np.ndarray, cloud: np.ndarray) -> float:
    """How much worse one decreasing curve fits all points (cells,) than one a cloud: ratio of mean squared residuals.

    The mean is over the points less the steps (levels) of the isotonic fits. NaN with fewer than 5 points in a cloud.
    """
    there = ~np.isnan(y)
    x, y, cloud = x[there], y[there], cloud[there]
    if len(np.unique(cloud)) < 2 or min(np.unique(cloud, return_counts=True)[1]) < FEWEST:
        return np.nan
    apart = np.array([_decreasing_fit(x[cloud == c], y[cloud == c]) for c in np.unique(cloud)]).sum(axis=0)
    joint = _decreasing_fit(x, y)
    free = [len(y) - levels for _, levels in (joint, apart)]
    if min(free) < 1 or apart[0] <= 0:
        return np.nan
    return float(joint[0] / free[0] / (apart[0] / free[1]))


def _decreasing_fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Residual sum of squares and number of levels of the best decreasing step function; equal x have one value."""
    _where, index = np.unique(x, return_inverse=True)
    weights = np.bincount(index)
    means = np.bincount(index, weights=y) / weights
    fit = isotonic_regression(means, weights=weights, increasing=False).x
    return float(((y - fit[index]) ** 2).sum()), float(len(np.unique(fit)))
