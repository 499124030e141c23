"""The arms of an experiment (`--arm`): its runs once more, with a confound of eta/S taken away.

The paper compares runs at equal epochs; there t_eta, the training loss, batch norm's own noise and the steps all differ
with eta and S. Each arm changes the specs and nothing else; a figure says which it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from three_factors.datamodules.schedules import Chain, Constant, NoiseSchedule, Polynomial, as_schedule
from three_factors.reproduce.engine import claims, plots, seedwise
from three_factors.reproduce.engine.contract.noise import HalfBatchNoise
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.experiment import Arm, Setting, Settings, whole_evaluations
from three_factors.reproduce.engine.judge.table import Evidence, Table
from three_factors.reproduce.engine.options import InputError
from three_factors.reproduce.engine.regime import t_eta
from three_factors.reproduce.experiments.metrics import END_NORM, VALID

EQUAL = 1.05  # of t_eta, the largest over the smallest
FURTHER = 1.5  # the factor by which a common t_eta may lie beside the grid's middle
CAP = 5.0  # at the middle of the grid a run gets at most this many times its figure's epochs, and at least a CAP-th
STOP = 0.1  # training loss at which the arm `loss` ends a run
WEIGHT_DECAY = 5e-4
MEMORISED = 0.999  # accuracy on the noisy training set at which the arm `memorised` ends a run
QUENCH = 0.15  # t_eta of a quench, over that of the run before it
ANOTHER = 1.2  # t_eta of runs that are not compared with one another, the larger over the smaller
LEVELS = (1, 2, 4)  # l of SVAG
SMALLEST_GHOST = 8  # examples: batch norm over fewer is mostly noise


def constants(spec: RunSpec) -> tuple[float, int]:
    """Returns eta and S of a run in which both are constant. Raises InputError for any other."""
    lr, size = as_schedule(spec.schedule.lr), as_schedule(spec.schedule.batch_size)
    if not (isinstance(lr, Constant) and isinstance(size, Constant)):
        raise InputError(f"--arm: only for constant eta and S, not {spec.schedule!r}")
    return lr.value, round(size.value)


def effective_noise(spec: RunSpec) -> float:
    """Returns eta/(S (1 - beta)): t_eta/(1 - beta) grows by N times this in an epoch."""
    lr, size = constants(spec)
    return lr / size / (1 - spec.momentum)


def at_equal_time(settings: Settings) -> Settings:
    """Gives runs the epochs to end at one t_eta, that of the grid's geometric middle; leaves out cells beyond the cap.

    One t_eta is within 5 %, over settings of one network and data; where whole evaluations are too coarse for that they
    come more often, and t_eta is the nearest for which whole epochs do. Controls that are stretched do not set it.
    """
    panels = _panels(settings)
    shortest = {label: min(settings[of].spec.epochs for of in labels) for labels in panels for label in labels}
    ratios = [
        effective_noise(setting.spec) for label, setting in settings.items() if setting.spec.epochs == shortest[label]
    ]
    middle = math.sqrt(min(ratios) * max(ratios))
    wanted = {label: shortest[label] * middle / effective_noise(setting.spec) for label, setting in settings.items()}
    kept = [label for label, epochs in wanted.items() if 1 / CAP <= epochs / settings[label].spec.epochs <= CAP]
    found: dict[str, dict[str, int]] = {}
    for labels in panels:
        if there := {label: wanted[label] for label in labels if label in kept}:
            found |= lengths(there, {label: settings[label].spec.evaluate_every for label in there})
    return {label: settings[label].changed(**found[label]) for label in kept}


def _parted(settings: Settings) -> str:
    """Says how far t_eta differs within a network on its data, where whole epochs leave it further apart than 5 %."""
    ends = at_equal_time(settings)
    times = (
        [ends[label].spec.epochs * effective_noise(ends[label].spec) for label in labels] for labels in _panels(ends)
    )
    most = max((max(of) / min(of) for of in times), default=1.0)
    if most <= 1.01 * EQUAL:
        return ""
    return f"t_eta differs by up to {100 * (most - 1):.0f} %: whole epochs leave it no nearer"


def _panels(settings: Settings) -> list[list[str]]:
    """Returns the labels of each network on its data: what runs are compared within."""
    found: dict[Any, list[str]] = {}
    for label, setting in settings.items():
        found.setdefault((setting.spec.network, setting.spec.data), []).append(label)
    return [*found.values()]


def lengths(wanted: Mapping[str, float], every: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Returns label -> `epochs` and `evaluate_every`, near what is wanted by one factor, so that t_eta is equal.

    Args:
        wanted: label -> epochs, not whole, of one t_eta.
        every: label -> epochs between evaluations, at most.
    """
    whole = {label: whole_evaluations(epochs, every[label]) for label, epochs in wanted.items()}
    if _spread(whole, wanted) <= EQUAL:
        return {label: {"epochs": epochs, "evaluate_every": every[label]} for label, epochs in whole.items()}
    found = common(wanted)
    return {
        label: {"epochs": epochs, "evaluate_every": _divisor(epochs, every[label])} for label, epochs in found.items()
    }


