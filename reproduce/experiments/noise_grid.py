"""MLPs on FashionMNIST over a grid of eta and S, and the Hessian where they end: the runs of Figures 1 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    """

    def __init__(
        self, networks: dict[str, Network], scales: dict[Scale, Size], reductions: Sequence[Reduction]
    ) -> None:
        self.networks, self.scales, self.reductions = networks, scales, {"quick": reductions}

    def _cells(self, scale: Scale) -> dict[str, dict[str, Any]]:
        """Returns label -> factors."""
        s = self.scales[scale]
        return {
            f"{network.name}{', ' if network.name else ''}eta {lr:g}, S {size}": {"network": name, "eta": lr, "S": size}
            for name, network in self.networks.items()
            for lr in s.lrs
            for size in s.batch_sizes
        }

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

    def check(
        self, table: Evidence, network: str, norm_paper: str = "", accuracy_paper: str = ""
    ) -> list[claims.Claim]:
        """Claims what Figure 1 does of one network: over the trained cells, over all, and with confounds taken away."""
        grid = _Grid(table, table.select(network=network))
        if not grid.labels:
            return []
        say = _Words(network, self.networks[network].name)
        everywhere, trained = np.ones(grid.shape, dtype=bool), grid.values(LOSS) <= TRAINED
        norm, accuracy = np.log(grid.values(END_NORM)), grid.values(VALID)
        rises, falls = (seedwise.Direction(sign, smallest=0.3) for sign in (1, -1))
        of_norm = say("norm.trained", f"{SMALLER}; {WITHIN}", paper=norm_paper or None, note=grid.trained_note())
        found = [
            grid.correlation(of_norm, norm, trained, falls),
            grid.correlation(say("norm.all", f"{SMALLER}; all cells"), norm, everywhere, falls),
            grid.correlation(
                say("accuracy.trained", f"{HIGHER}; {WITHIN}", paper=accuracy_paper or None), accuracy, trained, rises
            ),
            grid.correlation(say("accuracy.all", f"{HIGHER}; all cells"), accuracy, everywhere, rises),
            grid.exponent(say("exponent.trained", f"{RATIO}; {WITHIN}"), norm, trained),
            grid.exponent(say("exponent.all", f"{RATIO}; all cells", control_of="exponent.trained"), norm, everywhere),
            grid.partial(
                say("equal_loss.partial", f"{SMALLER}, at equal training loss; all cells", control_of="norm"),
                norm,
                everywhere,
            ),
        ]
        for level in loss_levels.LEVELS:
            rho, note = loss_levels.correlation(table, grid.labels, grid.log_n, level)
            about = say(
                f"equal_loss.at_{claims.key(level)}",
                f"{SMALLER} at the first crossing of a loss of {level:g}",
                loss_levels.STATISTIC,
                control_of="norm",
                note=note,
            )
            found.append(seedwise.over_seeds(about, rho, falls, seedwise.FISHER))
        for metric, name, text in (
            (NORMALISED, "normalized_sharpness", f"higher eta/S, smaller scale-normalised sharpness; {WITHIN}"),
            (DIFFERENCES, "finite_difference", f"{SMALLER} by finite differences, as the paper's; {WITHIN}"),
        ):
            values = np.log(grid.values(end(metric)))
            found.append(grid.correlation(say(f"norm_as.{name}", text, control_of="norm"), values, trained, falls))
        return found

    def weaker(self, table: Evidence, network: str, reference: str, about: claims.Statement) -> claims.Claim:
        """Claims that log eta/S and log norm correlate less than in another network, over the cells trained in both."""
        rule = seedwise.Direction(1, smallest=0.3)
        own, other = (_Grid(table, table.select(network=name)) for name in (network, reference))
        if not (own.labels and other.labels):
            return claims.unjudged(about, rule, 0)
        shared = [cell for cell in own.cells if cell in other.cells]
        grids = [grid.only(shared) for grid in (own, other)]
        both = np.logical_and(*[grid.values(LOSS) <= TRAINED for grid in grids])
        z = [
            seedwise.FISHER.to(statistics.spearman(grid.log_n, np.where(both, np.log(grid.values(END_NORM)), np.nan)))
            for grid in grids
        ]
        return seedwise.over_seeds(about.noting(grids[0].trained_note()), z[0] - z[1], rule)


