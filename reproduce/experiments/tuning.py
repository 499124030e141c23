"""Every schedule tuned on validation accuracy, then run on other seeds: the runs of Table 1, shared with Figure 16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.contract.steps import WEIGHT_NORM
from three_factors.reproduce.engine.experiment import Experiment, Setting, Settings, Tuning
from three_factors.reproduce.engine.judge.table import NORMALISED, STABILITY, Evidence, SyntheticTable, Table
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import arms, cyclical
from three_factors.reproduce.experiments.cyclical import CYCLICAL
from three_factors.reproduce.experiments.metrics import DIFFERENCES, LOSS, NORM, TEST, TRACE, VALID, end

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "constant eta"
QUENCHED = "constant eta, quenched"  # the same, with eta brought to 0 at last: what annealing alone does
SCHEDULES = (*CYCLICAL, BASELINE)
RATIO = 5  # the highest eta of a cycle over its lowest, Appendix F.4
LOWEST_NORM = "norm at the lowest training loss"  # usually at the end, as the paper says
FIRST_SEED = 10_000  # of tuning: no verdict uses it


@dataclass(frozen=True)
class Size:
    """Describes what a scale tunes; everything else is Figure 16's.

    Attributes:
        base: of the final runs.
        tried: of the candidates' runs.
        lrs: the highest eta of a cycle; the eta of the constant baseline.
        periods: cycle lengths in epochs.
        tuning_seeds: runs of each candidate.
        seeds: of the final runs.
        seed_sd: assumed for the power, before training; of test accuracy.
    """

    base: cyclical.Size
    tried: cyclical.Size
    lrs: tuple[float, ...]
    periods: tuple[float, ...]
    tuning_seeds: int
    seeds: int
    seed_sd: float = 0.005


# Appendix F.4: for each schedule, eta is optimised in [1e-3, 5e-2] and the cycle in {5, 10, 15}, on a validation set.
# Six values of eta, and three tuning runs of each candidate at gpu scale, are our choice.
PAPER = Size(
    base=cyclical.PAPER,
    tried=cyclical.GPU,
    lrs=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05),  # Figure 16's 0.005 is one of them
    periods=(5, 10, 15),
    tuning_seeds=3,
    seeds=10,
)
# By time: eta a factor 2.5 apart about Figure 16's, and its cycle; 0.008 because the constant baseline was tuned to the
# lowest of 0.02, 0.05 and 0.125.
QUICK = Size(cyclical.QUICK, cyclical.QUICK, (0.008, 0.02, 0.05, 0.125), (4,), tuning_seeds=1, seeds=4)
SMOKE = Size(cyclical.SMOKE, cyclical.SMOKE, (0.02, 0.05), (4,), tuning_seeds=1, seeds=1)
GPU = replace(PAPER, base=cyclical.GPU, seeds=4)
SCALES: dict[Scale, Size] = {"smoke": SMOKE, "quick": QUICK, "gpu": GPU, "paper": PAPER}
REDUCTIONS = [
    *[line for line in cyclical.REDUCTIONS if not line[0].startswith(("5 seeds", "eta", "300 epochs"))],
    ("300 epochs", "12", "time"),
    ("eta tuned in 0.001-0.05, 6 values", "0.008-0.125, 4 values", "trains in 12 epochs; time"),
    ("cycle tuned in 5, 10, 15", "4, not tuned", "time"),
    ("tuned at 30 epochs, 3 seeds", "at 12 epochs, 1 seed", "time"),
    ("10 seeds", "4 seeds", "time"),
]


GPU_REDUCTIONS = [
    ("300 epochs (tuning: 30)", "30 epochs", "time; two whole cycles of the longest"),
    ("10 seeds", "4 seeds", "time"),
]


@dataclass(frozen=True)
class Candidate:
    """One setting that is tried. The constant baseline has no cycle."""

    schedule: str
    lr: float
    period: float | None

    @property
    def label(self) -> str:
        return f"tuning: {self.schedule}, eta {self.lr:g}" + (f", cycle {self.period:g}" if self.period else "")

    @property
    def factors(self) -> dict[str, float | str]:
        cycle: dict[str, float | str] = {"cycle": self.period} if self.period else {}
        return {"candidate of": self.schedule, "eta": self.lr, **cycle}


def candidates(scale: Scale) -> list[Candidate]:
    """Returns all that is tried at a scale."""
    s = SCALES[scale]
    cycles = [Candidate(schedule, lr, period) for schedule in CYCLICAL for lr in s.lrs for period in s.periods]
    return cycles + [Candidate(BASELINE, lr, None) for lr in s.lrs]


def known(table: Evidence) -> dict[str, Candidate]:
    """Returns label -> candidate, of those that a table has runs of."""
    found = {}
    for label in table.labels:
        of: Any = table.factors.get(label, {})
        if "candidate of" in of:
            found[label] = Candidate(of["candidate of"], of["eta"], of.get("cycle"))
    return found


def tuned(table: Evidence) -> dict[str, str]:
    """Returns schedule -> the label of its candidate, chosen by validation accuracy.

    Of those whose mean over the tuning seeds is within a standard error of the best one's that of the smallest eta,
    then of the shortest cycle. The standard error is pooled over the candidates none of whose runs diverged; without
    two seeds of one there is none. A schedule whose candidates all diverged is missing.
    """
    there = known(table)
    scores = {label: accuracies(table, label) for label in there if len(table.values(label, VALID))}
    # One run that diverged, at the accuracy of chance, would make every schedule's standard error several points.
    spreads = [of.var(ddof=1) for label, of in scores.items() if len(of) > 1 and not table.diverged(label)]
    variance = float(np.mean(spreads)) if spreads else 0.0
    found = dict[str, str]()
    for schedule in dict.fromkeys(candidate.schedule for candidate in there.values()):
        means = {k: float(of.mean()) for k, of in scores.items() if there[k].schedule == schedule}
        if means:
            best = max(means, key=lambda label: means[label])
            lowest = means[best] - (variance / len(scores[best])) ** 0.5
            near = [label for label, mean in means.items() if mean >= lowest]
            found[schedule] = min(near, key=lambda label: (there[label].lr, there[label].period or 0.0))
    return found


def at_the_edge(table: Evidence, schedule: str) -> str:
    """Says if a schedule was tuned to the lowest or the highest eta that was tried; "" if not."""
    there = known(table)
    tried, label = [c.lr for c in there.values() if c.schedule == schedule], tuned(table).get(schedule)
    if label is None or min(tried) < there[label].lr < max(tried):
        return ""
    return f"'{schedule}' was tuned to {there[label].lr:g}, at the edge of the eta tried"


def nearest(scale: Scale) -> dict[str, str]:
    """Returns schedule -> the candidate nearest to Figure 16's: what is forecast before anything is tuned."""
    base, found = SCALES[scale].base, {}
    for schedule in SCHEDULES:
        tried = [c for c in candidates(scale) if c.schedule == schedule]
        near = [abs(np.log(c.lr / base.lr[1])) + abs((c.period or 0) - base.period) for c in tried]
        found[schedule] = tried[int(np.argmin(near))].label
    return found


