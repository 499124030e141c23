"""Slopes per decade of eta/S over the cells of a network in a table, and the statements about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from three_factors.reproduce.engine import claims, seedwise, statistics
from three_factors.reproduce.engine.judge.table import Evidence
from three_factors.reproduce.experiments.metrics import LOSS

# A run counts as trained if its loss on un-augmented training images ends at most here: the paper's "≈ 100 %".
TRAINED = 0.1


@dataclass(frozen=True)
class Words:
    """Makes the statements about one network: its name stands before their ids and texts."""

    network: str
    name: str

    def __call__(
        self, name: str, text: str, statistic: str = "", *, control_of: str = "", **words: Any
    ) -> claims.Statement:
        before = f"{self.network}." if self.name else ""
        text = f"{self.name}: {text}" if self.name else text
        about = f"{before}{control_of}" if control_of else ""
        return claims.Statement(before + name, text, statistic, control_of=about, **words)


@dataclass(frozen=True)
class Grid:
    """One network's cells in a table: values are (seeds, cells)."""

    table: Evidence
    labels: list[str]

    def _column(self, factor: str) -> np.ndarray:
        return self.table.column(self.labels, factor).astype(float)

    @property
    def log_n(self) -> np.ndarray:
        """Returns log10 eta/S, (cells,)."""
        return np.log10(self._column("eta") / self._column("S"))

    def values(self, metric: str) -> np.ndarray:
        """Returns a metric where runs end."""
        return self.table.grid(self.labels, metric)

    def log10(self, metric: str) -> np.ndarray:
        """Returns log10 of a metric where runs end."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(self.values(metric))

    def slope(
        self,
        about: claims.Statement,
        values: np.ndarray,
        rule: seedwise.Direction,
        *,
        unit: claims.Unit = "",
        ranges: bool = False,
    ) -> claims.Finding:
        """Finds the slope of values per decade of eta/S; notes rho, and the slope without a row or a column."""
        notes = self._notes(values, unit) if ranges and self.table.measured else []
        what = "validation accuracy" if unit == "share" else "log10 norm"
        about = replace(about.noting(*notes), statistic=f"slope of {what} per decade of eta/S over cells, a seed")
        return seedwise.over_seeds(about, statistics.slopes(self.log_n, values), rule, unit=unit)

    def _notes(self, values: np.ndarray, unit: str) -> list[str]:
        factor = 100 if unit == "share" else 1

        def without(keep: np.ndarray) -> float:
            found = statistics.slopes(self.log_n, np.where(keep, values, np.nan))
            return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")

        low, high = statistics.leave_one_out(without, self._column("eta"), self._column("S"))
        rho = statistics.spearman(self.log_n, values)
        words = [f"rho {np.nanmean(rho):.2f}"] if not np.isnan(rho).all() else []
        lost = int(np.isnan(values).sum())
        words += [f"{lost} of {values.size} runs have no value"] if lost else []
        return [*words, f"an eta or an S left out: {factor * low:.2f} to {factor * high:.2f}"]

    def trained_note(self) -> str:
        """Says how many runs ended trained."""
        if not self.table.measured:
            return ""
        ended = self.values(LOSS)
        return f"{int((ended <= TRAINED).sum())} of {ended.size} runs trained"

    def index(self, log10: np.ndarray) -> np.ndarray:
        """Returns g, (seeds,)."""
        return statistics.index(np.log(self._column("eta")), np.log(self._column("S")), log10)