def common(wanted: Mapping[str, float], units: Mapping[str, int] | None = None) -> dict[str, int]:
    """Returns whole epochs, multiples of what is wanted within 5 %: by the factor nearest to 1; else the nearest.

    units: label -> of what number of epochs they are multiples; 1 by default.
    """
    unit = dict.fromkeys(wanted, 1) if units is None else units
    factors = np.exp(np.linspace(-1, 1, 401) * math.log(FURTHER))
    factors = factors[np.argsort(np.abs(np.log(factors)), kind="stable")]
    tried = [
        {label: max(1, round(factor * epochs / unit[label])) * unit[label] for label, epochs in wanted.items()}
        for factor in factors
    ]
    spreads = np.array([_spread(of, wanted) for of in tried])
    return tried[int((spreads <= max(EQUAL, spreads.min())).argmax())]


def _spread(lengths: Mapping[str, int], wanted: Mapping[str, float]) -> float:
    """Returns the largest t_eta over the smallest."""
    ratios = [lengths[label] / wanted[label] for label in wanted]
    return max(ratios) / min(ratios)


def _divisor(epochs: int, most: int) -> int:
    """Returns the largest divisor up to `most`."""
    return next(every for every in range(min(most, epochs), 0, -1) if epochs % every == 0)


def at_equal_loss(settings: Settings) -> Settings:
    """Stops runs at the same training loss, or after 5 times the epochs."""
    return {k: s.changed(epochs=round(CAP) * s.spec.epochs, stop_at_loss=STOP) for k, s in settings.items()}


def at_memorisation(settings: Settings) -> Settings:
    """Stops runs where all but a thousandth of the training labels are fitted, or after 5 times the epochs."""
    return {k: s.changed(epochs=round(CAP) * s.spec.epochs, stop_at_accuracy=MEMORISED) for k, s in settings.items()}


def quenched(settings: Settings) -> Settings:
    """Goes on for about 15 % more t_eta, in whole epochs: eta falls linearly to 0, S and momentum stand.

    What is said of minima is said of the quenched weights too: at constant eta the iterate sits n tr(C)/4 above its
    minimum. Of a schedule both stand as in its last low-noise phase, where a cycle ends. Runs of one t_eta on the same
    network and data have one quench, within 5 %: 15 % of that, or the nearest of which whole epochs allow it.
    """
    longer: dict[str, int] = {}
    for labels in _of_one_time(settings):
        before = math.exp(np.mean([math.log(t_eta(settings[label].spec)) for label in labels]))
        watches = {label: settings[label].spec.watch for label in labels}
        every = {label: 1 if watch is None else watch.every for label, watch in watches.items()}  # so is the end
        longer |= common({label: _epochs_of_quench(settings[label].spec, QUENCH * before) for label in labels}, every)
    return {label: setting.changed(**_quench(setting.spec, longer[label])) for label, setting in settings.items()}


def _of_one_time(settings: Settings) -> list[list[str]]:
    """Returns the labels of each network on its data, parted where t_eta is another one."""
    found: list[list[str]] = []
    for labels in _panels(settings):
        times = {label: t_eta(settings[label].spec) for label in labels}
        shortest = 0.0
        for label in sorted(labels, key=lambda of: times[of]):
            if times[label] > ANOTHER * shortest:
                found.append([])
                shortest = times[label]
            found[-1].append(label)
    return found


