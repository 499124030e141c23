"""MLPs on FashionMNIST over a grid of eta and S, and the Hessian where they end: the runs of Figures 1 and 9."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine import plots
from three_factors.reproduce.engine.claims import Claim, unjudged
from three_factors.reproduce.engine.data import subset
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.engine.seedwise import FISHER, Direction, Range, over_seeds, ratio_over_seeds
from three_factors.reproduce.engine.spec import Curvature, Keep, Measurement, MLPNetwork, RunSpec
from three_factors.reproduce.engine.statistics import exponents, leave_one_out, partial_spearman, spearman
from three_factors.reproduce.engine.table import NORMALISED, STABILITY, WEIGHT_NORM, Evidence, Imagined, Table
from three_factors.reproduce.experiments import equal_loss

NORM, ACCURACY, LOSS = "end hessian/frobenius", "val/accuracy", "train_subset/loss"
TRAINED = 0.1  # a run counts as trained if its loss on clean training images ends at most here: PAPER's "≈ 100 %"


@dataclass(frozen=True)
class Settings:
    """Everything that a scale changes."""

    train: int
    validation: int
    test: int
    epochs: int
    lrs: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    seeds: int
    measured: int  # training examples whose Hessian is measured
    evaluate_every: int = 1
    seed_sd: float = 0.2  # assumed for the power, before training; of a cell's log norm


def label(lr: float, batch_size: int, network: str = "") -> str:
    return f"{network}{', ' if network else ''}eta {lr:g}, S {batch_size}"


class NoiseGrid:
    """An experiment: every network on every cell (eta, S).

    Args:
        networks: name -> the network at each scale. A single one may be named "".
    """

    def __init__(
        self,
        networks: dict[str, dict[Scale, MLPNetwork]],
        settings: dict[Scale, Settings],
        reductions: list[tuple[str, str, str]],
    ) -> None:
        self.networks, self.SETTINGS, self.REDUCTIONS = networks, settings, reductions
        self.place = {
            label(lr, size, name): (name, lr, size)
            for s in settings.values() for name in networks for lr in s.lrs for size in s.batch_sizes
        }  # fmt: skip

    def runs(self, scale: Scale, source: Prepared) -> dict[str, RunSpec]:
        s = self.SETTINGS[scale]
        data = subset(source, scale, train=s.train, validation=s.validation, test=s.test)
        features = source.channels * source.size**2
        keep = Keep(end=True, loss_levels=equal_loss.LEVELS)

        def run(network: MLPNetwork, lr: float, size: int) -> RunSpec:
            fitting = replace(network, in_features=features, num_classes=source.classes)
            return RunSpec(
                fitting, data, NoiseSchedule(lr, size), s.epochs, seed=0, keep=keep, evaluate_every=s.evaluate_every
            )

        return {
            label(lr, size, name): run(network[scale], lr, size)
            for name, network in self.networks.items() for lr in s.lrs for size in s.batch_sizes
        }  # fmt: skip

    def measurements(self, scale: Scale, label: str) -> tuple[Measurement, ...]:
        end = Curvature(self.SETTINGS[scale].measured, 250)
        return Measurement(end), equal_loss.measurement(end)

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> Imagined:
        """A world in which only eta/S matters: norm ∝ n^-1/2, a percent of accuracy per factor e of n."""
        s, finals = self.SETTINGS[scale], {}
        for name in self.networks:
            for lr in s.lrs:
                for size in s.batch_sizes:
                    log_n = np.log(lr / size)
                    noise = partial(random.normal, 0.0, s.seed_sd, seeds)
                    norms = equal_loss.imagined(np.exp(-0.5 * log_n + noise()), random)
                    finals[label(lr, size, name)] = norms | {
                        NORM: np.exp(-0.5 * log_n + noise()),
                        "end hessian/finite_difference": np.exp(-0.5 * log_n + noise()),
                        "end hessian/normalized_sharpness": np.exp(-0.5 * log_n + noise()),
                        ACCURACY: 0.85 + 0.01 * (log_n + noise()),
                        LOSS: np.exp(-4 - 0.5 * log_n - 0.5 * np.log(s.batch_sizes[0] / s.lrs[-1]) + noise()),
                    }
        return Imagined(finals)

    # -- what is said about a grid

    def weaker(self, table: Evidence, network: str, reference: str, claim: str) -> Claim:
        """log eta/S and log norm correlate less than in another network, over the cells trained in both."""
        grids = [self._grid(table, name) for name in (network, reference)]
        if not all(grid.labels for grid in grids):
            return unjudged(claim, "Fisher's z of rho, less the reference's", 0, "though weaker")
        shared = [cell for cell in grids[0].cells if cell in grids[1].cells]
        grids = [grid.only(shared) for grid in grids]
        both = np.logical_and(*[grid.values(LOSS) <= TRAINED for grid in grids])
        z = [FISHER.to(spearman(grid.log_n, np.where(both, np.log(grid.values(NORM)), np.nan))) for grid in grids]
        return over_seeds(
            z[0] - z[1], Direction(1, smallest=0.3), claim=claim, note=grids[0].trained_note(), paper="though weaker",
            statistic=f"Fisher's z of rho(log eta/S, log norm), '{network}' minus '{reference}', a seed",
        )  # fmt: skip

    def _grid(self, table: Evidence, network: str) -> _Grid:
        labels = [name for name in table.labels if self.place[name][0] == network]
        return _Grid(table, labels, [self.place[name][1:] for name in labels])

    def claims(self, table: Evidence, network: str = "", norm_paper: str = "", accuracy_paper: str = "") -> list[Claim]:
        """The claims of Figure 1 about one network: over the trained cells, over all, and with confounds taken away."""
        grid = self._grid(table, network)
        of = f"{network}: " if network else ""
        if not grid.labels:
            return []
        everywhere, trained = np.ones(grid.shape, dtype=bool), grid.values(LOSS) <= TRAINED
        within = f"cells trained to a loss of {TRAINED:g}"
        norm, accuracy = np.log(grid.values(NORM)), grid.values(ACCURACY)
        smaller, higher = f"{of}higher eta/S, smaller Hessian norm", f"{of}higher eta/S, higher validation accuracy"
        ratio = f"{of}only the ratio counts: norm ~ (eta/S^g)^-p with g = 1"
        found = [
            grid.correlation(
                norm, trained, -1, claim=f"{smaller}; {within}", paper=norm_paper or None, note=grid.trained_note()
            ),
            grid.correlation(norm, everywhere, -1, claim=f"{smaller}; all cells"),
            grid.correlation(accuracy, trained, 1, claim=f"{higher}; {within}", paper=accuracy_paper or None),
            grid.correlation(accuracy, everywhere, 1, claim=f"{higher}; all cells"),
            grid.exponent(norm, trained, claim=f"{ratio}; {within}"),
            grid.exponent(norm, everywhere, claim=f"{ratio}; all cells", control_of=ratio),
            grid.partial(norm, everywhere, claim=f"{smaller}, at equal training loss; all cells", control_of=smaller),
        ]  # fmt: skip
        for level in equal_loss.LEVELS:
            rho, note = equal_loss.correlation(table, grid.labels, grid.log_n, level)
            found.append(
                over_seeds(
                    rho, Direction(-1, smallest=0.3), scale=FISHER, statistic=equal_loss.STATISTIC, note=note,
                    claim=f"{smaller} at the first crossing of a loss of {level:g}", control_of=smaller,
                )
            )  # fmt: skip
        normalised, differences = (
            np.log(grid.values(f"end hessian/{metric}")) for metric in ("normalized_sharpness", "finite_difference")
        )
        claim = f"{of}higher eta/S, smaller scale-normalised sharpness; {within}"
        found.append(grid.correlation(normalised, trained, -1, claim=claim, control_of=smaller))
        claim = f"{smaller} by finite differences, as the paper's; {within}"
        found.append(grid.correlation(differences, trained, -1, claim=claim, control_of=smaller))
        return found


@dataclass(frozen=True)
class _Grid:
    """One network's cells in a table: values are (seeds, cells)."""

    table: Evidence
    labels: list[str]
    cells: list[tuple[float, int]]

    def only(self, cells: list[tuple[float, int]]) -> _Grid:
        """These of its cells, in this order."""
        place = dict(zip(self.cells, self.labels))
        return _Grid(self.table, [place[cell] for cell in cells], cells)

    @property
    def log_n(self) -> np.ndarray:
        return np.array([np.log(lr / size) for lr, size in self.cells])

    @property
    def shape(self) -> tuple[int, int]:
        return self.values(LOSS).shape[0], len(self.labels)

    def values(self, metric: str) -> np.ndarray:
        return self.table.grid(self.labels, metric)

    def correlation(
        self, values: np.ndarray, mask: np.ndarray, sign: int, *, claim: str, paper: str | None = None,
        control_of: str = "", note: str = "",
    ) -> Claim:  # fmt: skip
        """rho(log n, values) a seed, Fisher's z over seeds; with its range when a row or a column is left out."""
        chosen = np.where(mask, values, np.nan)
        rho = spearman(self.log_n, chosen)
        ranges = self._ranges(chosen) if isinstance(self.table, Table) and not np.isnan(rho).all() else ""
        return over_seeds(
            rho, Direction(sign, smallest=0.3), claim=claim, statistic="Spearman's rho with log eta/S, a seed",
            scale=FISHER, paper=paper, note="; ".join(filter(None, [note, ranges])), control_of=control_of,
        )  # fmt: skip

    def _ranges(self, chosen: np.ndarray) -> str:
        lrs, sizes = (np.array(column) for column in zip(*self.cells))

        def without(keep: np.ndarray) -> float:
            found = spearman(self.log_n, np.where(keep, chosen, np.nan))
            return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")

        low, high = leave_one_out(without, lrs, sizes)
        return f"an eta or an S left out: {low:.2f} to {high:.2f}"

    def trained_note(self) -> str:
        """How many runs ended trained, for networks of which not all do."""
        if not isinstance(self.table, Table):
            return ""
        ended = self.values(LOSS)
        return f"{int((ended <= TRAINED).sum())} of {ended.size} runs trained"

    def partial(self, values: np.ndarray, mask: np.ndarray, *, claim: str, control_of: str) -> Claim:
        loss, chosen = np.log(self.values(LOSS)), np.where(mask, values, np.nan)
        rho = partial_spearman(self.log_n, chosen, loss)
        return over_seeds(
            rho, Direction(-1, smallest=0.3), claim=claim, scale=FISHER, control_of=control_of,
            statistic="partial rank correlation with log eta/S given log training loss, a seed",
        )  # fmt: skip

    def exponent(self, values: np.ndarray, mask: np.ndarray, *, claim: str, control_of: str = "") -> Claim:
        lrs, sizes = (np.log(np.array(column, dtype=float)) for column in zip(*self.cells))
        fits = np.array([exponents(lrs, sizes, row) for row in np.where(mask, values, np.nan)])
        return ratio_over_seeds(
            fits[:, 1], fits[:, 0], Range(0.8, 1.25, confidence=0.95), claim=claim, control_of=control_of,
            statistic="g of log norm = c - p (log eta - g log S), least squares a seed (g = 1/2: the square-root rule)",
        )  # fmt: skip


