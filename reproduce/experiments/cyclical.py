"""VGG-11 on cyclical schedules and constant ones, its curvature along the way: the runs of Figure 16 and Table 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle, exchange
from three_factors.reproduce.engine import claims, seedwise, statistics
from three_factors.reproduce.engine.contract.ends import NEAR
from three_factors.reproduce.engine.contract.measurements import Curvature, Watch
from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.engine.contract.spec import Keep, RunSpec
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
    """Holds everything that a scale changes. eta takes two values, S as well, 5 apart."""

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
    seeds=4,
    augment=False,
)
GPU = replace(PAPER, epochs=30, seeds=4)
SMOKE = replace(QUICK, width=1 / 32, train=240, validation=100, test=100, epochs=4, measured=50, seeds=1)
# The settings of `cycles`, whose criteria they meet; images and epochs between measurements by time alone.
# paper | quick | why
REDUCTIONS = [
    *SMALLER,
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
    # The training loss is that of the Hessian's own images: at other ones' it would tell phases apart that are alike.
    data = subset(source, scale, s, augment=s.augment, examples=s.measured)
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

    def derive(self, rows: pd.DataFrame, spec: RunSpec) -> dict[str, float]:
        apart = phases_apart(rows)
        return {} if apart is None else {PHASES: apart}

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws norms a third lower at high noise, and at matched loss on cyclical schedules; discrete ones alike."""
        return imagined(self.scales[scale], seeds, random)


def phases_apart(rows: pd.DataFrame) -> float | None:
    """Returns c of log norm = s(log loss) + c·phase within a run, s cubic: 1 at high noise, 0 at low.

    High and low noise are eta/S within 1.5 of the highest and of the lowest; the loss is that of the same weights on
    the training subset. None where nothing varies, where fewer than a third of the high-noise points lie within the
    losses at low noise, or with too few points for the fit: the loss then says all of it.
    """
    measured = rows.dropna(subset=[NORM, LOSS])
    noise, norm, loss = (measured[name].to_numpy(dtype=float) for name in (NOISE, NORM, LOSS))
    if not len(noise) or noise.max() < NEAR**2 * noise.min():
        return None
    high, low = noise >= noise.max() / NEAR, noise <= noise.min() * NEAR
    x, y = np.log(np.maximum(loss, 1e-12)), np.log(norm)
    within = (x[high] >= x[low].min()) & (x[high] <= x[low].max())
    if within.mean() < 1 / 3:
        return None
    there = high | low
    u = (x[there] - x[there].mean()) / max(float(np.ptp(x[there])), 1e-12)
    design = np.column_stack([high[there].astype(float), u[:, None] ** np.arange(4)])
    if len(u) <= design.shape[1]:
        return None
    solution, _, rank, _ = np.linalg.lstsq(design, y[there], rcond=None)
    return float(solution[0]) if rank == design.shape[1] else None


def at_matched_loss(table: Evidence, cyclical: str, baseline: str) -> np.ndarray:
    """Returns the norm of one run over that of another at the same training loss, geometric mean over points; (seeds,).

    The baseline's log norm is interpolated in log loss; points whose loss the baseline does not have are left out, and
    a seed without any, or without one of the runs, is NaN.
    """
    known = [set(table.seeds(label)) for label in (cyclical, baseline)]
    found = []
    for seed in table.replicates([cyclical, baseline]):
        if not all(seed in of for of in known):
            found.append(np.nan)
            continue
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


def norm_by_phase(table: Evidence) -> list[claims.Finding]:
    """States that the norm is lower at high noise, at equal loss: a mean over the cyclical schedules, and each."""
    statistic = "log norm at high noise less that at low noise, at equal training loss (cubic) within a run, a seed"
    rule = seedwise.Direction(-1, smallest=0.1)
    each = {label: table.grid([label], PHASES)[:, 0] for label in CYCLICAL}
    about = claims.Statement(
        "phases",
        "a smaller norm at the high noise of a cycle than at its low noise",
        f"{statistic}, mean over the three schedules",
        quote="cyclical schedules oscillate between sharp and wide regions",
    )
    found = [seedwise.over_seeds(about, statistics.mean_of([*each.values()]), rule)]
    for label, values in each.items():
        one = claims.Statement(f"phases.{IDS[label]}", f"the same; {label}", statistic)
        found.append(seedwise.over_seeds(one, values, rule))
    return found


