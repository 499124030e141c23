"""VGG-11 with its batch size switched once, early or late, at equal eta and equal steps: the runs of when.

What noise did early is kept if there is a break-even point, and forgotten if the end is an equilibrium: Theorem 1 has
the distribution over minima depend on the noise that stands, not on that which was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule, Steps
from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.engine.contract.spec import Keep, RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Setting
from three_factors.reproduce.engine.judge.table import NORMALISED, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import arms, cycles
from three_factors.reproduce.experiments.measured import measurements
from three_factors.reproduce.experiments.metrics import LOSS, TEST, end
from three_factors.reproduce.experiments.subset import fitting, subset

HIGH, LOW = "high noise", "low noise"
SHARES = (15, 85)  # per cent of the steps, after which S is switched
OUTCOMES = {end(NORMALISED): "scale-normalised sharpness", LOSS: "training loss"}  # of which logarithms are taken
SIGNS = {end(NORMALISED): -1, LOSS: 1}  # of what more noise does to them


def switched(first: str, share: int) -> str:
    """Returns the label of the run that changes from one noise to the other."""
    return f"{first} for {share} %, then {LOW if first == HIGH else HIGH}"


@dataclass(frozen=True)
class Size:
    """Holds everything that a scale changes.

    Attributes:
        width, train, validation, test, augment: as in Figure 4.
        epochs: of the run at high noise, before its quench; at low noise they are as many times more as S is larger.
        lr: eta.
        batch_size: S at high noise and at low noise.
        measured: training examples whose Hessian is measured at the end.
        seed_sd: assumed for the power, before training; of a log sharpness.
    """

    width: float
    train: int
    validation: int
    test: int
    epochs: int
    lr: float
    batch_size: tuple[int, int]
    seeds: int
    augment: bool
    measured: int
    seed_sd: float = 0.15


_FOUR = cycles.PAPER
PAPER = Size(
    width=_FOUR.width,
    train=_FOUR.train,
    validation=_FOUR.validation,
    test=_FOUR.test,
    epochs=_FOUR.epochs,
    lr=_FOUR.lr[0],
    batch_size=_FOUR.batch_size,
    seeds=5,
    augment=_FOUR.augment,
    measured=2_000,
)
QUICK = replace(
    PAPER,
    width=1 / 8,
    train=2_400,
    validation=500,
    test=500,
    epochs=4,
    lr=cycles.QUICK.lr[0],
    batch_size=cycles.QUICK.batch_size,
    seeds=4,
    augment=False,
    measured=50,
)
SMOKE = replace(QUICK, width=1 / 32, train=240, validation=50, test=100, epochs=1, seeds=1)
GPU = replace(PAPER, epochs=30, seeds=4)
# paper | quick | why
REDUCTIONS = [
    ("VGG-11, width 1", "width 1/8", "64 times less arithmetic"),
    ("44 800 training images", "2 400", "time"),
    ("crop and flip", "no augmentation", "as Figure 4"),
    ("eta 0.001, S 128 and 640", "0.01, 24 and 120", "as Figure 4"),
    ("300 epochs at high noise", "4", "time"),
    ("equal eta times steps", "within 5 %", "whole epochs, few of them"),
    ("Hessian on 2 000 images", "50", "time"),
    ("10 000 test images", "500", "time"),
    ("5 seeds", "4 seeds", "time"),
]
GPU_REDUCTIONS = [("300 epochs at high noise", "30", "time"), ("5 seeds", "4 seeds", "time")]


class Switching(Experiment):
    """High noise, low noise, and each changed to the other after 15 and 85 % of the steps; all of them quenched."""

    scales = {"smoke": SMOKE, "quick": QUICK, "gpu": GPU, "paper": PAPER}
    reductions = {"quick": REDUCTIONS, "gpu": GPU_REDUCTIONS}

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        s = self.scales[scale]
        small, large = s.batch_size
        # Batch norm over groups of the smaller S throughout: what is switched is the noise of the gradient alone.
        network = fitting(VGG11Network(width=s.width, ghost_batch_size=small), source)
        data = subset(source, scale, s, augment=s.augment)
        sizes, epochs = {HIGH: small, LOW: large}, {HIGH: float(s.epochs), LOW: s.epochs * large / small}

        phases: dict[str, tuple[dict[str, Any], list[tuple[str, float]]]] = {
            noise: ({"first": noise, "share": 100}, [(noise, 1.0)]) for noise in (HIGH, LOW)
        }
        for first, second in ((HIGH, LOW), (LOW, HIGH)):
            for share in SHARES:
                parts = [(first, share / 100), (second, 1 - share / 100)]
                phases[switched(first, share)] = {"first": first, "share": share}, parts
        wanted = {label: sum(share * epochs[noise] for noise, share in parts) for label, (_, parts) in phases.items()}
        every = {label: max(1, round(whole / s.epochs)) for label, whole in wanted.items()}

        def run(label: str, total: int, evaluate_every: int) -> Setting:
            """Returns a run through its phases, each a noise and its share of the steps."""
            of, parts = phases[label]
            size: Any = sizes[parts[0][0]]
            if len(parts) > 1:
                switch = parts[0][1] * epochs[parts[0][0]] * total / wanted[label]
                size = Steps(tuple(float(sizes[noise]) for noise, _ in parts), (switch,))
            schedule = NoiseSchedule(s.lr, size)
            spec = RunSpec(network, data, schedule, total, seed=0, evaluate_every=evaluate_every, keep=Keep())
            return Setting(spec, of, measurements(spec, scale, s.measured))

        found = {label: run(label, *length.values()) for label, length in arms.lengths(wanted, every).items()}
        return dict(arms.quenched(found))

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws an equilibrium: only the last noise counts, by a factor e^-1/2."""
        spread, finals, factors = self.scales[scale].seed_sd, {}, dict[str, Any]()
        for first, second in ((HIGH, LOW), (LOW, HIGH)):
            for share in (100, *SHARES):
                label = first if share == 100 else switched(first, share)
                last = first if share == 100 else second
                sharper = 0.5 if last == LOW else 0.0
                finals[label] = {metric: np.exp(random.normal(sharper, spread, seeds)) for metric in OUTCOMES}
                finals[label][TEST] = random.normal(0.8 - 0.02 * sharper, 0.005, seeds)
                factors[label] = {"first": first, "share": share}
        return SyntheticTable(finals, factors=factors)


SWITCHING = Switching()


def kept(table: Evidence, first: str, share: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns numerator and denominator of φ, each (seeds,): how much of the first phase's noise the end remembers.

    φ = (y[first, then second] - y[second]) / (y[first] - y[second]), y a logarithm. 0 in an equilibrium, 1 where
    nothing is forgotten. Both have the sign that makes the denominator positive where noise acts as is expected: orders
    can then be averaged, and a denominator of the other sign shows nothing.
    """
    second, sign = (LOW, SIGNS[metric]) if first == HIGH else (HIGH, -SIGNS[metric])
    y = sign * np.log(table.grid([switched(first, share), first, second], metric))
    return y[:, 0] - y[:, 2], y[:, 1] - y[:, 2]
