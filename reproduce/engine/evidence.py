"""From the results folder to evidence: a table of a figure's runs, or the chains of a theory's simulations.

What a run ended at is the mean of its evaluations in its last tenth, of a cycle at its low noise there, five of them or
more: the last iterate alone at constant eta is the noisiest outcome there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from three_factors.reproduce.engine.contract.compact import four_digits, is_rough
from three_factors.reproduce.engine.contract.ends import TAIL, ends_from, of_what
from three_factors.reproduce.engine.contract.folder import Say
from three_factors.reproduce.engine.contract.folders import PathFolder, SimulationFolder
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item, RunSpec
from three_factors.reproduce.engine.contract.steps import BATCH_SIZE, LR, OF_PLAN, first_lr, planned, whole
from three_factors.reproduce.engine.judge.chains import Chains
from three_factors.reproduce.engine.judge.table import ACCURACIES, NOISE, PARTS, STABILITIES, Table

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.experiment import Experiment
    from three_factors.reproduce.theory.simulation import Simulation


def table_of(experiment: Experiment, items: Sequence[Item], results: Results, say: Say) -> Table:
    """Returns the table of the runs and lines that are done."""
    rows: list[dict[str, Any]] = []
    curves, of_steps, profiles = {}, {}, {}
    for item in items:
        result, place = results.finished(item, say), (item.label, item.seed)
        if result is None:
            continue
        folder = results.place(item)
        row = {"label": item.label, "seed": item.seed, "status": result["status"], **item.factors}
        row |= {k: v for k, v in result["final"].items() if v is not None}
        if result["status"] == "diverged" and isinstance(item.spec, RunSpec):
            row |= dict.fromkeys(result["final"].keys() & set(ACCURACIES), 1 / item.spec.network.num_classes)
        if isinstance(folder, PathFolder):
            rows.append(row | {"key": item.spec.key})
            profiles[place] = result["profiles"]
            continue
        assert isinstance(folder, RunFolder)
        assert isinstance(item.spec, RunSpec)
        epochs, reached = folder.rows(), _kept(folder.milestones(item.measurements, result))
        row |= reached | _stability_at(reached, epochs, item.spec)
        rows.append(row | {"seconds": result["provenance"]["seconds"], "key": item.spec.key})
        if result["status"] == "ok":
            frame = pd.DataFrame(epochs).set_index("epoch").apply(_shortened)
            frame[NOISE] = frame.pop(LR) / frame.pop(BATCH_SIZE)
            curves[place] = frame
            rows[-1] |= endpoint(frame, item.spec) | experiment.derive(frame, item.spec)
            of_steps[place] = partial(_steps, item.spec, folder, len(whole(epochs)), result)
    order = list(dict.fromkeys(item.label for item in items))
    frame = pd.DataFrame(rows, columns=None if rows else ["label", "seed", "status"])
    frame = frame.sort_values(["label", "seed"], key=lambda c: c.map(order.index) if c.name == "label" else c)
    factors = {item.label: item.factors for item in items}
    return Table(frame.reset_index(drop=True), curves, _Lazy(of_steps), profiles, factors)


EVALUATED = tuple(f"{part}/{what}" for part in PARTS for what in ("accuracy", "loss"))


def endpoint(rows: pd.DataFrame, spec: RunSpec) -> dict[str, float]:
    """Returns losses and accuracies where a run ended: means over the evaluations there (`ends.of_what`).

    A run that was stopped at a level ended there: its last evaluation counts alone.
    """
    measured = rows[[name for name in EVALUATED if name in rows]].dropna(how="all")
    if measured.empty:
        return {}
    if spec.stop_at_loss is not None or spec.stop_at_accuracy is not None:
        chosen = measured.iloc[-1:]
    elif of_what(spec) == "steps":
        steps = rows["step"]
        chosen = measured[steps[measured.index] > (1 - TAIL) * steps.iloc[-1]]
    else:
        chosen = measured[measured.index > ends_from(spec)]
    return {str(name): float(value) for name, value in chosen.mean().items() if not math.isnan(value)}


def chains_of(specs: dict[str, Simulation], items: Sequence[Item], results: Results, source: Prepared | None) -> Chains:
    """Returns the chains of finished simulations; those of all seeds of a label are one sample."""
    parts: dict[str, list[np.ndarray]] = {label: [] for label in specs}
    for item in items:
        folder = results.folder(item.spec)
        assert isinstance(folder, SimulationFolder)
        parts[item.label].append(np.load(folder.samples).astype(float))
    return Chains(specs, {label: np.concatenate(found, axis=1) for label, found in parts.items() if found}, source)


def _kept(reached: dict[str, float]) -> dict[str, float]:
    """Rounds of what was measured at milestones what the archive does not have exactly."""
    return {k: float(four_digits(np.array(v))) if is_rough(k) else v for k, v in reached.items()}


def _shortened(column: pd.Series) -> pd.Series:
    """Rounds measured curves to the digits that the archive has, so that both give the same evidence."""
    return column if column.name in OF_PLAN else pd.Series(four_digits(column.to_numpy(dtype=float)), column.index)


class _Lazy(Mapping[tuple[str, int], pd.DataFrame]):
    """Makes a value when it is first asked for: a paper-scale run has a million steps."""

    def __init__(self, make: Mapping[tuple[str, int], Callable[[], pd.DataFrame]]) -> None:
        self._make, self._made = make, dict[tuple[str, int], pd.DataFrame]()

    def __getitem__(self, key: tuple[str, int]) -> pd.DataFrame:
        if key not in self._made:
            self._made[key] = self._make[key]()
        return self._made[key]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


def _steps(spec: RunSpec, folder: RunFolder, epochs: int, result: dict[str, Any]) -> pd.DataFrame:
    """Returns a row a step: epoch, loss (NaN if it was not kept), eta, S."""
    where = result["provenance"]
    steps = planned(spec, epochs, where.get("devices", 1) * where.get("num_nodes", 1))
    losses = folder.step_losses()
    frame = pd.DataFrame(
        {"epoch": steps.epoch.astype(np.int32), "lr": steps.lr, "batch_size": steps.batch_size.astype(np.int32)}
    )
    return frame.assign(loss=np.float32(math.nan) if losses is None else losses)


def _stability_at(reached: dict[str, float], rows: list[dict[str, Any]], spec: RunSpec) -> dict[str, float]:
    """Returns eta times what stability is about, at the milestones where that was measured.

    eta is that of the last step before.
    """
    found, of_epoch = {}, {row["epoch"]: row for row in whole(rows)}
    for name, value in reached.items():
        for measured, stability in STABILITIES.items():
            milestone = name.removesuffix(f" {measured}")
            if milestone != name:
                epoch = round(reached[f"{milestone} epoch"])
                lr = of_epoch[epoch][LR] if epoch else first_lr(spec)
                found[f"{milestone} {stability}"] = lr * value
    return found