def smaller_at_matched_loss(table: Evidence) -> list[claims.Finding]:
    """States that a cyclical schedule's norm is smaller than the constants' at the same loss."""
    rule = seedwise.Direction(-1, smallest=0.1, null=1.0)
    logs = {
        (label, constant): np.log(at_matched_loss(table, label, constant))
        for label in CYCLICAL
        for constant in (LOW_ETA, HIGH_ETA)
        if {label, constant} <= set(table.labels)
    }
    about = claims.Statement(
        "matched_loss",
        "at the same training loss a smaller norm on a cyclical schedule than on constant eta",
        "norm over that of a constant run at equal training loss, geometric mean over points, schedules and both "
        "constants, a seed",
        quote="cyclical schedules reach wider regions at the same loss",
    )
    if not logs:
        return [claims.Finding(about, rule, None)]
    found = [seedwise.over_seeds(about, np.exp(statistics.mean_of([*logs.values()])), rule, seedwise.LOG)]
    for (label, constant), values in logs.items():
        own = "low" if constant == LOW_ETA else "high"
        one = claims.Statement(
            f"matched_loss.{IDS[label]}.{own}",
            f"the same; {label} over '{constant}'",
            "norm over that of the constant run at equal training loss, geometric mean, a seed",
        )
        found.append(seedwise.over_seeds(one, np.exp(values), rule, seedwise.LOG))
    return found


def tension(table: Evidence) -> list[claims.Finding]:
    """States both what Table 1's caption has, discrete S much wider than discrete eta, and what the theory has: alike.

    The theory has them equal at equal eta/S. Beside each, as controls: by finite differences, and at equal loss.
    """
    ends, differences = (table.grid([DISCRETE_S, DISCRETE_ETA], metric) for metric in (NORM, end(DIFFERENCES)))
    plain, by_differences = (values[:, 0] / values[:, 1] for values in (ends, differences))
    matched = at_matched_loss(table, DISCRETE_S, DISCRETE_ETA)
    constants = np.log(table.grid([LOW_ETA, HIGH_ETA], NORM))
    shows = seedwise.gate(constants[:, 0] - constants[:, 1])  # five times the noise, a smaller norm
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
        gate = shows if rule is equal else None
        ways = (
            (plain, claims.Statement(name, text, statistic, paper=paper)),
            (by_differences, claims.Statement(f"{name}.differences", by, f"that {statistic}", control_of=name)),
            (matched, claims.Statement(f"{name}.equal_loss", at, at_equal_loss, control_of=name)),
        )
        found += [seedwise.over_seeds(about, values, rule, seedwise.LOG, gate=gate) for values, about in ways]
    return found


def imagined(s: Size, seeds: int, random: np.random.Generator) -> SyntheticTable:
    """Draws the table of `Cyclical.imagined`."""
    finals, series = {}, {}
    points = s.epochs // s.every
    for label in SCHEDULES:
        lower = np.log(1.5) if label in CYCLICAL else np.log(2.0) if label == HIGH_ETA else 0.0
        finals[label] = {
            PHASES: -np.log(1.5) + random.normal(0, s.seed_sd, seeds),
            NORM: np.exp(-lower + random.normal(0, s.seed_sd, seeds)),
            end(DIFFERENCES): np.exp(random.normal(0, s.seed_sd, seeds)),
            TEST: 0.8 + random.normal(0, 0.01, seeds),
        }
        loss = np.linspace(0, -2, points) + np.zeros((seeds, 1))
        noise = random.normal(0, s.seed_sd, (seeds, points))
        series[label] = {LOSS: np.exp(loss), NORM: np.exp(3 + 0.5 * loss - lower * (label in CYCLICAL) + noise)}
    return SyntheticTable(finals, series)


CYCLICAL_SCHEDULES = Cyclical()
