"""Whether results on disk are of the settings, networks and measurements that the code has now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.sources import Prepared
from reproduce.engine.arms import ARMS
from reproduce.engine.definition import Figure
from reproduce.engine.files import read_cache
from reproduce.engine.options import Options, Scale
from reproduce.engine.planning import Plan, measured
from reproduce.engine.simulated import Theory
from reproduce.engine.table import Table


def is_current(definition: Figure | Theory, folder: Path, scale: Scale) -> bool:
    """Whether a folder of results holds the runs and measurements that the definition asks for now."""
    told = read_cache(folder / "provenance.json")
    try:
        source = Prepared(**told["source"], folder="", origin="") if told["source"] else None
        keys, measurements = _asked(definition, told, source, folder, scale)
    except (KeyError, TypeError, ValueError):  # written before this was told, or settings that no longer fit the data
        return False
    return set(told["runs"].values()) >= keys and told.get("measured", []) == measurements


def _asked(
    definition: Figure | Theory, told: dict[str, Any], source: Prepared | None, folder: Path, scale: Scale
) -> tuple[set[str], list[str]]:
    """Keys of the runs (of a tuned figure, with those that its table chooses) and of the measurements."""
    seeds = told["seeds"]
    if isinstance(definition, Theory):
        specs = definition.simulations(scale, *([] if source is None else [source]))
        return {replace(spec, seed=seed).key for seed in range(seeds) for spec in specs.values()}, []
    assert source is not None
    plan = Plan(definition, Options(scale=scale, seeds=seeds, arm=told["arm"]), source, ARMS[told["arm"]])
    runs = plan.runs()
    runs += plan.final(runs, Table(pd.read_csv(folder / "table.csv"), {}))
    return {run.spec.key for run in runs}, measured(runs)
