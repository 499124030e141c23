"""What the runs of a figure came to: one row a run, and the curves of each arm over its seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Table:
    """Results of a figure.

    Attributes:
        frame: a row a run: label, seed, status, and the last value of every metric.
        rows: (label, seed) -> a row an epoch, indexed by epoch; only runs that did not diverge.
        steps: (label, seed) -> a row a step: epoch, loss, lr, batch_size.
    """

    frame: pd.DataFrame
    rows: dict[tuple[str, int], pd.DataFrame]
    steps: dict[tuple[str, int], pd.DataFrame] = field(default_factory=dict)

    def values(self, label: str, metric: str) -> np.ndarray:
        """The end value of a metric, float (seeds,), of the runs that trained."""
        ok = self.frame[(self.frame["label"] == label) & (self.frame["status"] == "ok")]
        return ok[metric].to_numpy(dtype=float)

    def seeds(self, label: str) -> list[int]:
        return sorted(seed for name, seed in self.rows if name == label)

    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epochs (P,), t_eta (P,) and values (seeds, P) of a metric where it was measured; all seeds by default."""
        chosen = self.seeds(label) if seeds is None else seeds
        frames = [self.rows[label, seed].dropna(subset=[metric]) for seed in chosen]
        if not frames:
            return np.empty(0), np.empty(0), np.empty((0, 0))
        return (
            frames[0].index.to_numpy(dtype=float),
            frames[0]["t_eta"].to_numpy(dtype=float),
            np.stack([frame[metric].to_numpy(dtype=float) for frame in frames]),
        )