CROSSING = equal_loss.at(0.1)
WORDS = {
    NORM: "Hessian norm (Frobenius)",
    ACCURACY: "validation accuracy (%)",
    CROSSING: "Hessian norm where the loss first reaches 0.1",
    f"end {NORMALISED}": plots.WORDS[NORMALISED],
    f"end {STABILITY}": plots.WORDS[STABILITY],
    f"end {WEIGHT_NORM}": plots.WORDS[WEIGHT_NORM],
}
BESIDE = (CROSSING, f"end {NORMALISED}", f"end {STABILITY}", f"end {WEIGHT_NORM}")


def draw(
    table: Table, axes: Any, grid: NoiseGrid, network: str = "", title: str = "",
    metrics: tuple[str, ...] = (NORM, ACCURACY),
) -> None:  # fmt: skip
    """x = eta/S; a panel for each metric of `WORDS`, a point a cell."""
    labels = [name for name in table.labels if grid.place[name][0] == network]
    places = [grid.place[name] for name in labels]
    trained = table.grid(labels, LOSS) <= TRAINED
    for panel, metric in zip(axes, metrics):
        values = table.grid(labels, metric) * (100 if metric == ACCURACY else 1)
        for size, colour in plots.shades(sorted({place[2] for place in places})).items():
            chosen = [i for i, place in enumerate(places) if place[2] == size]
            n = np.array([places[i][1] / size for i in chosen])
            plots.points(panel, n, values[:, chosen], trained[:, chosen].mean(0) > 0.5, colour, f"S {size}")
        panel.set(xlabel="η/S", ylabel=WORDS[metric], title=title)
        if np.isnan(values).all():
            ended = not np.isnan(table.grid(labels, LOSS)).all()
            plots.nothing(
                panel, "no run got there" if ended else "no run trained: every one\nended above its first loss"
            )
            continue
        plots.log_scale(panel.xaxis)
        if metric != ACCURACY:
            plots.log_scale(panel.yaxis)
        if STABILITY in metric:
            plots.edge_of_stability(panel)
        panel.scatter([], [], s=26, facecolors="white", edgecolors="#555555", label=f"hollow: loss above {TRAINED:g}")
        plots.legend_below(panel, columns=4)


