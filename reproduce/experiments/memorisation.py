"""MLPs on MNIST with a part of the training labels random: the runs of Figures 5, 14 and 15."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.claims import Claim
from three_factors.reproduce.engine.data import subset
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.engine.seedwise import Direction, over_seeds
from three_factors.reproduce.engine.spec import Curvature, Keep, Measurement, MLPNetwork, RunSpec
from three_factors.reproduce.engine.statistics import mean_of_those_there
from three_factors.reproduce.engine.table import Evidence, Imagined
from three_factors.reproduce.experiments import equal_loss

NORM, BEST_LOSS = "best hessian/frobenius", "best train_subset/loss"
NOISY, CLEAN, WRONG = "train_subset/accuracy", "val/accuracy", "train_wrong/accuracy"
LEVELS = (0.80, 0.85, 0.90, 0.95, 0.99)  # of the accuracy on the noisy training set
ONSET = 0.02  # memorisation has begun when the accuracy on wrong labels is so far above its lowest value
MOMENTA = (0.9, 0.0)  # the paper's order of panels in Figure 5


@dataclass(frozen=True)
class Settings:
    """Everything that a scale changes."""

    hidden: tuple[int, ...]
    train: int
    validation: int
    test: int
    subset: int  # training examples that are evaluated, of each kind
    epochs: int
    fractions: tuple[float, ...]
    lrs: tuple[float, ...]
    lrs_with_momentum: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    measured: int
    seeds: int
    seed_sd: float = 0.01  # assumed for the power, before training; of a cell's validation accuracy


# Section 4.3 and Figure 5's caption; the paper leaves out eta above 0.02 with momentum, where it diverged.
PAPER = Settings(
    hidden=(256, 256),
    train=50_000,
    validation=10_000,
    test=10_000,
    subset=5_000,
    epochs=300,
    fractions=(0.25, 0.5),
    lrs=(0.005, 0.01, 0.02, 0.05, 0.07, 0.1),
    lrs_with_momentum=(0.005, 0.01, 0.02),
    batch_sizes=(50, 100, 200, 500, 1000),
    measured=2_000,
    seeds=5,
)
QUICK = replace(
    PAPER, train=1_200, validation=1_000, test=100, subset=1_000, epochs=40, lrs=(0.02, 0.05, 0.1),
    lrs_with_momentum=(0.005, 0.01, 0.02), batch_sizes=(50, 200), measured=250, seeds=4,
)  # fmt: skip
SMOKE = replace(
    QUICK, hidden=(32, 32), train=400, validation=100, test=100, epochs=3, fractions=(0.25,), lrs=(0.05, 0.1),
    lrs_with_momentum=(0.01, 0.02), measured=50, seeds=1,
)  # fmt: skip
SETTINGS: dict[Scale, Settings] = {"smoke": SMOKE, "quick": QUICK, "paper": PAPER}

# Frozen on pilot seed 1000, which no verdict uses, by criteria that hold no claim's statistic: five minutes on 2 cores
# at four seeds; the highest eta/S of each momentum reaches 99 % on the noisy training set.
# paper | quick | why
REDUCTIONS = [
    ("50 000 training images", "1 200", "time; divisible by every S"),
    ("10 000 test images", "100", "time; no claim uses them"),
    ("300 epochs", "40 epochs", "time"),
    ("6 eta (3 with momentum) x 5 S", "3 (3) x 2, S 50 and 200", "time; larger S do not begin to memorise in it"),
    ("5 seeds", "4 seeds", "time"),
    ("Hessian on 2 000 images", "250", "time"),
]


@dataclass(frozen=True)
class Cell:
    """A place in the grid."""

    fraction: float
    momentum: float
    lr: float
    batch_size: int

    @property
    def label(self) -> str:
        momentum = f", momentum {self.momentum:g}" if self.momentum else ""
        return f"{100 * self.fraction:g} % noise{momentum}, eta {self.lr:g}, S {self.batch_size}"

    @property
    def n(self) -> float:
        return self.lr / self.batch_size

    @property
    def effective_n(self) -> float:
        """eta / (S (1 - beta)), which stands in n's place with momentum (PAPER's errata, appendix E)."""
        return self.n / (1 - self.momentum)


def cells(scale: Scale) -> list[Cell]:
    s = SETTINGS[scale]
    return [
        Cell(fraction, momentum, lr, size)
        for fraction in s.fractions
        for momentum in MOMENTA
        for lr in (s.lrs_with_momentum if momentum else s.lrs)
        for size in s.batch_sizes
    ]


PLACE = {cell.label: cell for scale in SETTINGS for cell in cells(scale)}


def runs(scale: Scale, source: Prepared) -> dict[str, RunSpec]:
    """label -> the run of seed 0; other seeds differ in `seed` alone, which also draws the wrong labels."""
    s = SETTINGS[scale]
    network = MLPNetwork(
        hidden=s.hidden, in_features=source.channels * source.size**2, num_classes=source.classes
    )  # fmt: skip

    keep = Keep(best=True, loss_levels=equal_loss.LEVELS)

    def run(cell: Cell) -> RunSpec:
        data = subset(
            source, scale, train=s.train, validation=s.validation, test=s.test, examples=s.subset,
            label_noise=LabelNoise(cell.fraction),
        )  # fmt: skip
        schedule = NoiseSchedule(cell.lr, cell.batch_size)
        return RunSpec(network, data, schedule, s.epochs, seed=0, momentum=cell.momentum, keep=keep)

    return {cell.label: run(cell) for cell in cells(scale)}


def measurements(scale: Scale, label: str) -> tuple[Measurement, ...]:
    best = Curvature(SETTINGS[scale].measured, 250)
    return Measurement(best, at=("best",)), equal_loss.measurement(best)


def derive(rows: pd.DataFrame) -> dict[str, float]:
    """What a run's epochs say of memorisation: validation accuracy where levels were crossed first, and when it began.

    Between evaluations by straight lines: the first evaluation above a level lies the further above it, the faster a
    run trains. Levels that are not crossed are missing.
    """
    found: dict[str, float] = {}
    noisy, clean = (rows[metric].to_numpy(dtype=float) for metric in (NOISY, CLEAN))
    for level in LEVELS:
        crossed = np.flatnonzero(noisy >= level)
        if len(crossed):
            around = slice(max(crossed[0] - 1, 0), crossed[0] + 1)
            found[at_level(level)] = float(np.interp(level, noisy[around], clean[around]))
    lowest = np.minimum.accumulate(rows[WRONG].to_numpy())
    begun = rows.index[rows[WRONG].to_numpy() >= lowest + ONSET]
    if len(begun):
        best = rows.index[int(rows[CLEAN].to_numpy().argmax())]
        found["memorisation begins"] = float(begun[0])
        found["memorisation after best"] = float(begun[0] - best)
    return found


def at_level(level: float) -> str:
    return f"{CLEAN} at {NOISY} {level:g}"


def select(labels: list[str], fraction: float, momentum: float | None = None) -> list[str]:
    places = [(label, PLACE[label]) for label in labels]
    return [
        label for label, cell in places if cell.fraction == fraction and momentum in (None, cell.momentum)
    ]  # fmt: skip


def begins_late(table: Evidence, fraction: float, momentum: float | None = None) -> Claim:
    """Memorisation begins after the best validation epoch: epochs between them, mean over cells, over seeds."""
    labels = select(table.labels, fraction, momentum)
    late, trained = table.grid(labels, "memorisation after best"), ~np.isnan(table.grid(labels, BEST_LOSS))
    never = int((trained & np.isnan(late)).sum())
    note = f"{never} of {int(trained.sum())} runs that trained never begin, and are left out"
    where = f"{100 * fraction:g} % noise" + ("" if momentum is None else f", momentum {momentum:g}")
    return over_seeds(
        mean_of_those_there(late.T), Direction(1, smallest=1.0), paper="roughly", note=note,
        claim=f"memorisation begins after the best validation epoch; {where}",
        statistic="epochs between them, mean over cells, a seed",
    )  # fmt: skip


def imagined(scale: Scale, seeds: int, random: np.random.Generator) -> Imagined:
    """A world in which eta/(S (1 - beta)) decides: 1 % of accuracy per factor e, norm ∝ n^-1/2."""
    s, finals = SETTINGS[scale], {}
    for cell in cells(scale):
        log_n = np.log(cell.effective_n)
        accuracy = {at_level(level): 0.8 + 0.01 * log_n + random.normal(0, s.seed_sd, seeds) for level in LEVELS}
        finals[cell.label] = accuracy | {
            NORM: np.exp(-0.5 * log_n + random.normal(0, 0.2, seeds)),
            BEST_LOSS: np.exp(-0.5 * log_n + random.normal(0, 0.2, seeds)),
            **equal_loss.imagined(np.exp(-0.5 * log_n + random.normal(0, 0.2, seeds)), random),
            "memorisation after best": random.normal(2.0, 3.0, seeds),
        }
    return Imagined(finals)
