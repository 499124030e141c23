"""Batch normalisation over the global batch on any backend, or over ghost batches of a fixed size.

torch's SyncBatchNorm refuses CPU tensors; here the statistics of all ranks come from one differentiable all_reduce
of (sum, sum of squares, count). In eval mode, and on one rank without ghost batches, this is torch's own kernel;
in eval mode it is folded into a convolution that is before it (`normalised`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks. Every rank's loss depends on the sum, so the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _world_size() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def ghosts(batch: Tensor, size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Returns a batch's groups of `size` neighbours; a remainder is shared out, so no group is smaller.

    Args:
        dim: along which the examples lie.
    """
    return batch.tensor_split(max(1, batch.shape[dim] // size), dim)


def move_running(running: Sequence[Tensor], found: Sequence[Sequence[Tensor]], weight: float) -> None:
    """Moves running statistics by `weight` towards the means of those of a batch's groups.

    Args:
        running: mean and variance, changed in place.
        found: those of every group, the variances unbiased, as torch's running variance is.
    """
    for kept, of_groups in zip(running, zip(*found, strict=True), strict=True):
        kept.lerp_(torch.stack(of_groups).mean(0).to(kept), weight)


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """See `BatchNorm2d`."""

    def __init__(self, num_features: int, ghost_batch_size: int | None = None, **options: Any) -> None:
        super().__init__(num_features, **options)
        if ghost_batch_size is not None and ghost_batch_size < 2:
            raise ValueError(f"ghost_batch_size: {ghost_batch_size} is less than 2 examples")
        self.ghost_batch_size = ghost_batch_size

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if self.ghost_batch_size is not None:
            return self._over_ghosts(input, self.ghost_batch_size)
        if _world_size() > 1:
            return self._over_ranks(input)
        return super().forward(input)

    def _over_ghosts(self, input: Tensor, size: int) -> Tensor:
        """Normalises groups of neighbours apart; see `ghosts`."""
        self._check_input_dim(input)
        # The kernel that normalises a group tells its statistics: momentum 1 puts them in the place of the zeros.
        kept = self.running_mean if self.weight is None else self.weight  # in whose type the kernel wants them
        real = torch.promote_types(input.dtype, torch.float32) if kept is None else kept.dtype
        found, normalised = [], []
        for group in ghosts(input, size):
            mean, variance = group.new_zeros((2, input.shape[1]), dtype=real)
            normalised.append(F.batch_norm(group, mean, variance, self.weight, self.bias, True, 1.0, self.eps))
            found.append((mean, variance))
        self._update(found)
        return torch.cat(normalised)

    def _over_ranks(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        dims = [d for d in range(input.dim()) if d != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        # Sums about a value that all ranks share: the squares do not cancel when the mean is far from 0. A running mean
        # that is not finite, after one bad batch, is none to be near; as in torch, it has no part in the output.
        running = self.running_mean
        origin = torch.zeros_like(input[:1].mean(dims)) if running is None else running.nan_to_num(0.0, 0.0, 0.0)
        precision = torch.promote_types(input.dtype, torch.float32)  # a count of 65 536 overflows float16
        origin = origin.to(precision)
        shifted = input.to(precision) - origin.view(shape)
        count = shifted.new_full((1,), input.numel() // input.shape[1])
        local = torch.cat([shifted.sum(dims), shifted.square().sum(dims), count])
        total = _AllReduceSum.apply(local)
        features, count = input.shape[1], total[-1].detach()
        mean = total[:features] / count
        variance = (total[features : 2 * features] / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            self._update([(mean + origin, variance * count / (count - 1))])
        output = (shifted - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    def _update(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Moves the running statistics towards the groups' means and unbiased variances."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        move_running((self.running_mean, self.running_var), statistics, weight)


class BatchNorm2d(_BatchNorm):
    """torch's BatchNorm2d over the global batch: under DDP the statistics are those of all ranks' examples.

    Args:
        ghost_batch_size: normalise groups of this many neighbouring examples instead (Hoffer et al. 2017), so that
            the noise of batch norm does not depend on S. On several ranks the groups lie within a rank: the same
            as on one if every rank's part is a multiple of it.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"input: {input.dim()} dimensions, 4 expected")


class BatchNorm1d(_BatchNorm):
    """Does what `BatchNorm2d` does, over (B, C) inputs."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2:
            raise ValueError(f"input: {input.dim()} dimensions, 2 expected")


def normalised(convolution: nn.Conv2d, norm: nn.Module, inputs: Tensor) -> Tensor:
    """Returns norm(convolution(inputs)); in eval mode, where batch norm scales and shifts channels, by one convolution.

    So no pass over the activations normalises them, forward or in derivatives: a Hessian product of VGG-11 at 1/8 of
    its width takes two thirds of the time. In float32 and float64 alone: 16 bits of weights and shifts are too few.
    """
    if not _folds(norm, convolution, inputs) or norm.running_mean is None or norm.running_var is None:
        found: Tensor = norm(convolution(inputs))
        return found
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    shift = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)
    return convolution._conv_forward(inputs, convolution.weight * scale.view(-1, 1, 1, 1), shift)


FORWARD = {nn.Conv2d: nn.Conv2d.forward, BatchNorm2d: BatchNorm2d.forward}


def _folds(norm: nn.Module, convolution: nn.Conv2d, inputs: Tensor) -> TypeGuard[BatchNorm2d]:
    """Tells whether two layers may be one: nobody waits for their calls, and what they would refuse is not there.

    Not while a graph is made of them, by torch.fx or torch.compile, which would take today's statistics for constants,
    or miss a layer that is changed later.
    """
    if type(norm) is not BatchNorm2d or type(convolution) is not nn.Conv2d or norm.training:
        return False
    if torch.compiler.is_compiling() or not isinstance(inputs, Tensor) or _has_any_global_hook():
        return False
    for layer in (convolution, norm):
        own = vars(layer)
        if any(own[name] for name in HOOKS) or "forward" in own or type(layer).forward is not FORWARD[type(layer)]:
            return False
    weight, variance = convolution.weight, norm.running_var
    alike = variance is not None and weight.dtype == variance.dtype == inputs.dtype and len(variance) == len(weight)
    exact = weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(inputs.device.type)
    return alike and exact and type(weight) in (Tensor, nn.Parameter) and inputs.dim() == 4


class Layers(nn.Sequential):
    """Layers one after another; a convolution and the batch norm behind it go through `normalised`."""

    def forward(self, input: Tensor) -> Tensor:
        layers = iter(self)
        layer = next(layers, None)
        while layer is not None:
            following = next(layers, None)
            if isinstance(layer, nn.Conv2d) and isinstance(following, BatchNorm2d):
                input, following = normalised(layer, following, input), next(layers, None)
            else:
                input = layer(input)
            layer = following
        return input
