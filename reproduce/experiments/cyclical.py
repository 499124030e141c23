"""VGG-11 on cyclical schedules and constant ones, its curvature along the way: the runs of Figure 16 and Table 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle, exchange
from three_factors.reproduce.engine import claims, seedwise
from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.engine.contract.spec import Curvature, Keep, RunSpec, Watch
from three_factors.reproduce.engine.experiment import Experiment, Setting
from three_factors.reproduce.engine.judge.table import NOISE, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments.cycles import SMALLER
from three_factors.reproduce.experiments.measured import DEPTHS, measurements
from three_factors.reproduce.experiments.metrics import DIFFERENCES, LOSS, NORM, TEST, end
from three_factors.reproduce.experiments.subset import fitting, subset

if TYPE_CHECKING:
    import pandas as pd

DISCRETE_S, DISCRETE_ETA, TRIANGLE_ETA = "discrete S", "discrete eta", "triangle eta"
LOW_ETA, HIGH_ETA = "constant, low eta", "constant, high eta"
SCHEDULES = (DISCRETE_S, DISCRETE_ETA, TRIANGLE_ETA, LOW_ETA, HIGH_ETA)  # the order of the paper's panels
CYCLICAL = SCHEDULES[:3]
PHASES = "log norm at high noise less that at low noise"
IDS = {DISCRETE_S: "discrete_s", DISCRETE_ETA: "discrete_eta", TRIANGLE_ETA: "triangle_eta"}  # in claims


@dataclass(frozen=True)
class Size:
    """Everything that a scale changes. eta takes two values, S as well, 5 apart."""

    width: float
    train: int
    validation: int
    test: int
    epochs: int
    period: float
    lr: tuple[float, float]
    batch_size: tuple[int, int]
    every: int  # epochs between evaluations and measurements
    measured: int
    seeds: int
    augment: bool
    seed_sd: float = 0.2  # assumed for the power, before training; of a log norm


# Figure 16's caption and Section 4.2; epochs and the range of S are not stated there.
PAPER = Size(
    width=1.0,
    train=44_800,
    validation=5_000,
    test=10_000,
    epochs=300,
    period=15,
    lr=(0.001, 0.005),
    batch_size=(128, 640),
    every=3,  # a cycle of 15 is measured near its highest and at its lowest noise
    measured=500,  # as the caption has it
    seeds=5,
    augment=True,
)
QUICK = replace(
    PAPER,
    width=1 / 8,
    train=2_400,
    validation=500,
    test=2_000,
    epochs=12,
    period=4,
    lr=(0.01, 0.05),
    batch_size=(24, 120),
    every=2,
    measured=50,
    seeds=3,
    augment=False,
)
GPU = replace(PAPER, epochs=30, seeds=4)
SMOKE = replace(QUICK, width=1 / 32, train=240, validation=100, test=100, epochs=4, measured=50, seeds=1)
# The settings of `cycles`, whose criteria they meet; images and epochs between measurements by time alone.
# paper | quick | why
REDUCTIONS = [
    *[line if line[0] != "5 seeds" else ("5 seeds", "3 seeds", "time") for line in SMALLER],
    ("300 epochs, cycle 15", "12 epochs, cycle 4", "time; three whole cycles"),
    ("Hessian on 500 images", "50", "time"),
    ("10 000 test images", "2 000", "time"),
]
GPU_REDUCTIONS = [("300 epochs", "30 epochs", "time; two whole cycles"), ("5 seeds", "4 seeds", "time")]


def schedules(s: Size, lr: tuple[float, float], period: float) -> dict[str, NoiseSchedule]:
    """Returns the cyclical schedules with eta between `lr`, and S where that cycles. A cycle ends at low noise."""
    (low, high), (small, large) = lr, s.batch_size
    discrete = NoiseSchedule(high, Cyclic(high=large, low=small, period=period, phase=0.5))
    return {
        DISCRETE_S: discrete,
        DISCRETE_ETA: exchange(discrete),
        # A triangle cannot both start high and end low: it starts low, so that this cycle too ends at low noise.
        TRIANGLE_ETA: NoiseSchedule(Triangle(high=high, low=low, period=period), small),
    }


def run(s: Size, scale: Scale, source: Prepared, schedule: NoiseSchedule) -> RunSpec:
    """Returns the training on a schedule."""
    network = fitting(VGG11Network(width=s.width), source)
    data = subset(source, scale, s, augment=s.augment)
    return RunSpec(network, data, schedule, s.epochs, seed=0, evaluate_every=s.epochs)


def watched(spec: RunSpec, s: Size, scale: Scale) -> Setting:
    """Returns the same training with its curvature along the way; at its end what is too costly for that.

    Those are the trace, and the norm by finite differences, as the paper's.
    """
    measures = ("top_eigenvalue", "frobenius", "normalized_sharpness")
    watch = Watch(Curvature(s.measured, 250, measures, max_products=DEPTHS[scale].products), s.every)
    spec = replace(spec, evaluate_every=s.every, watch=watch, keep=Keep())
    return Setting(spec, measurements=measurements(spec, scale, s.measured))


class Cyclical(Experiment):
    """Three cyclical schedules and two constant ones."""

    scales = {"smoke": SMOKE, "quick": QUICK, "gpu": GPU, "paper": PAPER}
    reductions = {"quick": REDUCTIONS, "gpu": GPU_REDUCTIONS}

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        s = self.scales[scale]
        constant = {label: NoiseSchedule(lr, s.batch_size[0]) for label, lr in zip((LOW_ETA, HIGH_ETA), s.lr)}
        return {
            label: watched(run(s, scale, source, schedule), s, scale)
            for label, schedule in (schedules(s, s.lr, s.period) | constant).items()
        }

    def derive(self, rows: pd.DataFrame) -> dict[str, float]:
        apart = phases_apart(rows)
        return {} if apart is None else {PHASES: apart}

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws norms a third lower at high noise, and at matched loss on cyclical schedules; discrete ones alike."""
        return imagined(self.scales[scale], seeds, random)


