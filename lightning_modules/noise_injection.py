"""Changes of the noise of SGD's gradient that leave its mean as it is: the noise dial.

Each scales the gradient noise of a batch of B examples, of covariance C/B, to (1 + factor^2) C/B, or adds noise of the
same trace. In train mode batch norm couples examples: exact then only if halves, or blocks, are ghost batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Isotropic:
    """Noise of the same size in all directions: as long as factor (g1 - g2)/2, in a random direction.

    Its expected squared length is factor^2 tr(C)/B, that of the noise which `HalfBatch` adds.
    """

    factor: float
    seeds: Callable[[int], int]

    def weights(self, total: int, step: int) -> Tensor:
        return torch.ones(total, dtype=torch.float64)

    def difference(self, total: int) -> Tensor:
        """Weights of the losses whose gradient is (g1 - g2)/2, (total,). Raises ValueError for an odd batch."""
        return _halves(total)

    def add(self, parameters: list[Tensor], length: Tensor, step: int) -> None:
        """Adds a vector of this length, (), to the gradients."""
        generator = torch.Generator(parameters[0].device).manual_seed(self.seeds(step))
        direction = [torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype) for p in parameters]
        norm = torch.stack([d.double().square().sum() for d in direction]).sum().sqrt()
        for parameter, part in zip(parameters, direction):
            assert parameter.grad is not None
            parameter.grad.add_(part * (self.factor * length / norm).to(part.dtype))


GradientNoise = HalfBatch | GaussianOfItsShape | Isotropic


def _halves(total: int) -> Tensor:
    if total % 2:
        raise ValueError(f"batch_size: {total} is odd, and the noise dial needs two halves")
    return torch.cat([torch.ones(total // 2), -torch.ones(total // 2)]).double()


def _normal(seed: int, count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
