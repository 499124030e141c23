"""Functions whose second derivatives torch lacks, or has wrong, as others that are equal and have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return _written(input, ((input + 3) / 6).clamp(0, 1), inplace)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Returns g v/|v|: the second derivatives of torch 2.14's own are not symmetric, and not those of finite
    differences.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _written(input: Tensor, value: Tensor, inplace: bool) -> Tensor:
    return input.copy_(value) if inplace else value


EQUIVALENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid: _hardsigmoid,
    torch._weight_norm: _weight_norm,
}


class Equivalents(TorchFunctionMode):
    """Replaces these functions by their equals within it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return EQUIVALENTS.get(func, func)(*args, **(kwargs or {}))
