"""Statistics: of one seed's grid of runs (correlations, exponents, crossings; NaN: no value), trends and ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special
from scipy.optimize import isotonic_regression

FEWEST = 5  # cells; a rank correlation of fewer says nothing


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation of x (cells,) and each row of y (n, cells), where that is there: (n,).

    NaN for fewer than 5 cells.
    """
    there = ~(np.isnan(x) | np.isnan(y))
    a, b = (ranks(v) for v in _where(there, x, y))
    return _correlations(a, b, there)


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> np.ndarray:
    """As `spearman`, at fixed `given` (n, cells): the correlation of the ranks' residuals."""
    there = ~(np.isnan(x) | np.isnan(y) | np.isnan(given))
    a, b, z = (_centred(ranks(v), there) for v in _where(there, x, y, given))
    squares = (z * z).sum(axis=1, keepdims=True)
    a, b = (r - z * (r * z).sum(axis=1, keepdims=True) / np.where(squares > 0, squares, 1.0) for r in (a, b))
    return _correlations(a, b, there)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 within each row of (n, cells); ties share their mean, and NaN has none.

    By comparing all pairs: for grids of a few dozen cells, of which power asks for thousands at once.
    """
    one, other = values[:, :, None], values[:, None, :]
    found = (other < one).sum(axis=2) + ((other == one).sum(axis=2) + 1) / 2
    return np.where(np.isnan(values), np.nan, found)


def _where(there: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    return [np.where(there, v, np.nan) for v in values]


def _centred(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Rows less their means over what is there; 0 elsewhere."""
    known = np.where(there, values, 0.0)
    means = known.sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
    return np.where(there, known - means, 0.0)


