"""From the results folder to evidence: a table of a figure's runs, or the chains of a theory's simulations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from three_factors.reproduce.engine.contract.folder import PathFolder, Results, RunFolder, Say, SimulationFolder
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.judge.chains import Chains
from three_factors.reproduce.engine.judge.table import EIGENVALUE, NOISE, STABILITY, STEP_VARIANCE, Table

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.experiment import Experiment
    from three_factors.reproduce.theory.simulate import Simulation


def table_of(experiment: Experiment, items: Sequence[Item], results: Results, say: Say) -> Table:
    """Returns the table of the runs and lines that are done."""
    rows: list[dict[str, Any]] = []
    curves, steps, profiles = {}, {}, {}
    for item in items:
        folder, result, place = results.folder(item.spec), results.finished(item, say), (item.label, item.seed)
        if result is None:
            continue
        row = {"label": item.label, "seed": item.seed, "status": result["status"], **item.factors}
        row |= {k: v for k, v in result["final"].items() if v is not None}
        if isinstance(folder, PathFolder):
            rows.append(row | {"key": item.spec.key})
            profiles[place] = result["profiles"]
            continue
        assert isinstance(folder, RunFolder)
        epochs, reached = folder.rows(), folder.milestones(item.measurements, result)
        row |= reached | _stability_at(reached, epochs)
        rows.append(row | {"seconds": result["provenance"]["seconds"], "key": item.spec.key})
        if result["status"] == "ok":
            plain = [{k: v for k, v in epoch.items() if k != "steps"} | _of_steps(epoch["steps"]) for epoch in epochs]
            curves[place] = pd.DataFrame(plain).set_index("epoch")
            rows[-1] |= experiment.derive(curves[place])
            each = [pd.DataFrame(epoch["steps"]).assign(epoch=epoch["epoch"]) for epoch in epochs]
            steps[place] = pd.concat(each, ignore_index=True)
    order = list(dict.fromkeys(item.label for item in items))
    frame = pd.DataFrame(rows, columns=None if rows else ["label", "seed", "status"])
    frame = frame.sort_values(["label", "seed"], key=lambda c: c.map(order.index) if c.name == "label" else c)
    factors = {item.label: item.factors for item in items}
    return Table(frame.reset_index(drop=True), curves, steps, profiles, factors)


def chains_of(specs: dict[str, Simulation], items: Sequence[Item], results: Results, source: Prepared | None) -> Chains:
    """Returns the chains of finished simulations; those of all seeds of a label are one sample."""
    parts: dict[str, list[np.ndarray]] = {label: [] for label in specs}
    for item in items:
        folder = results.folder(item.spec)
        assert isinstance(folder, SimulationFolder)
        parts[item.label].append(np.load(folder.samples).astype(float))
    return Chains(specs, {label: np.concatenate(found, axis=1) for label, found in parts.items() if found}, source)


def _of_steps(steps: dict[str, list[Any]]) -> dict[str, float]:
    return {STEP_VARIANCE: _variance(steps["loss"]), NOISE: steps["lr"][-1] / steps["batch_size"][-1]}


def _stability_at(reached: dict[str, float], epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Returns eta·lambda_max at the milestones where lambda_max was measured, with eta of the last step before."""
    found = {}
    for name, top in reached.items():
        milestone = name.removesuffix(f" {EIGENVALUE}")
        if milestone != name:
            epoch = round(reached[f"{milestone} epoch"])
            lr = epochs[epoch - 1]["steps"]["lr"][-1] if epoch else epochs[0]["steps"]["lr"][0]
            found[f"{milestone} {STABILITY}"] = lr * top
    return found


def _variance(losses: list[float]) -> float:
    """Returns the variance of an epoch's step losses about a straight line; NaN for fewer than 4 steps."""
    if len(losses) < 4:
        return math.nan
    at = np.arange(len(losses)) - (len(losses) - 1) / 2
    left = np.asarray(losses) - np.mean(losses)
    left = left - at * (at @ left) / (at @ at)
    return float(left @ left) / (len(losses) - 2)
