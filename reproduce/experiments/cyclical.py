"""VGG-11 on cyclical schedules and constant ones, its curvature along the way: the runs of Figure 16 and Table 1."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Triangle, exchange
from three_factors.reproduce.engine.claims import Claim
from three_factors.reproduce.engine.data import image_size, subset
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.engine.seedwise import LOG, Direction, Range, over_seeds
from three_factors.reproduce.engine.spec import Curvature, Keep, Measurement, RunSpec, VGG11Network, Watch
from three_factors.reproduce.engine.table import NOISE, Evidence, Imagined
from three_factors.reproduce.experiments.cycles import SMALLER

DISCRETE_S, DISCRETE_ETA, TRIANGLE_ETA = "discrete S", "discrete eta", "triangle eta"
LOW_ETA, HIGH_ETA = "constant, low eta", "constant, high eta"
ARMS = (DISCRETE_S, DISCRETE_ETA, TRIANGLE_ETA, LOW_ETA, HIGH_ETA)  # the order of the paper's panels
CYCLICAL = ARMS[:3]
NORM, LOSS = "hessian/frobenius", "train_subset/loss"
DIFFERENCES, TRACE = "end hessian/finite_difference", "end hessian/trace"
PHASES = "log norm at high noise less that at low noise"


@dataclass(frozen=True)
class Settings:
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
PAPER = Settings(
    width=1.0,
    train=44_800,
    validation=5_000,
    test=10_000,
    epochs=300,
    period=15,
    lr=(0.001, 0.005),
    batch_size=(128, 640),
    every=3,  # a cycle of 15 is measured near its highest and at its lowest noise
    measured=2_000,
    seeds=5,
    augment=True,
)
QUICK = replace(
    PAPER, width=1 / 8, train=2_400, validation=500, test=2_000, epochs=12, period=4, lr=(0.01, 0.05),
    batch_size=(24, 120), every=2, measured=50, seeds=3, augment=False,
)  # fmt: skip
SMOKE = replace(QUICK, width=1 / 32, train=240, validation=100, test=100, epochs=4, measured=50, seeds=1)
SETTINGS: dict[Scale, Settings] = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER}
# The settings of `cycles`, whose criteria they meet; images and epochs between measurements by time alone.
# paper | quick | why
REDUCTIONS = [
    *[line if line[0] != "5 seeds" else ("5 seeds", "3 seeds", "time") for line in SMALLER],
    ("300 epochs, cycle 15", "12 epochs, cycle 4", "time; three whole cycles"),
    ("Hessian on 2 000 images", "50", "time"),
    ("10 000 test images", "2 000", "time"),
]


def schedules(s: Settings, lr: tuple[float, float], period: float) -> dict[str, NoiseSchedule]:
    """The cyclical arms with eta between `lr`, and S where it is S that cycles. A cycle ends at low noise."""
    (low, high), (small, large) = lr, s.batch_size
    discrete = NoiseSchedule(high, Cyclic(high=large, low=small, period=period, phase=0.5))
    return {
        DISCRETE_S: discrete,
        DISCRETE_ETA: exchange(discrete),
        # A triangle cannot both start high and end low: it starts low, so that this cycle too ends at low noise.
        TRIANGLE_ETA: NoiseSchedule(Triangle(high=high, low=low, period=period), small),
    }


def run(s: Settings, scale: Scale, source: Prepared, schedule: NoiseSchedule) -> RunSpec:
    image_size(source, 32)
    data = subset(source, scale, train=s.train, validation=s.validation, test=s.test, augment=s.augment)
    network = VGG11Network(width=s.width, in_channels=source.channels, num_classes=source.classes)
    return RunSpec(network, data, schedule, s.epochs, seed=0, evaluate_every=s.epochs)


def watched(spec: RunSpec, s: Settings) -> RunSpec:
    """The same training, evaluated and with its curvature along the way; its end is kept for `at_the_end`."""
    measures = ("top_eigenvalue", "frobenius", "normalized_sharpness")
    watch = Watch(Curvature(s.measured, 250, measures=measures), s.every)
    return replace(spec, evaluate_every=s.every, watch=watch, keep=Keep())


def at_the_end(s: Settings) -> tuple[Measurement, ...]:
    """What is too costly along the way: the trace, and the norm by finite differences, as the paper's."""
    return (Measurement(Curvature(s.measured, 250)),)


def measurements(scale: Scale, label: str) -> tuple[Measurement, ...]:
    return at_the_end(SETTINGS[scale])


