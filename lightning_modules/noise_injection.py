"""Changes of the noise of SGD's gradient that leave its mean as it is: the noise dial.

Each scales the gradient noise of a batch of B examples, of covariance C/B, to (1 + factor^2) C/B, or adds noise of the
same trace. In train mode batch norm couples examples: exact then only if halves, or blocks, are ghost batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class HalfBatch:
    """The gradients g1 and g2 of the two halves of a batch, combined to (g1 + g2)/2 + factor (g1 - g2)/2.

    factor 0 is SGD. With factor^2 = 2l - 1, eta/l and batches of 2S it is SVAG, whose trajectory keeps its law as l
    grows (Li, Malladi, Arora 2021, eq. 9).
    """

    factor: float

    def weights(self, total: int, step: int) -> Tensor:
        """Returns what the losses of the global batch are multiplied by, float64 (total,).

        ValueError for an odd batch.
        """
        return 1 + self.factor * _halves(total)


@dataclass(frozen=True)
class GaussianOfItsShape:
    """Gaussian noise of covariance factor^2 C/B: the blocks' gradients times independent normal numbers.

    The numbers have their mean taken out, so that only the deviations from the batch's own gradient count, and are
    scaled up by m/(m - 1) for it, of m blocks: in expectation over batches that is exact.

    Args:
        seeds: step -> the seed of its numbers; all ranks draw alike.
        block: examples that share a number: 1, or the ghost batch size.
    """

    factor: float
    seeds: Callable[[int], int]
    block: int = 1

    def weights(self, total: int, step: int) -> Tensor:
        """Returns what `HalfBatch.weights` does. Raises ValueError if the batch is not at least two whole blocks."""
        blocks = total // self.block
        if blocks < 2 or total % self.block:
            raise ValueError(f"batch_size: {total} is not two or more whole blocks of {self.block}")
        numbers = _normal(self.seeds(step), blocks)
        deviations = (numbers - numbers.mean()) * math.sqrt(blocks / (blocks - 1))
        return 1 + self.factor * deviations.repeat_interleave(self.block)


@dataclass
class Renewed:
    """Holds what a noise's shape takes from the Hessian. Training changes it: whoever has it measured sets it anew.

    Attributes:
        directions: orthonormal columns (q, k), in the order of the trained parameters: the largest eigenvectors.
        lift: q tr(HC)/(tr H tr C), how much more curvature the gradients' noise meets than isotropic noise does.
    """

    directions: Tensor | None = None
    lift: float | None = None


@dataclass(frozen=True)
class FromDifference(ABC):
    """Noise that is made of (g1 - g2)/2, of covariance C/B, and added to the gradient of the batch."""

    factor: float

    def weights(self, total: int, step: int) -> Tensor:
        """Returns ones, float64 (total,): the losses stay as they are, and the noise is added afterwards."""
        return torch.ones(total, dtype=torch.float64)

    def difference(self, total: int) -> Tensor:
        """Returns weights of the losses whose gradient is (g1 - g2)/2, (total,). Raises ValueError for an odd batch."""
        return _halves(total)

    @abstractmethod
    def made(self, parameters: list[Tensor], difference: Tensor, step: int) -> list[Tensor]:
        """Returns what is added to each parameter's gradient, of (g1 - g2)/2 (q,)."""

    def add(self, parameters: list[Tensor], difference: Tensor, step: int) -> None:
        """Adds the noise of a step to the gradients."""
        for parameter, part in zip(parameters, self.made(parameters, difference, step)):
            assert parameter.grad is not None
            parameter.grad.add_(part)


@dataclass(frozen=True)
class Isotropic(FromDifference):
    """Noise of the same size in all directions: as long as factor (g1 - g2)/2, in a random direction.

    Its expected squared length is factor^2 tr(C)/B, that of the noise which `HalfBatch` adds.

    Args:
        seeds: as for `GaussianOfItsShape`.
        renewed: with it the squared length is `lift` times as much: then tr(H cov) is that of the other noise, and the
            trace is not.
    """

    seeds: Callable[[int], int]
    renewed: Renewed | None = None

    def made(self, parameters: list[Tensor], difference: Tensor, step: int) -> list[Tensor]:
        """Raises ValueError where no isotropic noise meets as much curvature: the lift is not positive."""
        generator = torch.Generator(parameters[0].device).manual_seed(self.seeds(step))
        direction = [torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype) for p in parameters]
        norm = torch.stack([d.double().square().sum() for d in direction]).sum().sqrt()
        length = self.factor * difference.double().norm() / norm
        if self.renewed is not None:
            lift = self.renewed.lift
            if lift is None or not lift > 0:
                raise ValueError(f"noise: a lift of {lift} is not positive, and no isotropic noise has it")
            length *= math.sqrt(lift)
        return [part * length.to(part.dtype) for part in direction]


@dataclass(frozen=True)
class Projected(FromDifference):
    """The part of factor (g1 - g2)/2 in the span of the renewed directions ("top"), or what is left of it ("rest").

    Not rescaled: the two parts' covariances add up to factor^2 C/B, but for the blocks between the two.
    """

    part: Literal["top", "rest"]
    renewed: Renewed

    def made(self, parameters: list[Tensor], difference: Tensor, step: int) -> list[Tensor]:
        directions = self.renewed.directions
        if directions is None:
            raise ValueError("noise: the directions are not known yet")
        inside = directions @ (directions.T @ difference.to(directions.dtype))
        kept = self.factor * (inside if self.part == "top" else difference.to(directions.dtype) - inside)
        pieces = kept.split([p.numel() for p in parameters])
        return [piece.view(p.shape).to(p.dtype) for piece, p in zip(pieces, parameters)]


GradientNoise = HalfBatch | GaussianOfItsShape | FromDifference


def _halves(total: int) -> Tensor:
    if total % 2:
        raise ValueError(f"batch_size: {total} is odd, and the noise dial needs two halves")
    return torch.cat([torch.ones(total // 2), -torch.ones(total // 2)]).double()


def _normal(seed: int, count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
