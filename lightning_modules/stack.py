"""MLPs of one shape as a stack: one batched product does the work of every member.

A member's numbers are those of its own network: nothing is shared but the shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

from three_factors.lightning_modules.mlp import MLPNet
from three_factors.lightning_modules.normalization import BatchNorm1d, ghosts, move_running


class _Affine(Function):
    """x W' + b of (M, B, in), (M, out, in) and (M, out): (M, B, out).

    torch's own derivative in W is written in columns where W is written in rows, and whatever is done with both, an
    SGD step or a product with a vector, jumps through memory. Here derivatives of every order have W's order.
    """

    of_every_order = True  # what autograd makes of `backward` is right: it is made of the inputs alone

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        of_inputs, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs if of_weight else None, weight if of_inputs else None)
        return _affine(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        return (
            torch.bmm(slopes, weight) if of_inputs else None,
            _outer(slopes, inputs) if of_weight else None,
            slopes.sum(1) if of_bias else None,
        )


class _Outer(Function):
    """g' x of (M, B, out) and (M, B, in): (M, out, in); no derivative of it is written transposed either."""

    of_every_order = True

    @staticmethod
    def forward(ctx: Any, slopes: Tensor, inputs: Tensor) -> Tensor:
        of_slopes, of_inputs = ctx.needs_input_grad
        ctx.save_for_backward(slopes if of_inputs else None, inputs if of_slopes else None)
        return torch.bmm(slopes.transpose(1, 2), inputs)

    @staticmethod
    def backward(ctx: Any, changes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        slopes, inputs = ctx.saved_tensors
        of_slopes, of_inputs = ctx.needs_input_grad
        return (
            torch.bmm(inputs, changes.transpose(1, 2)) if of_slopes else None,
            torch.bmm(slopes, changes) if of_inputs else None,
        )


def _affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2))


def _outer(slopes: Tensor, inputs: Tensor) -> Tensor:
    if _plain():
        return torch.bmm(slopes.transpose(1, 2), inputs)
    found: Tensor = _Outer.apply(slopes, inputs)
    return found


def _plain() -> bool:
    """Tells whether torch's own derivatives are wanted: of torch.func, of batched gradients, or in forward mode."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class StackedLinear(nn.Module):
    """M linear layers: (M, B, in) to (M, B, out). Its tensors are those of `nn.Linear`, a member a row."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, inputs: Tensor) -> Tensor:
        if _plain() or torch.is_autocast_enabled(inputs.device.type):
            return _affine(inputs, self.weight, self.bias)
        found: Tensor = _Affine.apply(inputs, self.weight, self.bias)
        return found


