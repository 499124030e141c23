"""The arms of an experiment (`--arm`): its runs once more, with a confound of eta/S taken away.

The paper compares runs at equal epochs; there t_eta, the training loss, batch norm's own noise and the steps all differ
with eta and S. Each arm changes the specs and nothing else; a figure says which it has.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from three_factors.datamodules.schedules import Constant, NoiseSchedule, as_schedule
from three_factors.reproduce.engine.claims import EVERY, Claim
from three_factors.reproduce.engine.definition import Arm, Figure, Specs
from three_factors.reproduce.engine.options import EPOCHS, InputError, Options
from three_factors.reproduce.engine.seedwise import LOG, Range, over_seeds
from three_factors.reproduce.engine.spec import HalfBatchNoise, RunSpec
from three_factors.reproduce.engine.table import Evidence, Table

CAP = 5.0  # a run gets at most this many times its figure's epochs, and at least one CAP-th
STOP = 0.1  # training loss at which the arm `loss` ends a run
WEIGHT_DECAY = 5e-4
LEVELS = (1, 2, 4)  # l of SVAG
SMALLEST_GHOST = 8  # examples: batch norm over fewer is mostly noise


def constants(spec: RunSpec) -> tuple[float, int]:
    """eta and S of a run in which both are constant. Raises InputError for any other."""
    lr, size = as_schedule(spec.schedule.lr), as_schedule(spec.schedule.batch_size)
    if not (isinstance(lr, Constant) and isinstance(size, Constant)):
        raise InputError(f"--arm: only for constant eta and S, not {spec.schedule!r}")
    return lr.value, round(size.value)


def noise(spec: RunSpec) -> float:
    """eta/(S (1 - beta)): t_eta/(1 - beta) grows by N times this in an epoch."""
    lr, size = constants(spec)
    return lr / size / (1 - spec.momentum)


def at_equal_time(specs: Specs) -> Specs:
    """Epochs such that all runs end at the t_eta of the grid's geometric middle; cells beyond the cap are left out."""
    ratios = [noise(spec) for spec in specs.values()]
    middle = math.sqrt(min(ratios) * max(ratios))
    found = {}
    for label, spec in specs.items():
        factor = middle / noise(spec)
        if 1 / CAP <= factor <= CAP:
            every = spec.evaluate_every
            found[label] = replace(spec, epochs=max(1, round(spec.epochs * factor / every)) * every)
    return found


def at_equal_loss(specs: Specs) -> Specs:
    """Runs that stop at the same training loss, or after 5 times the epochs."""
    return {k: replace(spec, epochs=round(CAP) * spec.epochs, stop_at_loss=STOP) for k, spec in specs.items()}


def with_ghosts(specs: Specs) -> Specs:
    """Batch norm over groups of the smallest S of the figure (at least 8), so that its noise is the same at every S."""
    smallest = min(as_schedule(spec.schedule.batch_size)(0.0) for spec in specs.values())
    size = max(SMALLEST_GHOST, round(smallest))
    return {k: _network(spec, ghost_batch_size=size) for k, spec in specs.items() if spec.network.batch_norm}


def without_batch_norm(specs: Specs) -> Specs:
    return {k: _network(spec, batch_norm=False) for k, spec in specs.items() if spec.network.batch_norm}


def with_weight_decay(specs: Specs) -> Specs:
    """Theorem 1 assumes it."""
    return {k: replace(spec, weight_decay=WEIGHT_DECAY) for k, spec in specs.items()}


def _network(spec: RunSpec, **changes: Any) -> RunSpec:
    return replace(spec, network=replace(spec.network, **changes))