def _correlations(x: np.ndarray, y: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Of the rows of x and y (n, cells), (n,)."""
    x, y = _centred(x, there), _centred(y, there)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    known = (there.sum(axis=1) >= FEWEST) & (scale > 1e-12)
    return np.where(known, (x * y).sum(axis=1) / np.where(known, scale, 1.0), np.nan)


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


def t_above(value: float, df: float) -> float:
    """P(t > value), by scipy.special: `scipy.stats.t` takes fifty times as long, and power asks for many."""
    return float(special.stdtr(df, -value))


@dataclass(frozen=True)
class Ratio:
    """a/d of two normal estimates with variances v_aa, v_dd and covariance v_ad on df degrees of freedom (Fieller)."""

    a: float
    d: float
    v_aa: float
    v_ad: float
    v_dd: float
    df: float

    @property
    def value(self) -> float | None:
        return self.a / self.d if self.d else None

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The roots r of (a - r d)^2 = t^2 Var(a - r d); None, unbounded, where d does not differ from 0."""
        t2 = float(special.stdtrit(self.df, 0.5 + confidence / 2)) ** 2
        if self.d**2 <= t2 * self.v_dd:
            return None
        quadratic = [self.d**2 - t2 * self.v_dd, -2 * (self.a * self.d - t2 * self.v_ad), self.a**2 - t2 * self.v_aa]
        low, high = sorted(float(root) for root in np.roots(quadratic).real)
        return low, high

    def p_above(self, edge: float) -> float:
        """One-sided p of a/d > edge."""
        return t_above(self._t(edge), self.df)

    def p_below(self, edge: float) -> float:
        return t_above(-self._t(edge), self.df)

    def _t(self, edge: float) -> float:
        variance = max(self.v_aa - 2 * edge * self.v_ad + edge**2 * self.v_dd, 1e-24)
        return math.copysign(1, self.d) * (self.a - edge * self.d) / math.sqrt(variance)


def jonckheere(groups: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Jonckheere's trend over ordered groups: (tau, its standard deviation without a trend, exact one-sided p).

    tau in [-1, 1] is the share of pairs from two groups that rise less that which fall; ties count half. p is from the
    permutation distribution without ties, whose generating function is a Gaussian multinomial coefficient.
    """
    sizes = [len(group) for group in groups]
    rises, pairs = 0.0, 0
    for i, low in enumerate(groups):
        for high in groups[i + 1 :]:
            above, level = high[None, :] > low[:, None], high[None, :] == low[:, None]  # also of infinities
            rises += float(above.sum() + 0.5 * level.sum())
            pairs += above.size
    share = _without_trend(tuple(sizes))
    at = 2 * np.arange(len(share)) / pairs - 1
    p = float(share[math.floor(rises + 1e-9) :].sum())  # half a tie more is not counted in favour
    return 2 * rises / pairs - 1, float(np.sqrt(share @ at**2)), p


@lru_cache(maxsize=64)
def _without_trend(sizes: tuple[int, ...]) -> np.ndarray:
    """The share of all orders of groups of these sizes in which so many pairs rise, (pairs + 1,)."""
    counts = np.ones(1)
    for i, size in enumerate(sizes):
        counts = np.convolve(counts, _gaussian_binomial(sum(sizes[: i + 1]), size))
    return counts / counts.sum()


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


PLATEAU = 1.5  # the largest b at which accuracy is taken to be unbroken


def breaking_point(betas: np.ndarray, accuracy: np.ndarray, diverged: np.ndarray) -> float:
    """b*: where accuracy (b,) begins to fall; a run that `diverged` (b,) has broken, one that is missing is NaN.

    A hinge, flat at the mean of b up to 1.5 and then falling in log b, is fitted to the runs below the first that
    diverged; b* is not above the geometric middle of that one and the last before it. inf if accuracy has fallen by
    less than a point at the largest b and none diverged; -inf if the plateau diverged; NaN if it is missing.
    """
    order = np.argsort(betas)
    x, y, broken = np.log(betas[order]), accuracy[order], diverged[order]
    first = int(broken.argmax()) if broken.any() else len(x)
    there = ~np.isnan(y) & (np.arange(len(x)) < first)
    within = x <= np.log(PLATEAU) + 1e-9
    if not (there & within).any():
        return -np.inf if broken[within].any() else np.nan
    plateau, x_there, y_there = y[there & within].mean(), x[there], y[there]
    limit = np.exp((x_there[-1] + x[first]) / 2) if first < len(x) else np.inf
    corners = np.linspace(x_there[0], x_there[-1], 200, endpoint=False)
    beyond = np.maximum(x_there - corners[:, None], 0.0)
    slopes = np.minimum(0.0, beyond @ (y_there - plateau) / np.maximum((beyond * beyond).sum(axis=1), 1e-12))
    left = y_there - plateau - slopes[:, None] * beyond
    best = int((left * left).sum(axis=1).argmin())
    fell = -slopes[best] * (x_there[-1] - corners[best]) >= 0.01
    return float(min(np.exp(corners[best]), limit) if fell else limit)


def crossing(betas: np.ndarray, stability: np.ndarray, diverged: np.ndarray) -> float:
    """b at which eta·lambda_max (b,) first reaches 2, log-interpolated; a run that `diverged` (b,) is beyond it.

    NaN if it lies beyond the range of b: reached at the smallest, or never. Runs without a value are left out.
    """
    known = diverged | ~np.isnan(stability)
    betas, stability = betas[known], np.where(diverged, np.nan, stability)[known]
    order = np.argsort(betas)
    x, y = np.log(betas[order]), np.log(stability[order] / 2)
    above = np.isnan(y) | (y >= 0)
    if not above.any() or above[0]:
        return np.nan
    first = int(above.argmax())
    if np.isnan(y[first]):  # between the last that trained and the first that did not
        return float(np.exp((x[first - 1] + x[first]) / 2))
    return float(np.exp(np.interp(0, y[first - 1 : first + 1], x[first - 1 : first + 1])))


def peak(log_n: np.ndarray, accuracy: np.ndarray, diverged: np.ndarray, chance: float) -> float:
    """n at the vertex of a parabola in log n through the cells (cells,) within a factor 8 of the best mean accuracy.

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


def collapse(x: np.ndarray, y: np.ndarray, cloud: np.ndarray) -> float:
    """How much worse one decreasing curve fits all points (cells,) than one a cloud: ratio of mean squared residuals.

    The mean is over the points less the steps (levels) of the isotonic fits. Fits that leave less than a hundredth of
    the variance count as leaving that: clouds that are monotone to the last point would make the ratio infinite. NaN
    with fewer than 5 points in a cloud.
    """
    there = ~np.isnan(y)
    x, y, cloud = x[there], y[there], cloud[there]
    if len(np.unique(cloud)) < 2 or min(np.unique(cloud, return_counts=True)[1]) < FEWEST:
        return np.nan
    apart = np.array([_decreasing_fit(x[cloud == c], y[cloud == c]) for c in np.unique(cloud)]).sum(axis=0)
    joint = _decreasing_fit(x, y)
    floor = 0.01 * float(y.var())
    left = [max(squares / max(len(y) - levels, 1), floor) for squares, levels in (joint, apart)]
    return float(left[0] / left[1]) if floor > 0 else np.nan


def _decreasing_fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Residual sum of squares and number of levels of the best decreasing step function; equal x have one value."""
    _where, index = np.unique(x, return_inverse=True)
    weights = np.bincount(index)
    means = np.bincount(index, weights=y) / weights
    fit = isotonic_regression(means, weights=weights, increasing=False).x
    return float(((y - fit[index]) ** 2).sum()), float(len(np.unique(fit)))