DRAWN = (NORM, DIFFERENCES, NORMALISED)
WITHIN = f"cells trained to a loss of {TRAINED:g}"
SMALLER, HIGHER = "higher eta/S, smaller Hessian norm", "higher eta/S, higher validation accuracy"
RATIO = "only the ratio counts: norm ~ (eta/S^g)^-p with g = 1"


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

    @property
    def cells(self) -> list[tuple[float, float]]:
        """(eta, S) of every cell."""
        return list(zip(self._column("eta"), self._column("S")))

    def _column(self, factor: str) -> np.ndarray:
        return self.table.column(self.labels, factor)

    def only(self, cells: Sequence[tuple[float, float]]) -> _Grid:
        """Returns these of its cells, in this order."""
        place = dict(zip(self.cells, self.labels))
        return _Grid(self.table, [place[cell] for cell in cells])

    @property
    def log_n(self) -> np.ndarray:
        return np.log(self._column("eta") / self._column("S"))

    @property
    def shape(self) -> tuple[int, int]:
        return self.values(LOSS).shape[0], len(self.labels)

    def values(self, metric: str) -> np.ndarray:
        return self.table.grid(self.labels, metric)

    def correlation(
        self, about: claims.Statement, values: np.ndarray, mask: np.ndarray, rule: seedwise.Direction
    ) -> claims.Claim:
        """Judges rho(log n, values) a seed, Fisher's z over seeds; notes its range without a row or a column."""
        chosen = np.where(mask, values, np.nan)
        rho = statistics.spearman(self.log_n, chosen)
        ranges = self._ranges(chosen) if self.table.measured and not np.isnan(rho).all() else ""
        about = replace(about.noting(ranges), statistic="Spearman's rho with log eta/S, a seed")
        return seedwise.over_seeds(about, rho, rule, seedwise.FISHER)

    def _ranges(self, chosen: np.ndarray) -> str:
        def without(keep: np.ndarray) -> float:
            found = statistics.spearman(self.log_n, np.where(keep, chosen, np.nan))
            return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")

        low, high = statistics.leave_one_out(without, self._column("eta"), self._column("S"))
        return f"an eta or an S left out: {low:.2f} to {high:.2f}"

    def trained_note(self) -> str:
        """Says how many runs ended trained."""
        if not self.table.measured:
            return ""
        ended = self.values(LOSS)
        return f"{int((ended <= TRAINED).sum())} of {ended.size} runs trained"

    def partial(self, about: claims.Statement, values: np.ndarray, mask: np.ndarray) -> claims.Claim:
        loss, chosen = np.log(self.values(LOSS)), np.where(mask, values, np.nan)
        rho = statistics.partial_spearman(self.log_n, chosen, loss)
        about = replace(about, statistic="partial rank correlation with log eta/S given log training loss, a seed")
        return seedwise.over_seeds(about, rho, seedwise.Direction(-1, smallest=0.3), seedwise.FISHER)

    def exponent(self, about: claims.Statement, values: np.ndarray, mask: np.ndarray) -> claims.Claim:
        lrs, sizes = (np.log(self._column(factor).astype(float)) for factor in ("eta", "S"))
        fits = np.array([statistics.exponents(lrs, sizes, row) for row in np.where(mask, values, np.nan)])
        about = replace(
            about,
            statistic="g of log norm = c - p (log eta - g log S), least squares a seed (g = 1/2: the square-root rule)",
        )
        return seedwise.ratio_over_seeds(about, fits[:, 1], fits[:, 0], seedwise.Range(0.8, 1.25, confidence=0.95))


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
FEWER = replace(QUICK, lrs=(0.005, 0.02, 0.1), batch_sizes=(25, 100, 200, 500), seeds=3)
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
        *[line if line[0] != "5 seeds" else ("5 seeds", "3 seeds", "time") for line in REDUCTIONS],
    ],
)
