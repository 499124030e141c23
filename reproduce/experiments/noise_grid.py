"""MLPs on FashionMNIST over a grid of eta and S, and the Hessian where they end: the runs of Figures 1 and 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine import claims, plots, seedwise, statistics
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.spec import Keep, RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Reduction, Setting
from three_factors.reproduce.engine.judge.table import (
    NORMALISED,
    STABILITY,
    Evidence,
    SyntheticTable,
    Table,
)
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import loss_levels
from three_factors.reproduce.experiments.measured import LIGHTER, measurements
from three_factors.reproduce.experiments.metrics import DIFFERENCES, END_NORM, LOSS, NORM, VALID, end
from three_factors.reproduce.experiments.subset import fitting, subset

TRAINED = 0.1  # a run counts as trained if its loss on clean training images ends at most here: PAPER's "≈ 100 %"


@dataclass(frozen=True)
class Size:
    """Everything that a scale changes.

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

    def _grid(self, table: Evidence, network: str) -> _Grid:
        """Returns a network's cells, without those in which a pilot diverged."""
        labels = table.select(network=network)
        return _Grid(table, [label for label in labels if "unstable" not in table.factors.get(label, {})])

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
        say = _Words(network, self.networks[network].name)
        norm, accuracy = grid.log10(END_NORM), grid.values(VALID)
        trained = np.where((grid.values(LOSS) <= TRAINED).all(axis=0), 1.0, np.nan)
        at_levels, note = loss_levels.slope(table, grid.labels, grid.log_n)
        found = [
            grid.slope(say("norm", SMALLER, quote=FLATTER), norm, FALLS, ranges=True),
            grid.slope(say("accuracy", HIGHER, quote=BETTER), accuracy, RISES, unit="share", ranges=True),
            self._wider(grid, say, norm, accuracy),
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

    def _wider(self, grid: _Grid, say: _Words, norm: np.ndarray, accuracy: np.ndarray) -> claims.Finding:
        """States what the paper takes from both panels together."""
        partial = statistics.coefficients(accuracy, norm, np.broadcast_to(grid.log_n, norm.shape))[:, 0]
        note = f"at fixed eta/S {100 * np.nanmean(partial):.2f} pp" if np.isfinite(partial).any() else ""
        about = say(
            "wider",
            "wider is better: a smaller norm goes with higher validation accuracy",
            "slope of validation accuracy per decade of the Hessian norm over cells, a seed",
            quote=CORRELATE,
            note=note if grid.table.measured else "",
        )
        return seedwise.over_seeds(about, statistics.slopes(norm, accuracy), WORSE, unit="share")

    def _exponent(self, grid: _Grid, say: _Words, norm: np.ndarray) -> claims.Finding:
        about = say(
            "exponent",
            "only the ratio counts: g = 1 (mixed at equal epochs, where t_eta follows eta/S)",
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
class _Words:
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
class _Grid:
    """One network's cells in a table: values are (seeds, cells)."""

    table: Evidence
    labels: list[str]

    def _column(self, factor: str) -> np.ndarray:
        return self.table.column(self.labels, factor).astype(float)

    @property
    def log_n(self) -> np.ndarray:
        """log10 eta/S of every cell."""
        return np.log10(self._column("eta") / self._column("S"))

    def values(self, metric: str) -> np.ndarray:
        return self.table.grid(self.labels, metric)

    def log10(self, metric: str) -> np.ndarray:
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


CROSSING = loss_levels.at(0.1)
WORDS = {
    END_NORM: "Hessian norm (Frobenius)",
    VALID: "validation accuracy (%)",
    CROSSING: "Hessian norm where the loss first reaches 0.1",
}


def words_of(metric: str) -> str:
    """Returns a metric's words, for an axis."""
    return WORDS.get(metric) or (plots.WORDS | plots.THIRD_FACTOR)[metric.removeprefix("end ")]


def draw(table: Table, axes: Any, network: str, title: str = "", metrics: Sequence[str] = (END_NORM, VALID)) -> None:
    """Draws a panel for each metric against eta/S, a point a cell."""
    labels = table.select(network=network)
    sizes, n = table.column(labels, "S"), table.column(labels, "eta") / table.column(labels, "S")
    trained = table.grid(labels, LOSS) <= TRAINED
    for panel, metric in zip(axes, metrics):
        values = table.grid(labels, metric) * (100 if metric == VALID else 1)
        for size, colour in plots.shades(sorted(set(sizes))).items():
            chosen = np.flatnonzero(sizes == size)
            plots.points(panel, n[chosen], values[:, chosen], trained[:, chosen].mean(0) > 0.5, colour, f"S {size}")
        panel.set(xlabel="η/S", ylabel=words_of(metric), title=title)
        if np.isnan(values).all():
            ended = not np.isnan(table.grid(labels, LOSS)).all()
            none_trained = "no run trained: every one\nended above its first loss"
            plots.nothing(panel, "no run got there" if ended else none_trained)
            continue
        plots.log_scale(panel.xaxis)
        if metric != VALID:
            plots.log_scale(panel.yaxis)
        if STABILITY in metric:
            plots.edge_of_stability(panel)
        panel.scatter([], [], s=26, facecolors="white", edgecolors="#555555", label=f"hollow: loss above {TRAINED:g}")
        plots.legend_below(panel, columns=4)


def draw_beside(table: Table, axes: Any, grid: NoiseGrid) -> None:
    """Draws what the norm alone does not tell: at equal loss, the weights' scale taken out, stability, the noise."""
    names, shown = list(grid.networks), (CROSSING, *plots.beside(table, "end"))
    if len(names) == 1:
        panels = axes(-(-len(shown) // 2), 2)
        draw(table, panels, names[0], metrics=shown)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        return
    panels = axes(len(shown), len(names))
    for column, name in enumerate(names):
        draw(table, panels[column :: len(names)], name, grid.networks[name].name, shown)


# The paper's ranges, Section 4.1; which values in them is not stated there.
PAPER = Size(
    train=50_000,
    validation=10_000,
    test=10_000,
    epochs=200,
    lrs=(0.005, 0.01, 0.02, 0.05, 0.1),
    batch_sizes=(25, 50, 100, 200, 500, 1000),
    seeds=5,
    measured=2_000,
)
# Frozen by time alone: the paper's whole grid at four seeds, an N that every S divides, five minutes on 2 cores.
QUICK = replace(PAPER, train=3_000, validation=1_000, test=1_000, epochs=20, seeds=4, measured=250)
SMALL = {"train": 400, "validation": 100, "test": 100, "epochs": 2, "seeds": 1, "measured": 50}
SMOKE = replace(QUICK, lrs=(0.05, 0.1), batch_sizes=(25, 100), **SMALL)

SCALES: dict[Scale, Size] = {"smoke": SMOKE, "quick": QUICK, "gpu": PAPER, "paper": PAPER}
REDUCTIONS = [
    ("50 000 training images", "3 000", "time; divisible by every S"),
    ("200 epochs", "20 epochs", "time; cells at low eta/S then end undertrained, drawn hollow"),
    ("5 seeds", "4 seeds", "time"),
    ("Hessian on 2 000 images", "250", "time"),
    LIGHTER,
    ("10 000 validation images", "1 000", "time"),
]
SHALLOW: dict[Scale, MLPNetwork] = {
    "smoke": MLPNetwork(hidden=(16,) * 4, batch_norm=True),
    "quick": MLPNetwork(hidden=(128,) * 4, batch_norm=True),
    # The paper says 4 layers; their width is our choice.
    **dict.fromkeys(("gpu", "paper"), MLPNetwork(hidden=(512,) * 4, batch_norm=True)),
}
SINGLE = "mlp"
BATCH_NORM_MLP = NoiseGrid(
    {SINGLE: Network("", SHALLOW)},
    SCALES,
    [("4 hidden layers of 512", "of 128", "11 times less arithmetic"), *REDUCTIONS],
)

GOOD, BAD, REFERENCE = "good", "bad", "reference"
FEWER = replace(QUICK, lrs=(0.005, 0.02, 0.1), batch_sizes=(25, 100, 200, 500))
DEEP_MLP = NoiseGrid(
    {
        GOOD: Network("good init", dict.fromkeys(SCALES, MLPNetwork(hidden=(50,) * 20))),
        # The paper does not say which it took. Glorot's is what the authors' code had by default; Neelakantan et al.'s,
        # all zeros, does not train, and with N(0, 0.1²) gradients of 1e-8 reach the first of 20 layers.
        BAD: Network("bad init", dict.fromkeys(SCALES, MLPNetwork(hidden=(50,) * 20, init="glorot"))),
        REFERENCE: Network("Fig. 1's MLP", SHALLOW),
    },
    {"smoke": SMOKE, "quick": FEWER, "gpu": PAPER, "paper": PAPER},
    [
        ("5 eta x 6 S", "3 x 4", "time: twenty layers take three times as long"),
        *REDUCTIONS,
    ],
    unstable={"quick": ("good init, eta 0.1, S 200",)},  # seed 2 of the first edition
)
