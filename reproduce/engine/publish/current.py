"""Whether results on disk are of the settings, networks, measurements and claims that the code has now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from three_factors.datamodules.prepared import Prepared, cached
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.engine.contract.files import read_cache
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.definition import Definition, Figure, Theory
from three_factors.reproduce.engine.judge.rules import as_json
from three_factors.reproduce.engine.judge.table import SyntheticTable, Table
from three_factors.reproduce.engine.options import PRECISION, Options, Scale
from three_factors.reproduce.engine.planning import FigurePlan, TheoryPlan
from three_factors.reproduce.engine.publish.outputs import measured


def is_current(definition: Definition, folder: Path, scale: Scale, data_dir: Path) -> bool:
    """Tells whether a folder of results holds the runs, measurements and claims that the definition asks for now.

    A theory on a data set needs the data for that: without them it is not known, and False.
    """
    told = read_cache(folder / "provenance.json")
    try:
        if isinstance(definition, Theory):
            items = _simulations(definition, told, scale, data_dir)
            if any("primary" not in claim for claim in _claims(folder)):
                return False  # judged by the first edition of the rules
            return set(told["runs"].values()) >= {item.spec.key for item in items}
        assert isinstance(definition, Figure)
        return _of_figure(definition, told, folder, scale)
    except (KeyError, TypeError, ValueError, OSError, DataError):
        return False  # written before this was told, or settings that no longer fit the data


def of_precision(definition: Definition, told: str | None, options: Options) -> bool:
    """Tells whether results are of runs in the precision that a call asks for; simulations have none.

    told: theirs; results that do not say it are of the scale's own.
    """
    return "precision" not in definition.flags or (told or PRECISION[options.scale]) == options.arithmetic


def _claims(folder: Path) -> list[dict[str, Any]]:
    file = folder / "claims.json"
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []


def _simulations(theory: Theory, told: dict[str, Any], scale: Scale, data_dir: Path) -> list[Item]:
    """Returns the simulations. They depend on the data themselves, not only on their shape."""
    source = told["source"] and cached(told["source"]["name"], data_dir)
    if source is not None and source.fingerprint != told["source"]["fingerprint"]:
        raise ValueError("other data than these")
    if (source is None) != (not theory.data):
        raise ValueError("the data are not here")
    return TheoryPlan(theory, Options(scale=scale, seeds=told["seeds"]), source or None).foreseen()[0].items


def _of_figure(figure: Figure, told: dict[str, Any], folder: Path, scale: Scale) -> bool:
    arm, seeds = figure.arm(told["arm"]), told["seeds"]
    source = Prepared(**told["source"], folder="", origin="")
    options = Options(scale=scale, seeds=seeds, arm=told["arm"], precision=told.get("precision"))
    plan = FigurePlan(figure, options, source, arm)
    runs = plan.runs()
    factors = {item.label: item.factors for item in runs}
    runs += plan.final(runs, Table(pd.read_csv(folder / "table.csv"), {}, factors=factors))
    if not set(told["runs"].values()) >= {run.spec.key for run in runs} or told["measured"] != measured(runs):
        return False
    if arm.check is not None:
        return True  # its claims are not imagined
    try:
        imagined = figure.experiment.imagined(scale, seeds, np.random.default_rng(0))
    except NotImplementedError:
        return True  # its claims are not known without a table: runs and measurements alone tell
    if len(figure.data) > 1:  # on each of them it has other settings, and claims of these
        assert isinstance(imagined, SyntheticTable)
        imagined = imagined.among({run.label: run.factors for run in runs})
    written = _claims(folder)
    claims = [(finding.about.id, as_json(finding.rule)) for finding in figure.check(imagined)]
    primary = [c["id"] for c in written if c.get("primary")]
    named = [name for name, _ in claims if name in (figure.primary or ())]
    return claims == [(c["id"], c["rule"]) for c in written] and primary == named
