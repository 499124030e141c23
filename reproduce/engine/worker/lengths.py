"""How long the weights of networks are, and how far they have come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from three_factors.reproduce.engine.contract.steps import DISTANCE, WEIGHT_NORM


def lengths(now: Sequence[Tensor], start: Sequence[Tensor] = ()) -> list[dict[str, float]]:
    """Returns |θ| and |θ - θ0| of each of M networks, summed up in float64.

    Args:
        now: θ, in parts (M, …).
        start: θ0 likewise; without it there is no distance.
    """
    found = {WEIGHT_NORM: _norms(now)}
    if start:
        found[DISTANCE] = _norms([one - begun for one, begun in zip(now, start, strict=True)])
    return [dict(zip(found, of, strict=True)) for of in zip(*found.values(), strict=True)]


def _norms(parts: Sequence[Tensor]) -> list[float]:
    """Returns a number a network."""
    squares = [part.double().square().flatten(1).sum(1) for part in parts]
    return torch.stack(squares).sum(0).sqrt().tolist()