def _last(spec: RunSpec) -> Any:
    """Returns eta and S of a run's last step."""
    before = spec.epochs - 1e-9
    return spec.schedule.setting(before, round(as_schedule(spec.schedule.batch_size)(before)))


def _epochs_of_quench(spec: RunSpec, time: float) -> float:
    """Returns the epochs, not whole, in which half of the last eta, on average, makes a t_eta."""
    step = _last(spec)
    return 2 * time * step.batch_size / (step.lr * spec.data.train)


def _quench(spec: RunSpec, longer: int) -> dict[str, Any]:
    step = _last(spec)
    lr = Chain((as_schedule(spec.schedule.lr), Polynomial(step.lr, 0.0, longer)), (spec.epochs,))
    size: Any = as_schedule(spec.schedule.batch_size)
    if not isinstance(size, Constant):
        size = Chain((size, Constant(step.batch_size)), (spec.epochs,))
    every = math.gcd(spec.evaluate_every, longer)
    return {"schedule": NoiseSchedule(lr, size), "epochs": spec.epochs + longer, "evaluate_every": every}


def _slowest(settings: Settings) -> str:
    """Says what a quench of t_eta τ leaves: directions with less curvature than 3/τ keep over a third of the excess."""
    h = max(3 / (QUENCH * t_eta(setting.spec)) for setting in settings.values())
    return f"a quench takes the excess loss out of directions whose curvature is above 3/τ = {h:.2g}, not below it"


def with_ghosts(settings: Settings) -> Settings:
    """Takes batch norm over groups of the figure's smallest S (at least 8), so that its noise is the same at all S."""
    smallest = min(as_schedule(setting.spec.schedule.batch_size)(0.0) for setting in settings.values())
    size = max(SMALLEST_GHOST, round(smallest))
    return {k: _network(s, ghost_batch_size=size) for k, s in settings.items() if s.spec.network.batch_norm}


def without_batch_norm(settings: Settings) -> Settings:
    """Takes batch norm out of the networks that have it, and leaves out the others."""
    return {k: _network(s, batch_norm=False) for k, s in settings.items() if s.spec.network.batch_norm}


def with_weight_decay(settings: Settings) -> Settings:
    """Adds the weight decay that Theorem 1 assumes."""
    return {k: s.changed(weight_decay=WEIGHT_DECAY) for k, s in settings.items()}


def _network(setting: Setting, **changes: Any) -> Setting:
    return setting.changed(network=replace(setting.spec.network, **changes))


def with_svag(settings: Settings) -> Settings:
    """Repeats every run at l = 1, 2, 4: l times the steps of eta/l, with noise as if S were S/l (`SGDClassifier`).

    A step takes two batches of S, so the epochs grow about 2l-fold, to l times the steps; batch norm is over each of
    them alone. Drawn with replacement: the theory's batches are independent.
    """
    return {f"{label}, l {level}": _at_level(setting, level) for label, setting in settings.items() for level in LEVELS}


