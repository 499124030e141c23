"""Statistics that several figures use, a number a seed: slopes over a grid's cells, one-index fits, breaks, trends.

Cells without a value are NaN and left out of their seed's fit; a seed with too few of them has no value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

FEWEST = 5  # cells of a fit
INDEX = (-1.0, 3.0)  # of g
DEGREE = 3  # of the curve through which an index acts


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the rank correlation of x (cells,) and each row of y (n, cells), over what is not NaN: (n,).

    For the reader: it mixes an effect with the noise and the range of x. NaN for fewer than 5 cells.
    """
    found = []
    for row in y:
        there = ~(np.isnan(x) | np.isnan(row))
        a, b = _ranks(x[there]), _ranks(row[there])
        varies = there.sum() >= FEWEST and np.ptp(a) > 0 and np.ptp(b) > 0
        found.append(float(np.corrcoef(a, b)[0, 1]) if varies else np.nan)
    return np.array(found)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns ranks from 1; ties share their mean."""
    one, other = values[:, None], values[None, :]
    return (other < one).sum(axis=1) + ((other == one).sum(axis=1) + 1) / 2


def coefficients(y: np.ndarray, *x: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Returns the least-squares coefficients of y (n, cells) on x, (cells,) or (n, cells) each, a seed: (n, len(x)).

    Args:
        groups: (cells,), each with an intercept of its own; one for all by default.

    NaN for a seed with fewer than 5 cells, or whose cells do not determine them.
    """
    labels = np.zeros(y.shape[1]) if groups is None else groups
    columns = [np.broadcast_to(of, y.shape) for of in x]
    found = np.full((len(y), len(x)), np.nan)
    for i, row in enumerate(y):
        own = np.stack([column[i] for column in columns], axis=1)
        there = np.isfinite(row) & np.isfinite(own).all(axis=1)
        if there.sum() < FEWEST:
            continue
        intercepts = labels[there][:, None] == np.unique(labels[there])
        design = np.concatenate([own[there], intercepts.astype(float)], axis=1)
        solution, _, rank, _ = np.linalg.lstsq(design, row[there], rcond=None)
        if rank == design.shape[1]:
            found[i] = solution[: len(x)]
    return found


def slopes(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Returns the least-squares slope of y (n, cells) on x, (cells,) or (n, cells): (n,); see `coefficients`."""
    return coefficients(y, x, groups=groups)[:, 0]


def index(log_lr: np.ndarray, log_size: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns g of y = s(log eta - g log S), s cubic, g in [-1, 3], by least squares a seed: (n,), of y (n, cells).

    A straight s would put what bends it into g. NaN for seeds with fewer cells than a cubic and g take.
    """
    return np.array([_index(log_lr, log_size, row) for row in y])


def _index(log_lr: np.ndarray, log_size: np.ndarray, y: np.ndarray) -> float:
    there = np.isfinite(y)
    if there.sum() < DEGREE + 3:
        return np.nan
    lr, size, row = log_lr[there], log_size[there], y[there]
    low, high = INDEX
    for _ in range(5):  # a grid of grids: the squares left are no convex function of g
        tried = np.linspace(low, high, 41)
        left = _squares_left(tried, lr, size, row)
        best, step = float(tried[int(left.argmin())]), float(tried[1] - tried[0])
        low, high = max(INDEX[0], best - step), min(INDEX[1], best + step)
    return best


def _squares_left(tried: np.ndarray, lr: np.ndarray, size: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the squares that the best cubic of the index leaves, for each g (k,)."""
    u = lr - tried[:, None] * size
    u = u - u.mean(axis=1, keepdims=True)
    u = u / np.maximum(np.abs(u).max(axis=1, keepdims=True), 1e-12)
    design = u[:, :, None] ** np.arange(DEGREE + 1)
    q = np.linalg.qr(design)[0]  # (k, cells, DEGREE + 1)
    explained = np.einsum("kcd,c->kd", q, y)
    return float(y @ y) - (explained**2).sum(axis=1)


def breaking_points(log_b: np.ndarray, accuracy: np.ndarray, drop: float, base: np.ndarray) -> np.ndarray:
    """Returns b*, where a decreasing isotonic fit of accuracy (n, b) lies `drop` below its mean over `base` (b,).

    Interpolated in log b; +inf where it never does, NaN where the base has no value. `base` are the values of b that
    are taken to be unbroken.
    """
    from scipy.optimize import isotonic_regression

    found = []
    for row in accuracy:
        there = ~np.isnan(row)
        if not (there & base).any() or there.sum() < 2:
            found.append(np.nan)
            continue
        x, fit = log_b[there], isotonic_regression(row[there], increasing=False).x
        wanted = float(row[there & base].mean()) - drop
        below = np.flatnonzero(fit <= wanted)
        if not len(below):
            found.append(np.inf)
        elif below[0] == 0:
            found.append(float(np.exp(x[0])))
        else:
            i = below[0]
            share = (fit[i - 1] - wanted) / (fit[i - 1] - fit[i])
            found.append(float(np.exp(x[i - 1] + share * (x[i] - x[i - 1]))))
    return np.array(found)


def page(values: np.ndarray) -> float:
    """Returns the exact one-sided p of Page's L: a rise over groups, in order, of values (n, groups); seeds are blocks.

    Infinite values are the largest, and ties share their rank; the distribution without ties makes them no surer. A
    seed with a NaN counts in its least favourable order.
    """
    from scipy.stats import page_trend_test

    worst = np.arange(values.shape[1], 0, -1.0)
    whole = np.where(np.isnan(values).any(axis=1, keepdims=True), worst, values)
    return float(page_trend_test(whole, method="exact").pvalue)


def vertices(log_n: np.ndarray, accuracy: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns the vertex of a parabola in log n, with an intercept a group, a seed: (n,), of accuracy (n, cells).

    NaN where it does not bend downwards.
    """
    fits = coefficients(accuracy, log_n, log_n**2, groups=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(fits[:, 1] < 0, -fits[:, 0] / (2 * fits[:, 1]), np.nan)


def leave_one_out(
    statistic: Callable[[np.ndarray], float], rows: np.ndarray, columns: np.ndarray
) -> tuple[float, float]:
    """Returns the range of a statistic of a mask (cells,) when each row and column of the grid is left out in turn."""
    found = np.array([statistic(label != value) for label in (rows, columns) for value in np.unique(label)])
    found = found[~np.isnan(found)]
    return (float(found.min()), float(found.max())) if len(found) else (np.nan, np.nan)


def nanmean(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Returns the mean over the first axis of what is not NaN, (n,) of (k, n); NaN, in silence, where all are."""
    array = np.asarray(values, dtype=float)
    valid = ~np.isnan(array)
    with np.errstate(invalid="ignore"):
        return np.where(valid, array, 0.0).sum(axis=0) / valid.sum(axis=0)


def mean_of(strata: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean over strata of a number a seed, (n,) of (n,) each; NaN for a seed that lacks one."""
    found: np.ndarray = np.mean(np.stack(strata), axis=0)
    return found
