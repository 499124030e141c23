"""Results of a figure's runs: measured (`Table`), or simulated for power analysis (`SyntheticTable`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

EIGENVALUE = "hessian/top_eigenvalue"
NORMALISED = "hessian/normalized_sharpness"
STABILITY = "hessian/lr_top_eigenvalue"  # eta·lambda_max; gradient descent is unstable above 2 (1 + beta)
# The same in train mode, batch norm over batches of the run's S: what governs stability is the operator of training.
TRAINING_STABILITY, BATCH_STABILITY = "training_hessian/lr_top_eigenvalue", "training_hessian/lr_batch_sharpness"
STABILITIES = {  # of what was measured without its eta
    EIGENVALUE: STABILITY,
    "training_hessian/top_eigenvalue": TRAINING_STABILITY,
    "training_hessian/batch_sharpness": BATCH_STABILITY,
}
NOISE = "eta/S"  # of an epoch's last step
PARTS = ("val", "test", "train_subset", "train_clean", "train_wrong")  # that runs are evaluated on
ACCURACIES = tuple(f"{part}/accuracy" for part in PARTS)

Factors = Mapping[str, Mapping[str, float | str]]  # label -> what the setting is made of


class Evidence(ABC):
    """Describes what claims are judged on: values of metrics, by label and seed.

    Attributes:
        factors: label -> eta, S, panel and the like, by which claims find their settings.
        measured: False where it is only simulated: notes that count runs are then left out.
    """

    factors: Factors
    measured = True

    @property
    @abstractmethod
    def labels(self) -> list[str]:
        """Returns the settings of which at least one run is done, in order."""

    @abstractmethod
    def values(self, label: str, metric: str) -> np.ndarray:
        """Returns the end value of a metric, float (seeds,), of the runs that trained: what is drawn, not judged."""

    @abstractmethod
    def grid(self, labels: Sequence[str], metric: str) -> np.ndarray:
        """Returns a metric of several settings, (seeds, labels); NaN where a run is missing, or has no such value.

        A run that diverged has the accuracy of chance and no other value.
        """

    @abstractmethod
    def replicates(self, labels: Sequence[str]) -> list[int]:
        """Returns the seeds of settings, those of runs that diverged too: the rows of `grid`."""

    @abstractmethod
    def seeds(self, label: str) -> list[int]:
        """Returns the seeds whose curves there are: what is drawn; what is judged has the `replicates`."""

    @abstractmethod
    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns epochs (P,), t_eta (P,) and values (seeds, P) of a metric, where all that have curves measured it.

        All that have curves by default; NaN for a seed that has none. Runs that stopped at a loss have different
        lengths: up to the first that stopped.
        """

    @abstractmethod
    def diverged(self, label: str) -> int:
        """Counts the runs of a setting that diverged; `values` and `curves` leave them out."""

    @abstractmethod
    def broken(self, labels: Sequence[str]) -> np.ndarray:
        """Tells which runs diverged, bool (seeds, labels); False also where one is missing."""

    @abstractmethod
    def epochs_of_smaller_batches(self, a: str, b: str, epochs: np.ndarray) -> np.ndarray:
        """Tells in which of `epochs` (P,) every batch of `a` is smaller than every batch of `b`, bool (P,)."""

    def select(self, **factors: float | str) -> list[str]:
        """Returns the labels of the settings with these factors, in order."""
        return [k for k in self.labels if all(self.factors.get(k, {}).get(name) == factors[name] for name in factors)]

    def levels(self, factor: str) -> list[Any]:
        """Returns the values that a factor takes, ascending."""
        return sorted({self.factors[k][factor] for k in self.labels if factor in self.factors.get(k, {})})

    def column(self, labels: Sequence[str], factor: str) -> np.ndarray:
        """Returns a factor of settings, (labels,)."""
        return np.array([self.factors[label][factor] for label in labels])