def _at_level(setting: Setting, level: int) -> Setting:
    spec = setting.spec
    lr, size = constants(spec)
    if 2 * size > spec.data.train:
        raise InputError(f"--arm: svag takes two batches of {size} a step, of {spec.data.train} examples")
    changed = Setting(spec, {**setting.factors, "level": level}, setting.measurements).changed(sampling="replacement")
    if level == 1:
        return changed
    every = 2 * level * spec.evaluate_every
    steps = level * spec.epochs * (spec.data.train // size)
    epochs = whole_evaluations(steps / (spec.data.train // (2 * size)), every)
    halves = HalfBatchNoise(math.sqrt(2 * level - 1))
    changed = changed.changed(
        schedule=NoiseSchedule(lr / level, 2 * size), noise=halves, epochs=epochs, evaluate_every=every
    )
    return _network(changed, ghost_batch_size=size) if spec.network.batch_norm else changed


MEASURED = {VALID: "validation accuracy", END_NORM: "Hessian norm at the end"}


def same_at_every_level(table: Evidence) -> list[claims.Finding]:
    """States that SGD is at the limit of a stochastic differential equation: its end does not change with l."""
    found = []
    for level in LEVELS[1:]:
        ends, start = (_grid(table, metric, VALID) for metric in (level, 1))
        about = claims.Statement(
            f"svag.accuracy.{level}",
            f"SVAG: the same validation accuracy at l = {level} as at l = 1",
            "difference, mean over cells, a seed",
        )
        found.append(seedwise.over_seeds(about, _mean(ends - start), seedwise.within(0.005), unit="share"))
        norms, first = (_grid(table, at, END_NORM) for at in (level, 1))
        if not np.isnan(norms).all():
            about = claims.Statement(
                f"svag.norm.{level}",
                f"SVAG: the same Hessian norm at l = {level} as at l = 1",
                "ratio, geometric mean over cells, a seed",
            )
            ratio = np.exp(_mean(np.log(norms) - np.log(first)))
            found.append(seedwise.over_seeds(about, ratio, seedwise.Range(1 / 1.25, 1.25), seedwise.LOG))
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the cells that are not NaN, (seeds,)."""
    valid = ~np.isnan(values)
    return np.where(valid.any(axis=1), np.nansum(values, axis=1) / np.maximum(valid.sum(axis=1), 1), np.nan)


def _grid(table: Evidence, level: int, metric: str) -> np.ndarray:
    """Returns a metric at a level, (seeds, cells); the cells are those of l = 1."""

    def cells(at: int) -> dict[Any, str]:
        return {
            frozenset((name, value) for name, value in table.factors[label].items() if name != "level"): label
            for label in table.select(level=at)
        }

    there = cells(level)
    return table.grid([there.get(cell, "") for cell in cells(1)], metric)


def draw_levels(table: Table, axes: Any) -> None:
    """Draws each cell's mean at l = 2 and 4 against its mean at l = 1."""
    metrics = [metric for metric in MEASURED if metric in table.frame]
    for panel, metric in zip(axes(1, len(metrics)), metrics):
        factor = 100 if metric == VALID else 1
        start = factor * _column_means(_grid(table, 1, metric))
        for level, colour in zip(LEVELS[1:], (plots.BLUE, plots.ORANGE)):
            ends = factor * _column_means(_grid(table, level, metric))
            panel.scatter(start, ends, s=22, color=colour, label=f"l = {level}")
        unit = " (%)" if factor == 100 else ""
        panel.set(xlabel=f"{MEASURED[metric]}{unit}, l = 1", ylabel=f"{MEASURED[metric]}{unit}, l = 2, 4")
        if factor == 1:
            plots.log_scale(panel.xaxis)
            plots.log_scale(panel.yaxis)
        panel.axline(
            (float(np.nanmin(start)),) * 2, (float(np.nanmax(start)) * 1.001,) * 2, color=plots.GREY, linewidth=0.8
        )
        plots.legend_below(panel, columns=2)


def _column_means(values: np.ndarray) -> np.ndarray:
    return _mean(values.T)


TIME = Arm("time", "equal t_eta", at_equal_time, tell=_parted)
LOSS = Arm("loss", f"stopped at a training loss of {STOP:g}", at_equal_loss)
MEMORISED_ALL = Arm("memorised", f"stopped at {100 * MEMORISED:g} % of the noisy training labels", at_memorisation)
QUENCHED = Arm("quench", "quenched: about 15 % more t_eta at eta that falls to 0", quenched, tell=_slowest)
GHOST = Arm("ghost", "batch norm over groups of a fixed size", with_ghosts)
NO_BN = Arm("no-bn", "without batch norm", without_batch_norm)
L2 = Arm("l2", f"weight decay {WEIGHT_DECAY:g}", with_weight_decay)
SVAG = Arm("svag", "SVAG at l = 1, 2, 4", with_svag, same_at_every_level, draw_levels)

# Figures take them by what they have, so that one more of a kind reaches them all.
CONSTANT = (TIME, LOSS)  # with eta and S that do not change
BATCH_NORM = (GHOST, NO_BN)
FOR_ALL = (L2,)
TRIPLET = (QUENCHED,)  # with runs of equal t_eta that differ in their noise
