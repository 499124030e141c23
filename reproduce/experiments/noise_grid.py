"""MLPs on FashionMNIST over a grid of eta and S, and the Hessian where they end: the experiment of Figures 1 and 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine import claims, seedwise, statistics
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.spec import Keep, RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Reduction, Setting
from three_factors.reproduce.engine.judge.table import NORMALISED, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import loss_levels
from three_factors.reproduce.experiments.grid_slopes import TRAINED, Grid, Words
from three_factors.reproduce.experiments.measured import measurements
from three_factors.reproduce.experiments.metrics import DIFFERENCES, END_NORM, LOSS, NORM, VALID, end
from three_factors.reproduce.experiments.subset import fitting, subset

DRAWN = (NORM, DIFFERENCES, NORMALISED)
WITHIN = f"cells that all seeds train to a loss of {TRAINED:g}"
SMALLER, HIGHER = "higher eta/S, smaller Hessian norm", "higher eta/S, higher validation accuracy"
AT_EQUAL_LOSS = f"{SMALLER}, at equal training loss"
FLATTER, BETTER = "the norm of the Hessian falls with eta/S", "validation accuracy rises with eta/S"
CORRELATE = "wider minima correlate well with better generalization"
# Per decade of eta/S: .05 of log10 norm is 12 %; half a point of accuracy.
FALLS, RISES = seedwise.Direction(-1, smallest=0.05), seedwise.Direction(1, smallest=0.005)
WORSE = seedwise.Direction(-1, smallest=0.005)  # per decade of norm
RATIO = seedwise.Range(0.71, 1.41)  # of g, which is 1 where only eta/S counts, 1/2 for eta/√S, 0 for eta alone


@dataclass(frozen=True)
class Size:
    """Holds everything that a scale changes.

    Attributes:
        measured: training examples whose Hessian is measured.
        seed_sd: assumed for the power, before training; of a cell's log norm.
    """

    train: int
    validation: int
    test: int
    epochs: int
    lrs: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    seeds: int
    measured: int
    evaluate_every: int = 1
    seed_sd: float = 0.2


@dataclass(frozen=True)
class Network:
    """One of the grid's networks.

    Attributes:
        name: for people; "" for a single one.
        at: the network at each scale.
    """

    name: str
    at: dict[Scale, MLPNetwork]


class NoiseGrid(Experiment):
    """Every network on every cell (eta, S).

    Args:
        networks: the factor `network` -> network.
        unstable: scale -> cells in which a pilot diverged, by label; they are run and drawn, and no slope has them.
    """

    def __init__(
        self,
        networks: dict[str, Network],
        scales: dict[Scale, Size],
        reductions: Sequence[Reduction],
        unstable: Mapping[Scale, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.networks, self.scales, self.reductions = networks, scales, {"quick": reductions}
        self.unstable = unstable

    def _cells(self, scale: Scale) -> dict[str, dict[str, Any]]:
        """Returns label -> factors."""
        s = self.scales[scale]
        cells = {
            f"{network.name}{', ' if network.name else ''}eta {lr:g}, S {size}": {"network": name, "eta": lr, "S": size}
            for name, network in self.networks.items()
            for lr in s.lrs
            for size in s.batch_sizes
        }
        out = set(self.unstable.get(scale, ()))
        return {label: of | ({"unstable": 1} if label in out else {}) for label, of in cells.items()}

    def _grid(self, table: Evidence, network: str) -> Grid:
        """Returns a network's cells, without those in which a pilot diverged."""
        labels = table.select(network=network)
        return Grid(table, [label for label in labels if "unstable" not in table.factors.get(label, {})])

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        s = self.scales[scale]
        data = subset(source, scale, s)
        keep = Keep(end=True, loss_levels=loss_levels.LEVELS)

        def run(of: dict[str, Any]) -> Setting:
            network = fitting(self.networks[of["network"]].at[scale], source)
            schedule = NoiseSchedule(of["eta"], of["S"])
            spec = RunSpec(network, data, schedule, s.epochs, seed=0, keep=keep, evaluate_every=s.evaluate_every)
            levels = loss_levels.MILESTONES
            return Setting(spec, of, measurements(spec, scale, s.measured, levels=levels, noise=True))

        return {label: run(factors) for label, factors in self._cells(scale).items()}

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws a world in which only eta/S matters: norm ∝ n^-1/2, a percent of accuracy per factor e of n."""
        s, finals, cells = self.scales[scale], {}, self._cells(scale)
        noise = partial(random.normal, 0.0, s.seed_sd, seeds)
        for label, of in cells.items():
            log_n = np.log(of["eta"] / of["S"])
            crossings = loss_levels.imagined(np.exp(-0.5 * log_n + noise()), random)
            ends = {end(metric): np.exp(-0.5 * log_n + noise()) for metric in DRAWN}
            finals[label] = crossings | ends
            finals[label][VALID] = 0.85 + 0.01 * (log_n + noise())
            largest = np.log(s.batch_sizes[0] / s.lrs[-1])
            finals[label][LOSS] = np.exp(-4 - 0.5 * log_n - 0.5 * largest + noise())
        return SyntheticTable(finals, factors=cells)

    # -- what is said about a grid

    def check(self, table: Evidence, network: str) -> list[claims.Finding]:
        """States what Figure 1 does of one network: over all cells, and with confounds taken away."""
        grid = self._grid(table, network)
        if not grid.labels:
            return []
        say = Words(network, self.networks[network].name)
        norm, accuracy = grid.log10(END_NORM), grid.values(VALID)
        trained = np.where((grid.values(LOSS) <= TRAINED).all(axis=0), 1.0, np.nan)
        at_levels, note = loss_levels.slope(table, grid.labels, grid.log_n)
        found = [
            grid.slope(say("norm", SMALLER, quote=FLATTER), norm, FALLS, ranges=True),
            grid.slope(say("accuracy", HIGHER, quote=BETTER), accuracy, RISES, unit="share", ranges=True),
            *self._wider(grid, say, norm, accuracy),
            grid.slope(say("norm.trained", f"{SMALLER}; {WITHIN}", note=grid.trained_note()), norm * trained, FALLS),
            grid.slope(
                say("accuracy.trained", f"{HIGHER}; {WITHIN}", note=grid.trained_note()),
                accuracy * trained,
                RISES,
                unit="share",
            ),
            seedwise.over_seeds(
                say("norm.equal_loss", AT_EQUAL_LOSS, loss_levels.STATISTIC, control_of="norm", note=note),
                at_levels,
                FALLS,
            ),
        ]
        for metric, name, text in (
            (NORMALISED, "normalized_sharpness", "higher eta/S, smaller scale-normalised sharpness"),
            (DIFFERENCES, "finite_difference", f"{SMALLER} by finite differences, as the paper's"),
        ):
            found.append(grid.slope(say(f"norm.{name}", text, control_of="norm"), grid.log10(end(metric)), FALLS))
        return [*found, self._exponent(grid, say, norm)]

    def _wider(self, grid: Grid, say: Words, norm: np.ndarray, accuracy: np.ndarray) -> list[claims.Finding]:
        """States what the paper takes from both panels together, and estimates what is left of it at fixed eta/S."""
        statistic = "slope of validation accuracy per decade of the Hessian norm over cells, a seed"
        text = "wider is better: a smaller norm goes with higher validation accuracy"
        partial = statistics.coefficients(accuracy, norm, np.broadcast_to(grid.log_n, norm.shape))[:, 0]
        return [
            seedwise.over_seeds(
                say("wider", text, statistic, quote=CORRELATE), statistics.slopes(norm, accuracy), WORSE, unit="share"
            ),
            seedwise.over_seeds(
                say("wider.at_fixed_noise", f"{text}, at fixed eta/S", f"{statistic}, given log eta/S"),
                partial,
                WORSE,
                unit="share",
            ),
        ]

    def _exponent(self, grid: Grid, say: Words, norm: np.ndarray) -> claims.Finding:
        about = say(
            "exponent",
            f"only the ratio counts: g = 1{claims.AT_EQUAL_EPOCHS}",
            "g of log norm = s(log eta - g log S), s cubic, least squares a seed",
            quantity=claims.MIXED,
        )
        return seedwise.over_seeds(about, grid.index(norm), RATIO)

    def slopes(self, table: Evidence, network: str, metric: str) -> np.ndarray:
        """Returns the slope of a metric (of a norm log10) per decade of eta/S over a network's cells, (seeds,)."""
        grid = self._grid(table, network)
        if not grid.labels:
            return np.full(len(table.grid(table.labels, metric)), np.nan)
        return statistics.slopes(grid.log_n, grid.values(metric) if metric == VALID else grid.log10(metric))