def accuracies(table: Evidence, label: str) -> np.ndarray:
    """Returns what a candidate is chosen by, (tuning seeds,): that of chance for a run that diverged."""
    found = table.grid([label], VALID)[:, 0]
    return found[~np.isnan(found)]


def choose(scale: Scale, settings: Settings, table: Table | None) -> dict[str, Setting]:
    """Returns schedule -> its final setting: the chosen candidate's, whole, with the curvature along the way."""
    chosen, base = nearest(scale) if table is None else tuned(table), SCALES[scale].base
    found = {
        schedule: cyclical.watched(
            replace(settings[label].spec, epochs=base.epochs, evaluate_every=base.epochs), base, scale
        )
        for schedule, label in chosen.items()
    }
    if BASELINE in found:
        plain = replace(found[BASELINE], spec=replace(found[BASELINE].spec, watch=None))
        found |= arms.quenched({QUENCHED: plain})
    return found


class TunedSchedules(Experiment):
    """Every candidate of every schedule; then each schedule's best on other seeds."""

    scales = SCALES
    reductions = {"quick": REDUCTIONS, "gpu": GPU_REDUCTIONS}
    tuning = Tuning(lambda scale: range(FIRST_SEED, FIRST_SEED + SCALES[scale].tuning_seeds), choose)

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        base = self.scales[scale].tried

        def schedule(c: Candidate) -> NoiseSchedule:
            if c.period is None:
                return NoiseSchedule(c.lr, base.batch_size[0])
            return cyclical.schedules(base, (c.lr / RATIO, c.lr), c.period)[c.schedule]

        return {c.label: Setting(cyclical.run(base, scale, source, schedule(c)), c.factors) for c in candidates(scale)}

    def derive(self, rows: pd.DataFrame, spec: RunSpec) -> dict[str, float]:
        """Returns the norm where the training loss was lowest, of the epochs at which it was measured."""
        if NORM not in rows or LOSS not in rows:
            return {}
        measured = rows.dropna(subset=[NORM, LOSS])
        return {} if measured.empty else {LOWEST_NORM: float(measured[NORM].iloc[int(measured[LOSS].argmin())])}

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws cyclic schedules two points above the constant one, and alike among themselves."""
        s = self.scales[scale]
        figure_16 = cyclical.imagined(s.base, seeds, random)
        finals = {
            schedule: {
                TEST: (0.78 if schedule in (BASELINE, QUENCHED) else 0.8) + random.normal(0, s.seed_sd, seeds),
                NORM: np.exp(random.normal(0, 0.2, seeds)),
                end(DIFFERENCES): np.exp(random.normal(0, 0.2, seeds)),
            }
            for schedule in (*SCHEDULES, QUENCHED)
        }
        series = {schedule: figure_16.series[schedule] for schedule in CYCLICAL}
        return SyntheticTable(finals, series)


TUNED = TunedSchedules()

PAPERS = {  # Table 1: test, valid, loss, norm
    cyclical.DISCRETE_ETA: ("90.04 ± 0.18", "90.30 ± 0.07", "0.048 ± 0.001", "36470"),
    cyclical.DISCRETE_S: ("90.07 ± 0.32", "90.25 ± 0.06", "0.050 ± 0.002", "13918"),
    cyclical.TRIANGLE_ETA: ("90.03 ± 0.10", "90.04 ± 0.23", "0.068 ± 0.002", "35310"),
    BASELINE: ("87.70 ± 0.56", "88.36 ± 0.13", "0.033 ± 0.001", "57838"),
}
COLUMNS = {TEST: "test (%)", VALID: "valid (%)", LOSS: "loss", LOWEST_NORM: "norm"}
BESIDE = {  # not in the paper
    end(DIFFERENCES): "norm, finite\ndifferences",
    end(TRACE): "trace",
    NORMALISED: "scale-norm.\nsharpness",
    STABILITY: "η ·\neigenvalue",
    WEIGHT_NORM: "|θ|",
}
DECIMALS = {
    TEST: 2,
    VALID: 2,
    LOSS: 3,
    LOWEST_NORM: 0,
    end(DIFFERENCES): 0,
    end(TRACE): 0,
    NORMALISED: 0,
    STABILITY: 2,
    WEIGHT_NORM: 1,
}


def written(table: Table) -> list[list[str]]:
    """Returns the rows of Table 1: schedule, chosen setting, ours (mean ± sd) over the paper's, the confounds."""
    there, chosen, rows = known(table), tuned(table), []
    for schedule in PAPERS:
        setting = there[chosen[schedule]] if schedule in chosen else None
        words = "none trained" if setting is None else f"η {setting.lr:g}"
        if setting is not None and setting.period:
            words += f", cycle {setting.period:g}"
        cells = []
        for metric, paper in zip(COLUMNS, PAPERS[schedule]):
            values = table.values(schedule, metric) * (100 if metric in (TEST, VALID) else 1)
            cells.append(f"{_spread(values, DECIMALS.get(metric, 0))}\n({paper})")
        cells += [_spread(table.values(schedule, metric), DECIMALS.get(metric, 0)) for metric in BESIDE]
        rows.append([schedule, words, *cells])
    return rows


def _spread(values: np.ndarray, decimals: int) -> str:
    if not len(values):
        return "none trained"
    sd = f" ± {values.std(ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{sd}"
