"""Statistics that several figures use: correlations and exponents of a grid (NaN: no value), trends and ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

FEWEST = 5  # cells; a rank correlation of fewer says nothing


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the rank correlation of x (cells,) and each row of y (n, cells), over what is not NaN: (n,).

    NaN for fewer than 5 cells.
    """
    valid = ~(np.isnan(x) | np.isnan(y))
    a, b = (ranks(v) for v in _where(valid, x, y))
    return _correlations(a, b, valid)


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Returns the same at fixed `given` (n, cells): the correlation of the ranks' residuals."""
    valid = ~(np.isnan(x) | np.isnan(y) | np.isnan(given))
    a, b, z = (_centred(ranks(v), valid) for v in _where(valid, x, y, given))
    squares = (z * z).sum(axis=1, keepdims=True)
    a, b = (r - z * (r * z).sum(axis=1, keepdims=True) / np.where(squares > 0, squares, 1.0) for r in (a, b))
    return _correlations(a, b, valid)


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns ranks from 1 within each row of (n, cells); ties share their mean, and NaN has none.

    By comparing all pairs: for grids of a few dozen cells, of which power asks for thousands at once.
    """
    one, other = values[:, :, None], values[:, None, :]
    found = (other < one).sum(axis=2) + ((other == one).sum(axis=2) + 1) / 2
    return np.where(np.isnan(values), np.nan, found)


def _where(valid: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    return [np.where(valid, v, np.nan) for v in values]


def _centred(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns rows less their means over what is valid; 0 elsewhere."""
    known = np.where(valid, values, 0.0)
    means = known.sum(axis=1, keepdims=True) / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return np.where(valid, known - means, 0.0)


def _correlations(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Correlates the rows of x and y (n, cells), (n,)."""
    x, y = _centred(x, valid), _centred(y, valid)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    known = (valid.sum(axis=1) >= FEWEST) & (scale > 1e-12)
    return np.where(known, (x * y).sum(axis=1) / np.where(known, scale, 1.0), np.nan)


def exponents(log_lr: np.ndarray, log_size: np.ndarray, log_norm: np.ndarray) -> tuple[float, float]:
    """Fits (p, p g) of log norm = c - p (log eta - g log S), by least squares over the valid cells."""
    valid = ~np.isnan(log_norm)
    if valid.sum() < FEWEST:
        return np.nan, np.nan
    design = np.stack([np.ones(int(valid.sum())), log_lr[valid], log_size[valid]], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, log_norm[valid], rcond=None)
    return (float(-solution[1]), float(solution[2])) if rank == 3 else (np.nan, np.nan)


def leave_one_out(
    statistic: Callable[[np.ndarray], float], rows: np.ndarray, columns: np.ndarray
) -> tuple[float, float]:
    """Returns the range of a statistic of a mask (cells,) when each row and column of the grid is left out in turn."""
    found = np.array([statistic(label != value) for label in (rows, columns) for value in np.unique(label)])
    found = found[~np.isnan(found)]
    return (float(found.min()), float(found.max())) if len(found) else (np.nan, np.nan)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the first axis of what is not NaN, (n,) of (k, n); NaN, in silence, where all are."""
    valid = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(valid, values, 0.0).sum(axis=0) / valid.sum(axis=0)


def t_above(value: float, df: float) -> float:
    """Returns P(t > value), by scipy.special: `scipy.stats.t` takes fifty times as long, and power asks for many."""
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
        """Returns the roots r of (a - r d)^2 = t^2 Var(a - r d); None, unbounded, where d does not differ from 0."""
        t2 = float(special.stdtrit(self.df, 0.5 + confidence / 2)) ** 2
        if self.d**2 <= t2 * self.v_dd:
            return None
        quadratic = [self.d**2 - t2 * self.v_dd, -2 * (self.a * self.d - t2 * self.v_ad), self.a**2 - t2 * self.v_aa]
        low, high = sorted(float(root) for root in np.roots(quadratic).real)
        return low, high

    def p_above(self, edge: float) -> float:
        """Returns the one-sided p of a/d > edge."""
        return t_above(self._t(edge), self.df)

    def p_below(self, edge: float) -> float:
        """Returns the one-sided p of a/d < edge."""
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
    """Returns the share of all orders of groups of these sizes in which so many pairs rise, (pairs + 1,)."""
    counts = np.ones(1)
    for i, size in enumerate(sizes):
        counts = np.convolve(counts, _gaussian_binomial(sum(sizes[: i + 1]), size))
    return counts / counts.sum()


def _gaussian_binomial(n: int, k: int) -> np.ndarray:
    """Returns the coefficients in q of [n choose k]: orders of n values that give the last k each U of Mann-Whitney."""
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
