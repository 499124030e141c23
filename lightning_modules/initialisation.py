"""How the weights of a layer start, and what a network is refused for before it has any."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import nn

Init = Literal["he", "glorot"]


def check_init(init: str) -> None:
    """Raises ValueError for a name that `initialise` does not know."""
    if init not in get_args(Init):
        raise ValueError(f"init: {init!r} is neither 'he' nor 'glorot'")


def check_width(width: float) -> None:
    """Raises ValueError for a factor of the layers' widths that is not positive: every layer would have one channel."""
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width: {width!r} is not a positive finite number")


def initialise(layer: nn.Linear | nn.Conv2d, init: Init) -> None:
    """Draws a layer's weights from torch's generator, He's normal or Glorot's uniform law; biases are 0.

    Raises ValueError for another name.
    """
    check_init(init)
    if init == "he":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