def draw_beside(table: Table, axes: Any, grid: NoiseGrid, networks: tuple[str, ...] = ("",)) -> None:
    """What the norm alone does not tell: at equal loss, with the weights' scale taken out, eta·lambda_max, |theta|."""
    if len(networks) == 1:
        draw(table, axes(2, 2), grid, *networks, metrics=BESIDE)
        return
    panels = axes(len(BESIDE), len(networks))
    for column, network in enumerate(networks):
        draw(table, panels[column :: len(networks)], grid, network, title=network, metrics=BESIDE)


# The paper's ranges, Section 4.1; which values in them is not stated there.
PAPER = Settings(
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
SMOKE = replace(
    QUICK, train=400, validation=100, test=100, epochs=2, lrs=(0.05, 0.1), batch_sizes=(25, 50, 100),
    seeds=1, measured=50,
)  # fmt: skip

SCALES: dict[Scale, Settings] = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER}
REDUCTIONS = [
    ("50 000 training images", "3 000", "time; divisible by every S"),
    ("200 epochs", "20 epochs", "time; cells at low eta/S then end undertrained, drawn hollow"),
    ("5 seeds", "4 seeds", "time"),
    ("Hessian on 2 000 images", "250", "time"),
    ("10 000 validation images", "1 000", "time"),
]
SHALLOW: dict[Scale, MLPNetwork] = {
    "smoke": MLPNetwork(hidden=(16,) * 4, batch_norm=True),
    "quick": MLPNetwork(hidden=(128,) * 4, batch_norm=True),
    "paper": MLPNetwork(hidden=(512,) * 4, batch_norm=True),  # the paper says 4 layers; their width is our choice
}
BATCH_NORM_MLP = NoiseGrid(
    {"": SHALLOW}, SCALES, [("4 hidden layers of 512", "of 128", "11 times less arithmetic"), *REDUCTIONS]
)

GOOD, BAD, REFERENCE = "good init", "bad init", "Fig. 1's MLP"
FEWER = replace(QUICK, lrs=(0.005, 0.02, 0.1), batch_sizes=(25, 100, 200, 500), seeds=3)
DEEP_MLP = NoiseGrid(
    {
        GOOD: dict.fromkeys(SCALES, MLPNetwork(hidden=(50,) * 20)),
        # Neelakantan et al.'s worst initialisation, all zeros, does not train; the paper does not say which it took.
        BAD: dict.fromkeys(SCALES, MLPNetwork(hidden=(50,) * 20, init_std=0.1)),
        REFERENCE: SHALLOW,
    },
    {"smoke": SMOKE, "quick": FEWER, "paper": PAPER},
    [
        ("5 eta x 6 S", "3 x 4", "time: twenty layers take three times as long"),
        *[line if line[0] != "5 seeds" else ("5 seeds", "3 seeds", "time") for line in REDUCTIONS],
    ],
)
