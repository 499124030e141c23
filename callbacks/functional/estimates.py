"""Estimates from random samples, with intervals that hold at small sample sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

CONFIDENCE = 0.95


def t_quantile(df: float, confidence: float = CONFIDENCE) -> float:
    """Returns the two-sided quantile of Student's t."""
    return float(special.stdtrit(df, 0.5 + confidence / 2))


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        value: the estimate.
        error: half the width of the interval [low, high].
        products: Hessian products (or gradients, where the function says so) computed for it.
        samples: what it is the mean of, (n,); empty where it is exact.
        converged: the error is within the tolerance asked for.
    """

    value: float
    error: float
    low: float
    high: float
    products: int
    samples: Tensor
    converged: bool = True

    @classmethod
    def of(cls, samples: Tensor, products: int) -> Estimate:
        """Returns the mean and t interval of independent samples (n,), n ≥ 2."""
        values = samples.double()
        n = len(values)
        return cls.around(
            float(values.mean()), t_quantile(n - 1) * float(values.std()) / math.sqrt(n), products, values
        )

    @classmethod
    def around(cls, value: float, error: float, products: int, samples: Tensor, converged: bool = True) -> Estimate:
        """Returns the estimate whose interval is value ± error."""
        return cls(value, error, value - error, value + error, products, samples, converged)

    @classmethod
    def exact(cls, value: float, products: int) -> Estimate:
        """Returns what was computed without sampling: its error is 0, and NaN for a value that is not finite."""
        error = 0.0 if math.isfinite(value) else math.nan
        return cls(value, error, value, value, products, torch.empty(0, dtype=torch.float64), math.isfinite(value))


def two_stage(
    sample: Callable[[int], Tensor], tolerance: Callable[[float], float], *, pilot: int, limit: int
) -> Estimate:
    """Returns a mean to a tolerance, by Stein's two-stage procedure (1945).

    A pilot of `pilot` samples fixes how many are taken in all: n = (t s / tolerance)², s being the pilot's sd and t the
    quantile for pilot - 1 degrees of freedom. Unlike stopping when the standard error happens to be small (which
    covers 83 % at nominal 95 %), the interval ± t s/√n covers 95 % of normal samples exactly.

    Args:
        sample: the next n of a fixed sequence of samples, (n,).
        tolerance: of the pilot's mean, the half-width wanted.
        limit: samples at most; at it `converged` is False.
    """
    first = sample(pilot).double()
    half = t_quantile(pilot - 1) * float(first.std())
    wanted = tolerance(float(first.mean()))
    if not math.isfinite(half):
        return Estimate.around(math.nan, math.nan, pilot, first, converged=False)
    needed = math.ceil(min((half / wanted) ** 2, 2.0**62)) if wanted > 0 else (limit if half > 0 else pilot)
    n = min(max(needed, pilot), max(limit, pilot))
    values = torch.cat([first, sample(n - pilot).double()]) if n > pilot else first
    mean, error = float(values.mean()), half / math.sqrt(n)
    return Estimate.around(mean, error, n, values, converged=needed <= n and math.isfinite(mean))
