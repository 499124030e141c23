"""Where accuracy breaks, where training reaches the edge of stability, where accuracy peaks: Figures 6, 7 and 8."""

from __future__ import annotations

import numpy as np

EDGE = 1.8  # of eta times batch sharpness: full-batch descent is unstable above 2
PLATEAU = 1.5  # the largest b at which accuracy is taken to be unbroken


def breaking_point(betas: np.ndarray, accuracy: np.ndarray, diverged: np.ndarray) -> float:
    """Returns b*, where accuracy (b,) begins to fall; a run that `diverged` (b,) has broken, a missing one is NaN.

    A hinge, flat at the mean of b up to 1.5 and then falling in log b, is fitted to the runs below the first that
    diverged; b* is not above the geometric middle of that one and the last before it. inf if accuracy has fallen by
    less than a point at the largest b and none diverged; -inf if the plateau diverged; NaN if it is missing.
    """
    order = np.argsort(betas)
    x, y, broken = np.log(betas[order]), accuracy[order], diverged[order]
    first = int(broken.argmax()) if broken.any() else len(x)
    valid = ~np.isnan(y) & (np.arange(len(x)) < first)
    within = x <= np.log(PLATEAU) + 1e-9
    if not (valid & within).any():
        return -np.inf if broken[within].any() else np.nan
    plateau, x_valid, y_valid = y[valid & within].mean(), x[valid], y[valid]
    limit = np.exp((x_valid[-1] + x[first]) / 2) if first < len(x) else np.inf
    corners = np.linspace(x_valid[0], x_valid[-1], 200, endpoint=False)
    beyond = np.maximum(x_valid - corners[:, None], 0.0)
    slopes = np.minimum(0.0, beyond @ (y_valid - plateau) / np.maximum((beyond * beyond).sum(axis=1), 1e-12))
    left = y_valid - plateau - slopes[:, None] * beyond
    best = int((left * left).sum(axis=1).argmin())
    fell = -slopes[best] * (x_valid[-1] - corners[best]) >= 0.01
    return float(min(np.exp(corners[best]), limit) if fell else limit)


def crossing(betas: np.ndarray, stability: np.ndarray, diverged: np.ndarray) -> float:
    """Returns the b at which `stability` (b,) first reaches the edge, log-interpolated; what `diverged` is beyond.

    NaN if it lies beyond the range of b: reached at the smallest, or never. Runs without a value are left out.
    """
    known = diverged | ~np.isnan(stability)
    betas, stability = betas[known], np.where(diverged, np.nan, stability)[known]
    order = np.argsort(betas)
    x, y = np.log(betas[order]), np.log(stability[order] / EDGE)
    above = np.isnan(y) | (y >= 0)
    if not above.any() or above[0]:
        return np.nan
    first = int(above.argmax())
    if np.isnan(y[first]):  # between the last that trained and the first that did not
        return float(np.exp((x[first - 1] + x[first]) / 2))
    return float(np.exp(np.interp(0, y[first - 1 : first + 1], x[first - 1 : first + 1])))


def peak(log_n: np.ndarray, accuracy: np.ndarray, diverged: np.ndarray, chance: float) -> float:
    """Returns n at the vertex of a parabola in log n through the cells (cells,) within a factor 8 of the best.

    A run that `diverged` (cells,) counts with `chance` where the best n is looked for, and is left out of the parabola.
    -inf or inf if the best n is the lowest or highest: the peak lies there or beyond. NaN if nothing bends.
    """
    known = np.where(diverged, chance, accuracy)
    levels = np.unique(log_n[~np.isnan(known)])
    if len(levels) < 3:
        return np.nan
    means = np.array([np.nanmean(known[log_n == level]) for level in levels])
    best = int(means.argmax())
    if best in (0, len(levels) - 1):
        return -np.inf if best == 0 else np.inf
    near = (np.abs(log_n - levels[best]) <= np.log(8) + 1e-9) & ~diverged & ~np.isnan(accuracy)
    if len(np.unique(log_n[near])) < 3:
        return np.nan
    a, b, _ = np.polyfit(log_n[near], accuracy[near], 2)
    if a >= 0:
        return np.nan
    vertex = -b / (2 * a)
    return float(np.exp(vertex)) if levels[0] < vertex < levels[-1] else float(np.copysign(np.inf, vertex - levels[0]))