def with_svag(specs: Specs) -> Specs:
    """Every run at l = 1, 2, 4: l times the steps of eta/l, each with noise as if S were S/l (`SGDClassifier`).

    A step takes two batches of S, so the epochs grow about 2l-fold, to l times the steps; batch norm is over each of
    them alone. Drawn with replacement: the theory's batches are independent.
    """
    found = {}
    for label, spec in specs.items():
        lr, size = constants(spec)
        if 2 * size > spec.data.train:
            raise InputError(f"--arm: svag takes two batches of {size} a step, of {spec.data.train} examples")
        plain = replace(spec, sampling="replacement")
        for level in LEVELS:
            changed = plain
            if level > 1:
                schedule, factor = NoiseSchedule(lr / level, 2 * size), math.sqrt(2 * level - 1)
                every = 2 * level * spec.evaluate_every
                steps = level * spec.epochs * (spec.data.train // size)
                epochs = max(1, round(steps / (spec.data.train // (2 * size)) / every)) * every
                changed = replace(
                    plain, schedule=schedule, noise=HalfBatchNoise(factor), epochs=epochs, evaluate_every=every
                )  # fmt: skip
                if spec.network.batch_norm:
                    changed = _network(changed, ghost_batch_size=size)
            found[svag_label(label, level)] = changed
    return found


def svag_label(label: str, level: int) -> str:
    return f"{label}, l {level}"


MEASURED = {"val/accuracy": "validation accuracy", "end hessian/frobenius": "Hessian norm at the end"}


def same_at_every_level(table: Evidence) -> list[Claim]:
    """SGD is at the limit of a stochastic differential equation: what it comes to does not change with l."""
    found = []
    for level in LEVELS[1:]:
        ends, start = (_grid(table, metric, "val/accuracy") for metric in (level, 1))
        found.append(
            over_seeds(
                _mean(ends - start), Range(-0.005, 0.005), control_of=EVERY,
                claim=f"SVAG: the same validation accuracy at l = {level} as at l = 1",
                statistic="difference, mean over cells, a seed",
            )
        )  # fmt: skip
        norms = [_grid(table, at, "end hessian/frobenius") for at in (level, 1)]
        if not np.isnan(norms[0]).all():
            found.append(
                over_seeds(
                    np.exp(_mean(np.log(norms[0]) - np.log(norms[1]))), Range(1 / 1.25, 1.25), scale=LOG,
                    claim=f"SVAG: the same Hessian norm at l = {level} as at l = 1", control_of=EVERY,
                    statistic="ratio, geometric mean over cells, a seed",
                )
            )  # fmt: skip
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the cells that are there, (seeds,)."""
    there = ~np.isnan(values)
    return np.where(there.any(axis=1), np.nansum(values, axis=1) / np.maximum(there.sum(axis=1), 1), np.nan)


def _grid(table: Evidence, level: int, metric: str) -> np.ndarray:
    ending = f", l {level}"
    bases = [label.removesuffix(", l 1") for label in table.labels if label.endswith(", l 1")]
    return table.grid([base + ending for base in bases], metric)


def draw_levels(table: Table, axes: Any) -> None:
    """Each cell's mean at l = 2 and 4 against its mean at l = 1."""
    from three_factors.reproduce.engine import plots

    metrics = [metric for metric in MEASURED if metric in table.frame]
    for panel, metric in zip(axes(1, len(metrics)), metrics):
        factor = 100 if metric == "val/accuracy" else 1
        start = factor * _column_means(_grid(table, 1, metric))
        for level, colour in zip(LEVELS[1:], (plots.BLUE, plots.ORANGE)):
            panel.scatter(
                start, factor * _column_means(_grid(table, level, metric)), s=22, color=colour, label=f"l = {level}"
            )
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


ARMS = {
    EPOCHS: Arm("equal epochs, as the paper", lambda specs: specs),
    "time": Arm("equal t_eta", at_equal_time),
    "loss": Arm(f"stopped at a training loss of {STOP:g}", at_equal_loss),
    "ghost": Arm("batch norm over groups of a fixed size", with_ghosts),
    "no-bn": Arm("without batch norm", without_batch_norm),
    "l2": Arm(f"weight decay {WEIGHT_DECAY:g}", with_weight_decay),
    "svag": Arm("SVAG at l = 1, 2, 4", with_svag, same_at_every_level, draw_levels),
}


def chosen(options: Options, figure: Figure) -> Arm:
    """The arm that is asked for. Raises InputError if the figure does not have it."""
    if options.arm not in (EPOCHS, *figure.arms):
        raise InputError(f"--arm: {figure.name} has no arm {options.arm!r}, only {', '.join((EPOCHS, *figure.arms))}")
    return ARMS[options.arm]
