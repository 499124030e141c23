"""Whether results on disk are of the settings, networks, measurements and claims that the code has now."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from three_factors.datamodules.prepared import Prepared, cached
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.engine.arms import ARMS
from three_factors.reproduce.engine.definition import Figure
from three_factors.reproduce.engine.files import read_cache
from three_factors.reproduce.engine.options import Options, Scale
from three_factors.reproduce.engine.planning import Plan, measured
from three_factors.reproduce.engine.simulated import Theory
from three_factors.reproduce.engine.table import Table


def is_current(definition: Figure | Theory, folder: Path, scale: Scale, data_dir: Path) -> bool:
    """Whether a folder of results holds the runs, measurements and claims that the definition asks for now.

    A theory on a data set needs the data for that: without them it is not known, and False.
    """
    told = read_cache(folder / "provenance.json")
    try:
        if isinstance(definition, Theory):
            return set(told["runs"].values()) >= _simulations(definition, told, scale, data_dir)
        return _of_figure(definition, told, folder, scale)
    except (KeyError, TypeError, ValueError, OSError, DataError):
        return False  # written before this was told, or settings that no longer fit the data


def _simulations(theory: Theory, told: dict[str, Any], scale: Scale, data_dir: Path) -> set[str]:
    """Keys. They depend on the data themselves, not only on their shape."""
    source = told["source"] and cached(told["source"]["name"], data_dir)
    if source is not None and source.fingerprint != told["source"]["fingerprint"]:
        raise ValueError("other data than these")
    if (source is None) != (theory.data is None):
        raise ValueError("the data are not here")
    specs = theory.simulations(scale, *([] if source is None else [source]))
    return {replace(spec, seed=seed).key for seed in range(told["seeds"]) for spec in specs.values()}


def _of_figure(figure: Figure, told: dict[str, Any], folder: Path, scale: Scale) -> bool:
    arm, seeds = ARMS[told["arm"]], told["seeds"]
    source = Prepared(**told["source"], folder="", origin="")
    plan = Plan(figure, Options(scale=scale, seeds=seeds, arm=told["arm"]), source, arm)
    runs = plan.runs()
    runs += plan.final(runs, Table(pd.read_csv(folder / "table.csv"), {}))
    if not set(told["runs"].values()) >= {run.spec.key for run in runs} or told["measured"] != measured(runs):
        return False
    if arm.check is not None:
        return True  # its claims are not imagined
    imagined = figure.experiment.imagined(scale, seeds, np.random.default_rng(0))
    written = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    return [(c.claim, c.statistic) for c in figure.check(imagined)] == [(c["claim"], c["statistic"]) for c in written]
