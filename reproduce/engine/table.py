"""What the runs of a figure came to, or are imagined to come to: a row a run, and curves over the seeds of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

STEP_VARIANCE = "train/step_variance"  # of the losses of an epoch's steps
EIGENVALUE = "hessian/top_eigenvalue"
NORMALISED, WEIGHT_NORM = "hessian/normalized_sharpness", "hessian/weight_norm"
STABILITY = "hessian/lr_top_eigenvalue"  # eta·lambda_max; gradient descent is unstable above 2 (1 + beta)
NOISE = "eta/S"  # of an epoch's last step


class Evidence(Protocol):
    """What claims are judged on."""

    @property
    def labels(self) -> list[str]: ...
    def values(self, label: str, metric: str) -> np.ndarray: ...
    def seeds(self, label: str) -> list[int]: ...
    def grid(self, labels: Sequence[str], metric: str) -> np.ndarray: ...
    def diverged(self, label: str) -> int: ...
    def broken(self, labels: Sequence[str]) -> np.ndarray: ...
    def epochs_of_smaller_batches(self, a: str, b: str, epochs: np.ndarray) -> np.ndarray: ...
    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Table:
    """Results of a figure: evidence that was measured.

    Attributes:
        frame: a row a run: label, seed, status, and the last value of every metric.
        rows: (label, seed) -> a row an epoch, indexed by epoch; only runs that did not diverge.
        steps: (label, seed) -> a row a step: epoch, loss, lr, batch_size.
        profiles: (label of a path, seed) -> "train", "test" … -> alphas, loss, accuracy.
    """

    frame: pd.DataFrame
    rows: dict[tuple[str, int], pd.DataFrame]
    steps: dict[tuple[str, int], pd.DataFrame] = field(default_factory=dict)
    profiles: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def values(self, label: str, metric: str) -> np.ndarray:
        """The end value of a metric, float (seeds,), of the runs that trained."""
        trained = self._trained.get(label, self.frame.iloc[:0])
        return trained[metric].to_numpy(dtype=float) if metric in trained else np.empty(0)

    @cached_property
    def _trained(self) -> dict[str, pd.DataFrame]:
        ok = self.frame[self.frame["status"] == "ok"]
        return {str(label): rows for label, rows in ok.groupby("label", sort=False)}

    @property
    def labels(self) -> list[str]:
        """The arms of which at least one run is done, in order."""
        return [str(label) for label in dict.fromkeys(self.frame["label"])]

    def diverged(self, label: str) -> int:
        """How many runs of an arm diverged; `values` and `curves` leave them out."""
        return int(((self.frame["label"] == label) & (self.frame["status"] == "diverged")).sum())

    def grid(self, labels: Sequence[str], metric: str) -> np.ndarray:
        """A metric of several arms, (seeds, labels); NaN where a run is missing, diverged, or has no such value."""
        seeds = sorted(set(self.frame["seed"]))
        if metric not in self.frame:
            return np.full((len(seeds), len(labels)), np.nan)
        ok = self.frame[self.frame["status"] == "ok"].pivot(index="seed", columns="label", values=metric)
        return ok.reindex(index=seeds, columns=list(labels)).to_numpy(dtype=float)

    def broken(self, labels: Sequence[str]) -> np.ndarray:
        """Whether a run diverged, bool (seeds, labels); False also where it is missing."""
        seeds = sorted(set(self.frame["seed"]))
        status = self.frame.pivot(index="seed", columns="label", values="status")
        return (status.reindex(index=seeds, columns=list(labels)) == "diverged").to_numpy()

    def seeds(self, label: str) -> list[int]:
        return sorted(seed for name, seed in self.rows if name == label)

    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epochs (P,), t_eta (P,) and values (seeds, P) of a metric where it was measured; all seeds by default.

        Runs that stopped at a loss have different lengths: up to the first that stopped.
        """
        chosen = self.seeds(label) if seeds is None else seeds
        if not chosen:
            return np.empty(0), np.empty(0), np.empty((0, 0))
        rows = [self.rows[label, seed] for seed in chosen]
        if any(metric not in of_seed for of_seed in rows):
            return np.empty(0), np.empty(0), np.empty((0, 0))
        shortest = min(map(len, rows))
        values = [of_seed[metric].to_numpy(dtype=float)[:shortest] for of_seed in rows]
        measured = [~np.isnan(v) for v in values]
        first, there = rows[0].iloc[:shortest], measured[0]
        epochs, t_eta = first.index.to_numpy(dtype=float)[there], first["t_eta"].to_numpy(dtype=float)[there]
        return epochs, t_eta, np.stack([v[m] for v, m in zip(values, measured)])

    def epochs_of_smaller_batches(self, a: str, b: str, epochs: np.ndarray) -> np.ndarray:
        """Whether in each of `epochs` (P,) every batch of `a` is smaller than every batch of `b`, bool (P,)."""
        of_a, of_b = (self.steps[label, self.seeds(label)[0]].groupby("epoch")["batch_size"] for label in (a, b))
        return (of_a.max().reindex(epochs) < of_b.min().reindex(epochs)).to_numpy()


@dataclass(frozen=True)
class Imagined:
    """Evidence drawn at random, for the power of claims: arrays alone, because thousands of them are made.

    Attributes:
        finals: label -> metric -> (seeds,) end values.
        series: label -> metric -> (seeds, P) curves, at epochs and t_eta 0 … P - 1.
    """

    finals: dict[str, dict[str, np.ndarray]]
    series: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return list(self.finals)

    def values(self, label: str, metric: str) -> np.ndarray:
        return self.finals[label][metric]

    def grid(self, labels: Sequence[str], metric: str) -> np.ndarray:
        return np.stack([self.finals[label][metric] for label in labels], axis=1)

    def seeds(self, label: str) -> list[int]:
        return list(range(len(next(iter(self.finals[label].values())))))

    def diverged(self, label: str) -> int:
        return 0

    def broken(self, labels: Sequence[str]) -> np.ndarray:
        return np.zeros(self.grid(labels, next(iter(self.finals[labels[0]]))).shape, dtype=bool)

    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = self.series[label][metric]
        times = np.arange(values.shape[1], dtype=float)
        return times, times, values if seeds is None else values[seeds]

    def epochs_of_smaller_batches(self, a: str, b: str, epochs: np.ndarray) -> np.ndarray:
        return np.ones(len(epochs), dtype=bool)