class StackedBatchNorm(nn.Module):
    """M batch norms over (M, B, C), each over its own member's batch, or over ghost batches as `BatchNorm1d` has them.

    In plain arithmetic, which has derivatives of every order and needs no kernel for a batch of batches.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: Sequence[BatchNorm1d]) -> None:
        super().__init__()
        first = layers[0]
        if first.momentum is None or first.running_mean is None:
            raise ValueError("momentum: batch norm with cumulative or without running statistics is not stacked")
        for name in ("eps", "momentum", "ghost_batch_size"):
            values = [getattr(layer, name) for layer in layers]
            other = next((value for value in values if value != values[0]), values[0])
            if other != values[0]:
                raise ValueError(f"members: {name} {values[0]!r} and {other!r} in one stack")
        self.eps, self.momentum, self.ghost_batch_size = first.eps, first.momentum, first.ghost_batch_size
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(layer, name).detach() for layer in layers]))

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return self._scaled(inputs, self.running_mean.unsqueeze(1), self.running_var.unsqueeze(1))
        size = self.ghost_batch_size
        parts = (inputs,) if size is None else ghosts(inputs, size, 1)
        statistics = [torch.var_mean(part, 1, correction=0, keepdim=True) for part in parts]
        with torch.no_grad():
            counts = [part.shape[1] for part in parts]
            found = [(mean.squeeze(1), _unbiased(var.squeeze(1), n)) for (var, mean), n in zip(statistics, counts)]
            move_running((self.running_mean, self.running_var), found, self.momentum)
            self.num_batches_tracked.add_(1)
        normalised = [self._scaled(part, mean, variance) for part, (variance, mean) in zip(parts, statistics)]
        return normalised[0] if len(parts) == 1 else torch.cat(normalised, 1)

    def _scaled(self, inputs: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        # One pass over the batch, as torch's own kernel makes: what is done to numbers a channel costs nothing.
        scale = self.weight.unsqueeze(1) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.unsqueeze(1) - mean * scale, inputs, scale)


def _unbiased(variance: Tensor, count: int) -> Tensor:
    return variance * (count / (count - 1))


class StackedMLP(nn.Module):
    """M networks of one shape; the names of its tensors are those of `MLPNet`, and a member is a row of each.

    Args:
        members: the networks, whose weights and running statistics are copied.

    Raises:
        ValueError: no member, members of different shapes, or whose batch norms differ in eps, momentum or
            ghost_batch_size.
    """

    def __init__(self, members: Sequence[MLPNet]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members: none")
        shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in members]
        if any(of != shapes[0] for of in shapes):
            raise ValueError("members: networks of different shapes")
        layers: list[nn.Module] = []
        for column in zip(*(one.layers for one in members), strict=True):
            own: Any = column
            if isinstance(column[0], nn.Linear):
                layers.append(StackedLinear(own))
            elif isinstance(column[0], BatchNorm1d):
                layers.append(StackedBatchNorm(own))
            else:
                layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)

    @property
    def members(self) -> int:
        """Returns M."""
        return len(next(self.parameters()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits (M, B, classes) of examples (M, B, …), or of the same (1, B, …) for all."""
        inputs = inputs.flatten(2)
        return self.layers(inputs.expand(self.members, -1, -1))

    def member(self, index: int) -> dict[str, Tensor]:
        """Returns a copy of a member's state dictionary, as `MLPNet` has it."""
        return {name: value[index].detach().clone() for name, value in self.state_dict().items()}

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves these members, in this order."""
        chosen = list(indices)
        for part in self.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(value.detach()[chosen].clone()))
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, buffer[chosen].clone())


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Returns a member's numbers a row, (M, q), of tensors (M, …)."""
    return torch.cat([part.reshape(len(part), -1) for part in tensors], 1)


class StackedSGD:
    """SGD in which eta, momentum and weight decay are each a number a member; as torch's `SGD` does it.

    Args:
        parameters: (M, …) each, whose velocities are there from the start: a CUDA graph needs to know their place.
        momentum, weight_decay: (M,), of the dtype of the parameters.
    """

    def __init__(self, parameters: Iterable[Tensor], momentum: Tensor, weight_decay: Tensor) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        # Asked once: a GPU would be waited for.
        self._decays, self._remembers = bool(weight_decay.any()), bool(momentum.any())
        # torch's first step takes the gradient itself, as one does that has a velocity of 0.
        self.velocity = [torch.zeros_like(p.detach()) for p in parameters] if self._remembers else []

    def step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        """Moves the parameters, (M, …) each, by lr (M,)."""
        with torch.no_grad():
            found = list(gradients)
            if self._decays:
                found = [torch.addcmul(g, p, _beside(self.weight_decay, p)) for p, g in zip(parameters, found)]
            if self._remembers:
                for v, g in zip(self.velocity, found, strict=True):
                    v.mul_(_beside(self.momentum, v)).add_(g)
                found = self.velocity
            for p, step in zip(parameters, found):
                p.addcmul_(step, _beside(lr, p), value=-1)

    def keep(self, indices: Sequence[int]) -> None:
        """Leaves these members, in this order."""
        chosen = list(indices)
        self.momentum, self.weight_decay = self.momentum[chosen], self.weight_decay[chosen]
        self.velocity = [v[chosen].clone() for v in self.velocity]


def _beside(values: Tensor, of: Tensor) -> Tensor:
    """Returns (M,) as (M, 1, …), to be multiplied with a tensor (M, …)."""
    return values.view(-1, *(1,) * (of.dim() - 1))
