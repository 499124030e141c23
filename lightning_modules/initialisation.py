"""How the weights of a layer start."""

from __future__ import annotations

from typing import Literal

from torch import nn

Init = Literal["he", "glorot"]


def initialise(layer: nn.Linear | nn.Conv2d, init: Init) -> None:
    """Draws a layer's weights from torch's generator, He's normal or Glorot's uniform law; biases are 0.

    Raises ValueError for another name.
    """
    if init == "he":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    elif init == "glorot":
        nn.init.xavier_uniform_(layer.weight)
    else:
        raise ValueError(f"init: {init!r} is neither 'he' nor 'glorot'")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
