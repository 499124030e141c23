"""Separate random streams: each number is a function of (seed, stream, counters), never of what was drawn before.

So weights, data order, augmentation and measurements cannot disturb one another, every rank draws alike, and a
resumed run needs no saved generator state.
"""

from __future__ import annotations

import zlib

import numpy as np

STREAMS = ("weights", "split", "order", "augmentation", "dropout", "labels", "measurement", "drawing", "gradient noise")


def generator(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """Returns the generator of `stream` at `counters` (an epoch, a step, a rank …). ValueError for a negative seed."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, stream, counters)))


def integer_seed(seed: int, stream: str, *counters: int) -> int:
    """Returns a seed below 2^63 for generators that take an integer (torch.manual_seed)."""
    return int(_sequence(seed, stream, counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(seed: int, stream: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    if stream not in STREAMS:
        raise ValueError(f"stream: {stream!r} is not one of {', '.join(STREAMS)}")
    if seed < 0:
        raise ValueError(f"seed: {seed!r} is negative")
    return np.random.SeedSequence((seed, zlib.crc32(stream.encode()), *counters))