@dataclass(frozen=True)
class Table(Evidence):
    """Results of a figure: evidence that was measured.

    Attributes:
        frame: a row a run: label, seed, status, factors, and what it ended at. Of losses and accuracies that is the
            mean over the last tenth of the run (`evidence`).
        rows: (label, seed) -> a row an epoch, indexed by epoch; only runs that did not diverge.
        steps: (label, seed) -> a row a step: epoch, loss (NaN where it was not kept), lr, batch_size.
        profiles: (label of a path, seed) -> "train", "test" … -> alphas, loss, accuracy.
        factors: label -> what the setting is made of.
    """

    frame: pd.DataFrame
    rows: dict[tuple[str, int], pd.DataFrame]
    steps: Mapping[tuple[str, int], pd.DataFrame] = field(default_factory=dict)
    profiles: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    factors: Factors = field(default_factory=dict)

    def values(self, label: str, metric: str) -> np.ndarray:
        trained = self._trained.get(label, self.frame.iloc[:0])
        return trained[metric].to_numpy(dtype=float) if metric in trained else np.empty(0)

    @cached_property
    def _trained(self) -> dict[str, pd.DataFrame]:
        ok = self.frame[self.frame["status"] == "ok"]
        return {str(label): rows for label, rows in ok.groupby("label", sort=False)}

    @property
    def labels(self) -> list[str]:
        return [str(label) for label in dict.fromkeys(self.frame["label"])]

    def diverged(self, label: str) -> int:
        return int(((self.frame["label"] == label) & (self.frame["status"] == "diverged")).sum())

    def grid(self, labels: Sequence[str], metric: str) -> np.ndarray:
        seeds = self.replicates(labels)
        if metric not in self.frame:
            return np.full((len(seeds), len(labels)), np.nan)
        counted = ("ok", "diverged") if metric in ACCURACIES else ("ok",)
        there = self.frame[self.frame["status"].isin(counted)].pivot(index="seed", columns="label", values=metric)
        return there.reindex(index=seeds, columns=list(labels)).to_numpy(dtype=float)

    def replicates(self, labels: Sequence[str]) -> list[int]:
        # Also those of settings that share one with them; a tuning's own seeds are not among them.
        of = self._seeds_of
        own = set().union(*(of.get(label, set()) for label in labels)) or set().union(*of.values())
        return sorted(own.union(*(seeds for seeds in of.values() if seeds & own)))

    @cached_property
    def _seeds_of(self) -> dict[str, set[int]]:
        return {str(label): set(rows["seed"]) for label, rows in self.frame.groupby("label", sort=False)}

    def broken(self, labels: Sequence[str]) -> np.ndarray:
        seeds = self.replicates(labels)
        status = self.frame.pivot(index="seed", columns="label", values="status")
        return (status.reindex(index=seeds, columns=list(labels)) == "diverged").to_numpy()

    def seeds(self, label: str) -> list[int]:
        return sorted(seed for name, seed in self.rows if name == label)

    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = self.seeds(label) if seeds is None else seeds
        rows = {seed: self.rows[label, seed] for seed in chosen if (label, seed) in self.rows}
        if not rows or any(metric not in of_seed for of_seed in rows.values()):
            return np.empty(0), np.empty(0), np.empty((len(chosen), 0))
        measured = {seed: of_seed[metric].dropna() for seed, of_seed in rows.items()}
        epochs = reduce(np.intersect1d, (of_seed.index.to_numpy() for of_seed in measured.values()))
        values = np.full((len(chosen), len(epochs)), np.nan)
        for row, seed in enumerate(chosen):
            if seed in measured:
                values[row] = measured[seed].loc[epochs]
        t_eta = next(iter(rows.values())).loc[epochs, "t_eta"].to_numpy(dtype=float)
        return epochs.astype(float), t_eta, values

    def epochs_of_smaller_batches(self, a: str, b: str, epochs: np.ndarray) -> np.ndarray:
        (_, above), (there, below) = (self._batch_sizes(label) for label in (a, b))
        place = np.searchsorted(there, epochs)
        return above[1][place] < below[0][place]

    def _batch_sizes(self, label: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Returns epochs, and the smallest and the largest S of each, (epochs,)."""
        steps = self.steps[label, self.seeds(label)[0]]
        epochs, first = np.unique(steps["epoch"].to_numpy(), return_index=True)
        sizes = steps["batch_size"].to_numpy()
        return epochs, (np.minimum.reduceat(sizes, first), np.maximum.reduceat(sizes, first))


@dataclass(frozen=True)
class SyntheticTable(Evidence):
    """Evidence drawn at random, for the power of claims: arrays alone, because thousands of them are made.

    Attributes:
        finals: label -> metric -> (seeds,) end values.
        series: label -> metric -> (seeds, P) curves, at epochs and t_eta 0 … P - 1.
        factors: label -> what the setting is made of.
    """

    finals: dict[str, dict[str, np.ndarray]]
    series: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    factors: Factors = field(default_factory=dict)
    measured = False

    def among(self, factors: Factors) -> SyntheticTable:
        """Returns what is drawn of these settings alone, taken for made of these factors."""
        finals, series = ({k: v for k, v in of.items() if k in factors} for of in (self.finals, self.series))
        return SyntheticTable(finals, series, factors)

    @property
    def labels(self) -> list[str]:
        return list(self.finals)

    def values(self, label: str, metric: str) -> np.ndarray:
        return self.finals[label][metric]

    def grid(self, labels: Sequence[str], metric: str) -> np.ndarray:
        none = np.full(len(self.replicates(labels)), np.nan)
        return np.stack([self.finals.get(label, {}).get(metric, none) for label in labels], axis=1)

    def replicates(self, labels: Sequence[str]) -> list[int]:
        return self.seeds(self.labels[0])

    def seeds(self, label: str) -> list[int]:
        return list(range(len(next(iter(self.finals[label].values())))))

    def diverged(self, label: str) -> int:
        return 0

    def broken(self, labels: Sequence[str]) -> np.ndarray:
        return np.zeros((len(self.replicates(labels)), len(labels)), dtype=bool)

    def curves(
        self, label: str, metric: str, seeds: list[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = self.series[label][metric]
        times = np.arange(values.shape[1], dtype=float)
        return times, times, values if seeds is None else values[seeds]

    def epochs_of_smaller_batches(self, a: str, b: str, epochs: np.ndarray) -> np.ndarray:
        return np.ones(len(epochs), dtype=bool)
