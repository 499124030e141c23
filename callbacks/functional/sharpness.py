"""Other measures of sharpness on the same operator: rescaled, along batches, and by finite differences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from three_factors.callbacks.functional.estimates import t_quantile
from three_factors.callbacks.functional.inputs import of_all_ranks
from three_factors.callbacks.functional.operators import LossHessian

Scale = Literal["filter", "tensor", "adaptive"]


class RescaledHessian:
    """D H D with D = diag(scale), an operator like H.

    Its largest eigenvalue and norms are sharpness in units of the weights, which batch norm leaves no other unit:
    there L(aθ) = L(θ), so H ∝ 1/|θ|² and any H is reached by rescaling.

    Args:
        scale: "filter": the norm of each filter or output unit (first dimension; vectors as a whole), for batch norm;
            "tensor": the norm of each parameter tensor; "adaptive": |θ_i| itself (Kwon et al. 2021, ASAM), invariant
            to every node-wise rescaling; or any (q,) tensor.

    Raises:
        ValueError: a scale of another name, or of another shape than (q,).
    """

    def __init__(self, operator: LossHessian, scale: Scale | Tensor = "filter") -> None:
        self.operator = operator
        self.scale = scale if isinstance(scale, Tensor) else parameter_scale(operator, scale)
        if self.scale.shape != (operator.num_params,):  # one number would scale all rows without a word
            raise ValueError(f"scale: shape {tuple(self.scale.shape)}, not ({operator.num_params},)")
        self.num_params, self.device, self.dtype = operator.num_params, operator.device, operator.dtype

    def matvec(self, vector: Tensor) -> Tensor:
        """Returns D H D v for v (q,)."""
        return self.scale * self.operator.matvec(self.scale * vector)

    def matmat(self, vectors: Tensor) -> Tensor:
        """Returns D H D V for V (q, k)."""
        return self.scale[:, None] * self.operator.matmat(self.scale[:, None] * vectors)


def parameter_scale(operator: LossHessian, kind: Scale) -> Tensor:
    """Returns the scale of every row of H, (q,); see `RescaledHessian`."""
    if kind not in ("filter", "tensor", "adaptive"):
        raise ValueError(f"scale: {kind!r} is none of 'filter', 'tensor', 'adaptive'")
    pieces = []
    for p in operator.parameters.values():
        w = p.detach().to(operator.dtype)
        if kind == "adaptive":
            scale = w.abs()
        elif kind == "filter" and w.dim() > 1:
            scale = w.flatten(1).norm(dim=1).view(-1, *[1] * (w.dim() - 1)).expand_as(w)
        else:
            scale = w.norm().expand_as(w)
        pieces.append(scale.reshape(-1))
    return torch.cat(pieces)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means over batches with a 95 % jackknife interval ± `error`."""

    value: float
    error: float
    low: float
    high: float
    products: int
    batches: int


def batch_sharpness(operator: LossHessian) -> Ratio:
    """Returns E[g'H_B g] / E|g|², g = ∇L_B, over the operator's batches (Andreyev, Beneventano 2024); compare with
    2/eta.

    The batches should be minibatches of the run's S; together they cost one product. Those count that are
    `comparable`, under torch.distributed of all ranks.

    Raises:
        ValueError: fewer than 3 batches that count, which give no interval.
    """
    found = [(float(size), float(g @ hg), float(g @ g)) for size, g, hg in operator.gradients_and_products()]
    rows = torch.cat(of_all_ranks(torch.tensor(found, dtype=torch.float64).reshape(-1, 3)))
    operator.products += 1  # together one pass over the data
    values = rows[comparable(rows[:, 0].tolist()), 1:]
    n = len(values)
    total = values.sum(0)
    ratio = float(total[0] / total[1])  # NaN where all gradients are 0
    without = (total - values)[:, 0] / (total - values)[:, 1]
    error = t_quantile(n - 1) * math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return Ratio(ratio, error, ratio - error, ratio + error, 1, n)


def comparable(sizes: Sequence[float]) -> list[int]:
    """Returns which batches of these sizes count in batch sharpness, by their numbers.

    Of three or more of one size these alone: E|g|² grows as S shrinks, so that an epoch's ragged last batch, one among
    the others, could be most of both means. Else all that have at least half of the largest one's examples.

    Raises:
        ValueError: they are fewer than 3.
    """
    counts = Counter(sizes)
    common = max(counts, key=lambda size: (counts[size], size), default=0)
    if counts[common] >= 3:
        found = [i for i, size in enumerate(sizes) if size == common]
    else:
        found = [i for i, size in enumerate(sizes) if 2 * size >= max(sizes)]
    if len(found) < 3:
        what = f"{len(found)} of like sizes among {len(sizes)}" if len(found) < len(sizes) else f"{len(found)}"
        raise ValueError(
            f"batches: {what} are too few for batch sharpness and its interval; it takes at least 3 of one size, or of "
            "half the largest one's examples or more"
        )
    return found


@dataclass(frozen=True)
class FiniteDifference:
    """A finite-difference norm. `step` is the displacement |δ|, r = step/|θ|; `products` counts pairs of gradients."""

    value: float
    error: float
    low: float
    high: float
    products: int
    step: float
    r: float


def finite_difference_norm(
    operator: LossHessian, r: float | None = None, seed: int = 0, *, vectors: int = 16
) -> FiniteDifference:
    """Returns |H|_F as the paper measures it (after Wu et al. 2017): from gradients at θ ± δ, without second
    derivatives.

    |H|_F² = q E|(g(θ + δu) - g(θ - δu)) / 2δ|² over random unit vectors u, δ = r|θ|. r is by default 1e-3 in float32
    and 1e-6 in float64. On ReLU networks there is no limit of small steps (kinks give (ratio² - 1) ∝ 1/δ), so the
    step is part of the figure; `frobenius_norm` has no such knob.

    Raises:
        ValueError: r is not positive, fewer than 2 vectors, or θ = 0.
    """
    r = r if r is not None else (1e-6 if operator.dtype == torch.float64 else 1e-3)
    if not (math.isfinite(r) and r > 0):
        raise ValueError(f"r: {r!r} is not a positive number")
    if vectors < 2:
        raise ValueError(f"vectors: {vectors} give no interval; at least 2")
    step = r * float(operator.weights().norm())
    if step == 0:
        raise ValueError("r: a share of |θ|, and all weights are 0")
    generator = torch.Generator().manual_seed(seed)
    squares = []
    for _ in range(vectors):
        u = torch.randn(operator.num_params, generator=generator, dtype=torch.float64)
        shift = (step * u / u.norm()).to(operator.device, operator.dtype)
        difference = operator.gradient(shift) - operator.gradient(-shift)
        squares.append(float((difference.double() ** 2).sum()) / (2 * step) ** 2)
    values = operator.num_params * torch.tensor(squares, dtype=torch.float64)
    mean = float(values.mean())
    half = t_quantile(vectors - 1) * float(values.std()) / math.sqrt(vectors)
    value, low, high = (math.sqrt(max(x, 0.0)) for x in (mean, mean - half, mean + half))
    return FiniteDifference(value, (high - low) / 2, low, high, vectors, step, r)
