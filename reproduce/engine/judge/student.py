"""Student's t of a mean and of a ratio of means, by scipy.special."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LEAST = 1e-12  # standard error


def _special() -> Any:
    """Returns scipy.special, which takes a fifth of a second: a script says its first line before it needs it."""
    from scipy import special

    return special


def quantile(confidence: float, df: float) -> float:
    """Returns by how many standard errors a two-sided interval reaches to either side."""
    return float(_special().stdtrit(df, 0.5 + confidence / 2))


def tail(distance: float, error: float, df: float) -> float:
    """Returns P(t > distance/error), by scipy.special: `scipy.stats.t` takes fifty times as long."""
    if math.isinf(error) or math.isnan(distance):
        return 1.0
    return float(_special().stdtr(df, -distance / error))


def tail_of_mean(values: np.ndarray) -> float:
    """Returns the one-sided p of numbers (n,) having a positive mean."""
    error = max(float(values.std(ddof=1)) / math.sqrt(len(values)), LEAST)
    return tail(float(values.mean()), error, len(values) - 1)


def fieller(pairs: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Returns the ratios of means of pairs (n, 2) that are not rejected; None if they are unbounded."""
    n, (a, d) = len(pairs), pairs.mean(axis=0)
    covariance = np.cov(pairs.T) / n
    t2 = quantile(confidence, n - 1) ** 2
    if d * d <= t2 * covariance[1, 1]:
        return None
    middle = a * d - t2 * covariance[0, 1]
    leading, last = d * d - t2 * covariance[1, 1], a * a - t2 * covariance[0, 0]
    half = math.sqrt(max(middle * middle - leading * last, 0.0))
    return float((middle - half) / leading), float((middle + half) / leading)
