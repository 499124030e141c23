"""Lets torch read our schedules out of a checkpoint's hyperparameters: importing this module does it.

`trainer.fit(ckpt_path=…)` and `load_from_checkpoint` read with `weights_only=True`, which refuses every class that is
not known to do nothing when it is read. Ours are plain values. `datamodules.schedules` itself imports no torch: this is
imported with `datamodules` where torch is there before it, and by every part of ours that trains.
"""

from __future__ import annotations

from dataclasses import is_dataclass

import torch

from three_factors.datamodules import schedules
from three_factors.datamodules.label_noise import LabelNoise

PLAIN = [value for value in vars(schedules).values() if isinstance(value, type) and is_dataclass(value)]
OURS = [*PLAIN, schedules.Setting, LabelNoise]


def _earlier(kind: type) -> list[str]:
    """Returns the names that a class had before: in one module with all schedules, and of packages without a prefix."""
    home = ".".join([*kind.__module__.split(".")[:3], kind.__qualname__])
    return [home, home.removeprefix("three_factors.")]


torch.serialization.add_safe_globals([*OURS, *((kind, name) for kind in OURS for name in _earlier(kind))])
