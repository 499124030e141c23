"""The random numbers that a module draws: of torch, whose vmap knows them, or of numpy and Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Begins the global random numbers of torch, numpy and Python, all of which augmentation in a module may draw."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def torch_state(device: torch.device) -> list[bytes]:
    """Returns what changes when torch's numbers are drawn, on the CPU or on this device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [state.numpy().tobytes() for state in states]


def other_state() -> Any:
    """Returns what changes when numpy's or Python's are drawn."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].tobytes(), state[2:], random.getstate()
