"""Wrong labels for a fraction of the training set (Arpit et al. 2017; the paper's Figures 5, 14 and 15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from three_factors.datamodules.schedules.values import plain
from three_factors.datamodules.streams import generator


@dataclass(frozen=True)
class LabelNoise:
    """Replaces the labels of round(fraction x N) examples, chosen at random without repeats.

    Attributes:
        fraction: of the examples, in [0, 1].
        kind: "uniform" draws the new label from all classes, so that one in `classes` stays right (the paper's "random
            labels"); "other" always draws another class.
    """

    fraction: float
    kind: Literal["uniform", "other"] = "uniform"

    def __post_init__(self) -> None:
        fraction = plain(self.fraction)
        if fraction is None or not 0 <= fraction <= 1:
            raise ValueError(f"fraction: {self.fraction!r} is not in [0, 1]")
        object.__setattr__(self, "fraction", fraction)
        if self.kind not in ("uniform", "other"):
            raise ValueError(f"kind: {self.kind!r} is neither 'uniform' nor 'other'")

    def __call__(self, labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
        """Returns new labels, int64 (N,), for true ones (N,) in [0, classes). The same at equal seed and N."""
        random = generator(seed, "labels")
        chosen = random.permutation(len(labels))[: round(self.fraction * len(labels))]
        noisy = np.array(labels, dtype=np.int64)
        if self.kind == "uniform":
            noisy[chosen] = random.integers(classes, size=len(chosen))
        else:
            noisy[chosen] = (noisy[chosen] + random.integers(1, classes, size=len(chosen))) % classes
        return noisy
