"""Whether SGD has come to its stationary state: Yaida's fluctuation-dissipation relation (2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WINDOWS = 10  # fewer windows of five relaxation times cannot be judged
Verdict = Literal["stationary", "not stationary", "too short", "no stationary state", "clipped", "undefined"]


@dataclass(frozen=True)
class Stationarity:
    """2<θ·g> / (eta (1 + beta) <|v|²>), 1 in the stationary state, with its 95 % interval.

    Attributes:
        value: the ratio; nan where it is undefined (no gradient, or values that are not finite).
        error: half the width of its interval.
        low: where that begins.
        high: where it ends.
        products: 0, it needs none.
        verdict: "stationary" only if the interval lies in [.9, 1.1]; "too short" for less than ten windows;
            "no stationary state" for scale-invariant weights without weight decay, whose norm only grows;
            "clipped": not followed, since the gradients that could be seen are not those of the step;
            "undefined": values that are not finite, or steps without any gradient.
        relaxation: steps, the longer integrated autocorrelation time of the two series.
        drift: change of |θ|² over the series as a share of its mean. For plain SGD this is all the relation says.
    """

    value: float
    error: float
    low: float
    high: float
    products: int
    verdict: Verdict
    relaxation: float
    drift: float


def stationarity(
    dissipation: Tensor,
    fluctuation: Tensor,
    *,
    square_norm: Tensor | None = None,
    scale_invariant: bool = False,
    seed: int = 0,
) -> Stationarity:
    """Judges a stretch of training at constant eta and S.

    Args:
        dissipation: 2 θ·g of every step (T,), θ before it, g with weight decay.
        fluctuation: eta (1 + beta) |v|² of every step (T,), v the momentum buffer after it (g if beta = 0).
        square_norm: |θ|² of every step, for the drift.
        scale_invariant: the loss does not depend on the group's norm, and there is no weight decay.

    The interval is a block bootstrap's over windows of at least five relaxation times.
    """
    a, b = dissipation.double(), fluctuation.double()
    if a.shape != b.shape or a.dim() != 1:
        raise ValueError(f"dissipation, fluctuation: shapes {tuple(a.shape)} and {tuple(b.shape)}; two equal series")
    drift = math.nan
    if square_norm is not None and len(square_norm) > 1:
        drift = float((square_norm[-1] - square_norm[0]) / square_norm.double().mean())
    ratio = float(a.mean() / b.mean()) if len(a) and float(b.mean()) else math.nan
    if scale_invariant:
        return Stationarity(ratio, math.inf, -math.inf, math.inf, 0, "no stationary state", math.nan, drift)
    relaxation = max(autocorrelation_time(a), autocorrelation_time(b))
    length = math.ceil(5 * relaxation)
    windows = len(a) // length if length else 0
    if windows < WINDOWS:
        return Stationarity(ratio, math.inf, -math.inf, math.inf, 0, "too short", relaxation, drift)
    means = torch.stack([s[: windows * length].view(windows, length).mean(1) for s in (a, b)], 1)
    draws = torch.randint(0, windows, (2000, windows), generator=torch.Generator().manual_seed(seed))
    sums = means[draws].sum(1)
    ratios = sums[:, 0] / sums[:, 1]
    low, high = (float(x) for x in torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64)))
    inside = low >= 0.9 and high <= 1.1
    verdict: Verdict = "stationary" if inside else "not stationary"
    if not (math.isfinite(low) and math.isfinite(high)):
        verdict = "undefined"
    return Stationarity(ratio, (high - low) / 2, low, high, 0, verdict, relaxation, drift)


def autocorrelation_time(series: Tensor) -> float:
    """Returns the integrated autocorrelation time in steps, at least 1, with Sokal's window (five times itself)."""
    x = series.double() - series.double().mean()
    n = len(x)
    if n < 2 or float(x.abs().max()) == 0:
        return 1.0
    spectrum = torch.fft.rfft(x, 2 * n)
    covariance = torch.fft.irfft(spectrum * spectrum.conj(), 2 * n)[:n]
    times = 2 * torch.cumsum(covariance / covariance[0], 0) - 1
    inside = torch.arange(n) >= 5 * times
    return max(1.0, float(times[int(inside.nonzero()[0])] if bool(inside.any()) else times[-1]))
