"""The networks that a run may train, as data: what decides the function, without the optimiser.

The worker hands a network's fields to its `module` as they are: each must be a keyword of that class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from three_factors.reproduce.engine.contract.stored import Typed


@dataclass(frozen=True)
class VGG11Network(Typed):
    """`lightning_modules.VGG11`, without the optimiser."""

    width: float = 1.0
    batch_norm: bool = True
    ghost_batch_size: int | None = None
    dropout: float = 0.0
    in_channels: int = 3
    num_classes: int = 10
    dense_batch_norm: bool = field(default=False, metadata={"absent": False})
    init: Literal["he", "glorot"] = field(default="he", metadata={"absent": "he"})
    module = "VGG11"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"width: {self.width!r} is not a positive finite number")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout!r} is not in [0, 1)")
        _check_init(self.init)


@dataclass(frozen=True)
class ResNet56Network(Typed):
    """`lightning_modules.ResNet56`, without the optimiser."""

    depth: int = 56
    width: float = 1.0
    form: Literal["preactivation", "original"] = "preactivation"
    batch_norm: bool = True
    ghost_batch_size: int | None = None
    in_channels: int = 3
    num_classes: int = 10
    module = "ResNet56"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth: {self.depth} is not 6n + 2 with n of at least 1")
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"width: {self.width!r} is not a positive finite number")
        if self.form not in ("preactivation", "original"):
            raise ValueError(f"form: {self.form!r} is neither 'preactivation' nor 'original'")


@dataclass(frozen=True)
class MLPNetwork(Typed):
    """`lightning_modules.MLP`, without the optimiser."""

    hidden: tuple[int, ...] = (256, 256)
    batch_norm: bool = False
    ghost_batch_size: int | None = None
    init_std: float | None = None
    in_features: int = 784
    num_classes: int = 10
    init: Literal["he", "glorot"] = field(default="he", metadata={"absent": "he"})
    module = "MLP"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: {self.hidden!r} are not all positive widths")
        if self.init_std is not None and not (math.isfinite(self.init_std) and self.init_std > 0):
            raise ValueError(f"init_std: {self.init_std!r} is not a positive finite number")
        _check_init(self.init)


def _check_init(init: str) -> None:
    if init not in ("he", "glorot"):
        raise ValueError(f"init: {init!r} is neither 'he' nor 'glorot'")


Network = VGG11Network | ResNet56Network | MLPNetwork