def runs(scale: Scale, source: Prepared) -> dict[str, RunSpec]:
    """label -> the run of seed 0; other seeds differ in `seed` alone."""
    s = SETTINGS[scale]
    constant = {label: NoiseSchedule(lr, s.batch_size[0]) for label, lr in zip((LOW_ETA, HIGH_ETA), s.lr)}
    return {
        label: watched(run(s, scale, source, schedule), s)
        for label, schedule in (schedules(s, s.lr, s.period) | constant).items()
    }


def derive(rows: pd.DataFrame) -> dict[str, float]:
    """How the log norm differs between the phases of a run, with the trend of training taken out.

    Measurements of one phase in a row are averaged. Each such block that has a neighbour on both sides is compared with
    the straight line through the two, which belong to the other phase; the mean of high less low noise.
    """
    measured = rows.dropna(subset=[NORM])
    noise, norm = np.log(measured[NOISE].to_numpy()), np.log(measured[NORM].to_numpy())
    if not len(noise) or noise.max() - noise.min() < 0.1:
        return {}
    high = noise > (noise.max() + noise.min()) / 2
    block = np.concatenate([[0], np.cumsum(high[1:] != high[:-1])])
    epoch = measured.index.to_numpy(dtype=float)
    at, means, is_high = (
        np.array([values[block == i].mean() for i in range(block[-1] + 1)]) for values in (epoch, norm, high)
    )
    if len(means) < 3:
        return {}
    expected = [np.interp(at[i], at[[i - 1, i + 1]], means[[i - 1, i + 1]]) for i in range(1, len(means) - 1)]
    apart = (means[1:-1] - expected) * np.where(is_high[1:-1] > 0.5, 1, -1)
    return {PHASES: float(apart.mean())}


def at_matched_loss(table: Evidence, cyclical: str, baseline: str) -> np.ndarray:
    """Norm of one run over that of another at the same training loss, geometric mean over points; (seeds,).

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
    """log loss and log norm where the norm was measured."""
    epochs, _, norm = table.curves(label, NORM, [seed])
    every, _, loss = table.curves(label, LOSS, [seed])
    return np.log(np.maximum(loss[0][np.isin(every, epochs)], 1e-12)), np.log(norm[0])


def tension(table: Evidence) -> list[Claim]:
    """Table 1's caption has discrete S much wider than discrete eta; at equal eta/S the theory has them equal."""
    ends, differences = (table.grid([DISCRETE_S, DISCRETE_ETA], metric) for metric in (NORM, DIFFERENCES))
    there = ~np.isnan(ends).all(axis=1)  # seeds of Table 1's tuning have neither
    ends, differences = ends[there], differences[there]
    over = f"of '{DISCRETE_S}' over that of '{DISCRETE_ETA}'"
    wider, alike = "discrete S ends much wider than discrete eta", "discrete S and discrete eta end equally wide"
    much, equal = Direction(-1, smallest=0.0, null=1 / 1.25), Range(1 / 1.25, 1.25)
    found = []
    for rule, claim, paper in ((much, wider, "13918 against 36470"), (equal, alike, "theory, at equal eta/S")):
        ways = (
            (ends[:, 0] / ends[:, 1], "", f"end norm {over}, a seed"),
            (differences[:, 0] / differences[:, 1], ", by finite differences", f"that end norm {over}, a seed"),
            (
                at_matched_loss(table, DISCRETE_S, DISCRETE_ETA), ", at the same training loss",
                f"norm {over} at equal training loss, geometric mean, a seed",
            ),
        )  # fmt: skip
        for ratio, words, statistic in ways:
            found.append(
                over_seeds(
                    ratio, rule, scale=LOG, statistic=statistic, claim=claim + words, paper=None if words else paper,
                    control_of=claim if words else "",
                )
            )  # fmt: skip
    return found


def imagined(scale: Scale, seeds: int, random: np.random.Generator) -> Imagined:
    """Norms a third lower at high noise; at matched loss a third lower on cyclical schedules; discrete ones alike."""
    s = SETTINGS[scale]
    finals, series = {}, {}
    points = s.epochs // s.every
    for label in ARMS:
        lower = np.log(1.5) if label in CYCLICAL else 0.0
        finals[label] = {
            PHASES: -np.log(1.5) + random.normal(0, s.seed_sd, seeds),
            NORM: np.exp(random.normal(0, s.seed_sd, seeds)),
            DIFFERENCES: np.exp(random.normal(0, s.seed_sd, seeds)),
            "test/accuracy": 0.8 + random.normal(0, 0.01, seeds),
        }
        loss = np.linspace(0, -2, points) + np.zeros((seeds, 1))
        noise = random.normal(0, s.seed_sd, (seeds, points))
        series[label] = {LOSS: np.exp(loss), NORM: np.exp(3 + 0.5 * loss - lower + noise)}
    return Imagined(finals, series)