def phases_apart(rows: pd.DataFrame) -> float | None:
    """Returns how the log norm differs between the phases of a run, with the trend of training taken out.

    Measurements of one phase in a row are averaged. Each such block that has a neighbour on both sides is compared with
    the straight line through the two, which belong to the other phase; the mean of high less low noise. None without
    such a block.
    """
    measured = rows.dropna(subset=[NORM])
    noise, norm = np.log(measured[NOISE].to_numpy()), np.log(measured[NORM].to_numpy())
    if not len(noise) or noise.max() - noise.min() < 0.1:
        return None
    high = noise > (noise.max() + noise.min()) / 2
    block = np.concatenate([[0], np.cumsum(high[1:] != high[:-1])])
    epoch = measured.index.to_numpy(dtype=float)
    at, means, is_high = (
        np.array([values[block == i].mean() for i in range(block[-1] + 1)]) for values in (epoch, norm, high)
    )
    if len(means) < 3:
        return None
    expected = [np.interp(at[i], at[[i - 1, i + 1]], means[[i - 1, i + 1]]) for i in range(1, len(means) - 1)]
    apart = (means[1:-1] - expected) * np.where(is_high[1:-1] > 0.5, 1, -1)
    return float(apart.mean())


def at_matched_loss(table: Evidence, cyclical: str, baseline: str) -> np.ndarray:
    """Returns the norm of one run over that of another at the same training loss, geometric mean over points; (seeds,).

    The baseline's log norm is interpolated in log loss; points whose loss the baseline does not have are left out, and
    a seed without any is NaN.
    """
    both = sorted(set(table.seeds(cyclical)) & set(table.seeds(baseline)))
    found = []
    for seed in both:
        (loss, norm), (base_loss, base_norm) = (_points(table, label, seed) for label in (cyclical, baseline))
        order = np.argsort(base_loss)
        inside = (loss >= base_loss.min()) & (loss <= base_loss.max())
        there = np.interp(loss[inside], base_loss[order], base_norm[order])
        found.append(float(np.exp((norm[inside] - there).mean())) if inside.any() else np.nan)
    return np.array(found)


def _points(table: Evidence, label: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns log loss and log norm where the norm was measured."""
    epochs, _, norm = table.curves(label, NORM, [seed])
    every, _, loss = table.curves(label, LOSS, [seed])
    return np.log(np.maximum(loss[0][np.isin(every, epochs)], 1e-12)), np.log(norm[0])


def tension(table: Evidence) -> list[claims.Claim]:
    """Claims both what Table 1's caption has, discrete S much wider than discrete eta, and what the theory has: alike.

    The theory has them equal at equal eta/S. Beside each, as controls: by finite differences, and at equal loss.
    """
    ends, differences = (table.grid([DISCRETE_S, DISCRETE_ETA], metric) for metric in (NORM, end(DIFFERENCES)))
    valid = ~np.isnan(ends).all(axis=1)  # seeds of Table 1's tuning have neither
    plain, by_differences = (values[valid, 0] / values[valid, 1] for values in (ends, differences))
    matched = at_matched_loss(table, DISCRETE_S, DISCRETE_ETA)
    over = f"of '{DISCRETE_S}' over that of '{DISCRETE_ETA}'"
    statistic = f"end norm {over}, a seed"
    wider, alike = "discrete S ends much wider than discrete eta", "discrete S and discrete eta end equally wide"
    much, equal = seedwise.Direction(-1, smallest=0.0, null=1 / 1.25), seedwise.Range(1 / 1.25, 1.25)
    found = []
    for name, rule, text, paper in (
        ("tension.wider", much, wider, "13918 against 36470"),
        ("tension.alike", equal, alike, "theory, at equal eta/S"),
    ):
        by, at = f"{text}, by finite differences", f"{text}, at the same training loss"
        at_equal_loss = f"norm {over} at equal training loss, geometric mean, a seed"
        ways = (
            (plain, claims.Statement(name, text, statistic, paper=paper)),
            (by_differences, claims.Statement(f"{name}.differences", by, f"that {statistic}", control_of=name)),
            (matched, claims.Statement(f"{name}.equal_loss", at, at_equal_loss, control_of=name)),
        )
        found += [seedwise.over_seeds(about, ratio, rule, seedwise.LOG) for ratio, about in ways]
    return found


def imagined(s: Size, seeds: int, random: np.random.Generator) -> SyntheticTable:
    """Draws the table of `Cyclical.imagined`."""
    finals, series = {}, {}
    points = s.epochs // s.every
    for label in SCHEDULES:
        lower = np.log(1.5) if label in CYCLICAL else 0.0
        finals[label] = {
            PHASES: -np.log(1.5) + random.normal(0, s.seed_sd, seeds),
            NORM: np.exp(random.normal(0, s.seed_sd, seeds)),
            end(DIFFERENCES): np.exp(random.normal(0, s.seed_sd, seeds)),
            TEST: 0.8 + random.normal(0, 0.01, seeds),
        }
        loss = np.linspace(0, -2, points) + np.zeros((seeds, 1))
        noise = random.normal(0, s.seed_sd, (seeds, points))
        series[label] = {LOSS: np.exp(loss), NORM: np.exp(3 + 0.5 * loss - lower + noise)}
    return SyntheticTable(finals, series)


CYCLICAL_SCHEDULES = Cyclical()
