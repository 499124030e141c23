"""VGG-11 in every form that the paper leaves open, on two schedules of Table 1: which of them has its numbers?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.experiment import Experiment, Setting
from three_factors.reproduce.engine.judge.table import Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import cyclical
from three_factors.reproduce.experiments.metrics import STEP_LOSS, TEST
from three_factors.reproduce.experiments.subset import subset

CONSTANT, CYCLIC = "constant 0.001", "discrete S"  # the factor `schedule`
PAPERS = {CONSTANT: 0.8725, CYCLIC: 0.9007}  # test accuracy, Figure 4 and Table 1
GAP, WITHIN = PAPERS[CYCLIC] - PAPERS[CONSTANT], 0.01
TRAINING_LOSS, FACTOR = 0.050, 1.5  # of the cyclic run


@dataclass(frozen=True)
class Form:
    """Names what the paper does not say of its network and data.

    Attributes:
        dropout: 0.5 before the dense layers; else none.
        dense: batch norm on the input and after both dense layers too, and Glorot's initialisation: the authors' later
            form.
        augment: crop and flip.
    """

    dropout: bool
    dense: bool
    augment: bool

    @property
    def name(self) -> str:
        options = {"dropout": self.dropout, "input and dense BN": self.dense, "crop and flip": self.augment}
        return ", ".join(word for word, on in options.items() if on) or "plain"

    @property
    def key(self) -> str:
        options = {"dropout": self.dropout, "dense": self.dense, "augmented": self.augment}
        return "_".join(word for word, on in options.items() if on) or "plain"

    @property
    def options(self) -> int:
        """Counts the options taken."""
        return self.dropout + self.dense + self.augment

    def label(self, schedule: str) -> str:
        return f"{self.name}: {schedule}"


FORMS = sorted((Form(*of) for of in product((False, True), repeat=3)), key=lambda form: form.options)


@dataclass(frozen=True)
class Size:
    """Describes what a scale has of Figure 16's runs.

    Attributes:
        read: the epochs, ends of cycles, at which the runs are held against the paper.
    """

    base: cyclical.Size
    read: tuple[int, ...]
    seeds: int = 1


SCALES: dict[Scale, Size] = {
    "smoke": Size(replace(cyclical.SMOKE, train=120, epochs=1, period=1), (1,)),
    "quick": Size(cyclical.QUICK, (4, 8, 12)),
    "gpu": Size(cyclical.GPU, (15, 30)),
    "paper": Size(cyclical.PAPER, (105, 210, 300)),
}


class Fingerprints(Experiment):
    """Every form on the constant schedule of Figure 4 and on Table 1's discrete S."""

    scales = SCALES
    reductions = {
        "quick": [
            *[line for line in cyclical.SMALLER if not line[0].startswith(("5 seeds", "crop"))],
            ("300 epochs, cycle 15", "12 epochs, cycle 4", "time"),
            ("10 000 test images", "2 000", "time"),
        ],
        "gpu": [("300 epochs", "30", "time; two whole cycles")],
    }

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        s = self.scales[scale].base
        schedules = {
            CONSTANT: NoiseSchedule(s.lr[0], s.batch_size[0]),
            CYCLIC: cyclical.schedules(s, s.lr, s.period)[cyclical.DISCRETE_S],
        }
        found = {}
        for form in FORMS:
            for name, schedule in schedules.items():
                spec = cyclical.run(s, scale, source, schedule)
                base: Any = spec.network
                network = replace(
                    base,
                    dropout=0.5 if form.dropout else 0.0,
                    dense_batch_norm=form.dense,
                    init="glorot" if form.dense else "he",
                )
                data = subset(source, scale, s, augment=form.augment)
                spec = replace(spec, network=network, data=data, evaluate_every=1)
                found[form.label(name)] = Setting(spec, {"form": form.key, "schedule": name})
        return found

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws a world in which every form has the paper's numbers."""
        epochs = SCALES[scale].base.epochs
        finals, series, factors = {}, {}, {}
        for form in FORMS:
            for name, accuracy in PAPERS.items():
                label = form.label(name)
                curve = random.normal(accuracy, 0.003, (seeds, epochs + 1))
                finals[label], factors[label] = {TEST: curve[:, -1]}, {"form": form.key, "schedule": name}
                series[label] = {TEST: curve, STEP_LOSS: np.full((seeds, epochs + 1), TRAINING_LOSS)}
        return SyntheticTable(finals, series, factors)


FINGERPRINTS = Fingerprints()


@dataclass(frozen=True)
class Reading:
    """Holds what one form came to at one epoch; all nan where a run is missing or diverged.

    Attributes:
        accuracy: schedule -> test accuracy.
        loss: of the cyclic run's steps in that epoch.
    """

    epoch: int
    accuracy: dict[str, float]
    loss: float

    @property
    def gap(self) -> float:
        return self.accuracy[CYCLIC] - self.accuracy[CONSTANT]

    @property
    def matches(self) -> bool:
        """Tells whether gap and loss are the paper's. Accuracies alone hang on how the images were stored."""
        near = abs(self.gap - GAP) <= WITHIN
        return bool(near and 1 / FACTOR <= self.loss / TRAINING_LOSS <= FACTOR)

    @property
    def same_accuracies(self) -> bool:
        return all(abs(self.accuracy[name] - PAPERS[name]) <= WITHIN for name in PAPERS)


def readings(table: Evidence, form: Form) -> list[Reading]:
    """Returns what a form came to, means over its seeds, at the epochs of its scale that it has."""
    curves = {}
    for schedule in PAPERS:
        label = form.label(schedule)
        if label not in table.labels:
            return []
        curves[schedule] = table.curves(label, TEST)
    losses = table.curves(form.label(CYCLIC), STEP_LOSS)
    last = int(max((of[0][-1] for of in curves.values() if len(of[0])), default=0))
    wanted = next((size.read for size in SCALES.values() if size.read[-1] == last), (last,))
    found = []
    for epoch in wanted:
        accuracy = {schedule: _at(of, epoch) for schedule, of in curves.items()}
        found.append(Reading(epoch, accuracy, _at(losses, epoch)))
    return found


def _at(curves: tuple[np.ndarray, np.ndarray, np.ndarray], epoch: int) -> float:
    epochs, _, values = curves
    there = np.flatnonzero(epochs == epoch)
    return float(values[:, there[0]].mean()) if len(there) else float("nan")
