"""A base setting (eta, S) multiplied by b until training breaks: the experiment of Figures 6 and 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine import statistics
from three_factors.reproduce.engine.contract.measurements import Curvature, Watch
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Reduction, Setting
from three_factors.reproduce.engine.judge.table import BATCH_STABILITY, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments.metrics import VALID
from three_factors.reproduce.experiments.subset import fitting, subset

if TYPE_CHECKING:
    import pandas as pd

EDGE = 1.8  # of eta times batch sharpness: full-batch descent is unstable above 2
DROP = 0.02  # of accuracy, below that at the smallest b: there it breaks
NOISIEST = 0.01  # sd of a cell's accuracy between seeds, for a drop to be placed
MIDDLE_STABILITY = f"median {BATCH_STABILITY}"  # over the middle third of the steps


@dataclass(frozen=True)
class Panel:
    """Runs at (eta b, S b) for several b, on `train` examples.

    Attributes:
        id: the factor `panel` of its settings.
        name: for people.
        train: N.
        lr: eta at b = 1.
        batch_size: S at b = 1.
        betas: the values of b.
        imagined: the b* that is assumed for the power, before training; inside what the paper claims.
        stretch: how many times the epochs, for panels at equal t_eta.
    """

    id: str
    name: str
    train: int
    lr: float
    batch_size: int
    betas: tuple[float, ...]
    imagined: float = 5.0
    stretch: float = 1.0


@dataclass(frozen=True)
class Size:
    """Holds everything that a scale changes.

    Attributes:
        watched: batches of the run's S along whose gradients the sharpness is measured, in the panel that `Scaling`
            says.
        watch_every: in every so many epochs.
        seed_sd: assumed for the power, before training; of the highest validation accuracy.
    """

    network: Network
    panels: tuple[Panel, ...]
    validation: int
    test: int
    epochs: int
    augment: bool
    seeds: int
    evaluate_every: int = 1
    watched: int = 8
    watch_every: int = 5
    seed_sd: float = 0.01


@dataclass(frozen=True)
class Place:
    """One setting of a panel."""

    panel: Panel
    beta: float
    lr: float
    batch_size: int

    @property
    def label(self) -> str:
        return f"{self.panel.name}, b {self.beta:.3g}"

    @property
    def factors(self) -> dict[str, float | str]:
        return {"panel": self.panel.id, "b": self.beta, "eta": self.lr, "S": self.batch_size}


class Scaling(Experiment):
    """Each panel's base setting multiplied by every b.

    Args:
        stability: the panel in whose runs batch sharpness in train mode is followed.
        unbroken: the largest b at which accuracy is taken to be unbroken.
    """

    def __init__(
        self,
        scales: dict[Scale, Size],
        reductions: Mapping[Scale, Sequence[Reduction]],
        stability: str | None = None,
        unbroken: float = 1.5,
    ) -> None:
        self.scales, self.reductions, self.stability, self.unbroken = scales, reductions, stability, unbroken
        self.panels = {panel.id: panel for panel in scales["paper"].panels}

    def _places(self, scale: Scale) -> list[Place]:
        found = []
        for panel in self.scales[scale].panels:
            for beta in panel.betas:
                size = max(1, round(panel.batch_size * beta))
                lr = panel.lr / panel.batch_size * size  # eta/S is kept where S is rounded
                found.append(Place(panel, beta, lr, size))
        return found

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        s = self.scales[scale]
        network = fitting(s.network, source)

        def run(place: Place) -> Setting:
            panel, schedule = place.panel, NoiseSchedule(place.lr, place.batch_size)
            data = subset(source, scale, s, train=panel.train, augment=s.augment)
            spec = RunSpec(network, data, schedule, round(panel.stretch * s.epochs), seed=0)
            if panel.id == self.stability:
                size = place.batch_size
                sharpness = Curvature(s.watched * size, size, measures=("batch_sharpness",), training=True)
                spec = replace(spec, watch=Watch(sharpness, s.watch_every))
            return Setting(spec, place.factors)

        return {place.label: run(place) for place in self._places(scale)}

    def derive(self, rows: pd.DataFrame, spec: RunSpec) -> dict[str, float]:
        found: dict[str, float] = {}
        if BATCH_STABILITY in rows:
            third = rows.index[-1] / 3
            middle = rows.loc[third : 2 * third, BATCH_STABILITY].dropna()
            found |= {} if middle.empty else {MIDDLE_STABILITY: float(middle.median())}
        return found

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws breaks at each panel's imagined b*; 8 points are lost per factor 2 beyond."""
        s, finals, places = self.scales[scale], {}, self._places(scale)
        for place in places:
            excess = place.beta / place.panel.imagined
            lost = 0.08 * max(0.0, float(np.log2(excess)))
            top = 2 * excess**0.5 * np.exp(random.normal(0, 0.2, seeds))
            finals[place.label] = {VALID: 0.8 - lost + random.normal(0, s.seed_sd / 2, seeds), MIDDLE_STABILITY: top}
        return SyntheticTable(finals, factors={place.label: place.factors for place in places})

    def stars(self, table: Evidence, panel: str | None) -> np.ndarray:
        """Returns b* of every seed, (seeds,): where end accuracy lies `DROP` below its mean over the smallest b.

        +inf where it does not within the b that are tried; a run that diverged has the accuracy of chance.
        """
        labels, betas = self._from_one(table, panel)
        if not labels:
            return np.full(len(table.grid(table.labels, VALID)), np.nan)
        base = betas <= self.unbroken
        return statistics.breaking_points(np.log(betas), table.grid(labels, VALID), DROP, base)

    def largest(self, table: Evidence, panel: str) -> float:
        """Returns the largest b of a panel."""
        return float(max(self._from_one(table, panel)[1], default=np.nan))

    def too_noisy(self, table: Evidence, panels: Sequence[str]) -> str:
        """Says if seeds differ by more than a point at unbroken b, where a drop of two cannot be placed; "" if not."""
        spreads = []
        for panel in panels:
            labels, betas = self._from_one(table, panel)
            values = table.grid([k for k, b in zip(labels, betas) if b <= self.unbroken], VALID) if labels else None
            if values is not None and len(values) > 1:
                spreads.append(np.nanmean(np.nanstd(values, axis=0, ddof=1)))
        sd = float(np.mean(spreads)) if spreads else 0.0
        return f"a cell's sd is {100 * sd:.1f} pp, more than {100 * NOISIEST:g}" if sd > NOISIEST else ""

    def edges(self, table: Evidence) -> np.ndarray:
        """Returns the b at which eta times batch sharpness reaches the edge, a seed, in the panel where it is known.

        -inf where it has at the smallest b, +inf where it never does.
        """
        labels, betas = self._from_one(table, self.stability)
        if not labels:
            return np.full(len(table.grid(table.labels, VALID)), np.nan)
        seeds = zip(table.grid(labels, MIDDLE_STABILITY), table.broken(labels))
        return np.array([crossing(betas, *of_seed) for of_seed in seeds])

    @staticmethod
    def _from_one(table: Evidence, panel: str | None) -> tuple[list[str], np.ndarray]:
        """Returns the settings of a panel at b of 1 and more, ascending, and their b."""
        labels = [] if panel is None else [k for k in table.select(panel=panel) if float(table.factors[k]["b"]) >= 1]
        labels.sort(key=lambda label: float(table.factors[label]["b"]))
        return labels, table.column(labels, "b").astype(float)

    def drop_at_small_batches(self, table: Evidence) -> np.ndarray:
        """Returns the end accuracy at b = 1 less that at b < 1, (seeds,), a mean over panels."""

        def mean(labels: list[str]) -> np.ndarray:
            return statistics.nanmean(table.grid(labels, VALID).T)

        drops = []
        for panel in self.panels:
            betas = {label: float(table.factors[label]["b"]) for label in table.select(panel=panel)}
            at_one, below = ([k for k in betas if betas[k] == 1], [k for k in betas if betas[k] < 1])
            if at_one and below:
                drops.append(mean(at_one) - mean(below))
        return statistics.nanmean(drops) if drops else np.full(1, np.nan)


def crossing(betas: np.ndarray, stability: np.ndarray, diverged: np.ndarray) -> float:
    """Returns the b (ascending) at which `stability` (b,) first reaches the edge, log-interpolated.

    What `diverged` is beyond it; runs without a value are left out. -inf if it is reached at the smallest b, +inf if
    never, NaN if nothing is known.
    """
    from scipy.optimize import isotonic_regression

    known = diverged | ~np.isnan(stability)
    x, y = np.log(betas[known]), np.log(np.where(diverged, np.nan, stability)[known] / EDGE)
    if not len(x):
        return np.nan
    trained = ~np.isnan(y)
    y[trained] = isotonic_regression(y[trained]).x  # the first passage of a noisy curve comes early
    above = ~trained | (y >= 0)
    if not above.any():
        return np.inf
    first = int(above.argmax())
    if first == 0:
        return -np.inf
    if np.isnan(y[first]):  # between the last that trained and the first that did not
        return float(np.exp((x[first - 1] + x[first]) / 2))
    return float(np.exp(np.interp(0, y[first - 1 : first + 1], x[first - 1 : first + 1])))
