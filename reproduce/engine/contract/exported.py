"""What a new block of the archive says of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from three_factors.reproduce.engine.contract.compact import MEANS, is_rough, packed, step_means
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item, RunSpec
from three_factors.reproduce.engine.contract.steps import DTYPE, OF_PLAN, whole
from three_factors.reproduce.engine.contract.stored import encode


def described(runs: Sequence[tuple[Item, RunFolder]]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns a block's arrays, and what its JSON says of the runs."""
    settings, environments, kinds, means = list[Any](), list[Any](), list[Any](), list[np.ndarray]()
    told: dict[str, list[Any]] = {
        name: []
        for name in (
            "runs",
            "setting",
            "seed",
            "status",
            "epochs",
            "counts",
            "milestones",
            "environment",
            "steps",
        )
    }
    finals, reached, seconds, first = list[Any](), list[Any](), list[float](), list[float]()
    curves: list[dict[str, np.ndarray]] = []
    for item, folder in runs:
        result = folder.result()
        assert result is not None
        assert isinstance(item.spec, RunSpec)
        rows = folder.rows()
        setting = {k: v for k, v in encode(item.spec).items() if k != "seed"}
        where = {k: v for k, v in result["provenance"].items() if not k.endswith("seconds")}
        if "data_origin" in where:  # a path of the machine that it was made on is nobody else's
            where["data_origin"] = Path(where["data_origin"]).name
        values = {("", at, name): v for at, of in result.get("milestones", {}).items() for name, v in of.items()}
        measured = {}
        for m in item.measurements:
            found = folder.measured(m)
            if found is not None:
                measured[m.key] = list(found)
                values |= {(m.key, at, name): v for at, of in found.items() for name, v in of.items()}
        losses = folder.step_losses() if item.every_step else None
        for name, value in (
            ("runs", item.spec.key),
            ("setting", _place(settings, setting)),
            ("seed", item.spec.seed),
            ("status", result["status"]),
            ("epochs", len(whole(rows))),
            ("counts", len(rows)),
            ("milestones", _place(kinds, [list(result.get("milestones", {})), measured])),
            ("environment", _place(environments, where)),
            ("steps", -1 if losses is None else len(means)),
        ):
            told[name].append(value)
        if losses is not None:
            means.append(step_means(losses))
        seconds.append(result["provenance"]["seconds"])
        first.append(np.nan if result.get("first_loss") is None else result["first_loss"])
        finals.append({k: v for k, v in result["final"].items() if v is not None})
        reached.append({k: v for k, v in values.items() if v is not None})
        names = dict.fromkeys(name for row in rows for name in row if name not in OF_PLAN)
        curves.append({name: np.array([row.get(name) for row in rows], dtype=float) for name in names})
    columns = {
        "finals": list(dict.fromkeys(name for of in finals for name in of)),
        "reached": list(dict.fromkeys(name for of in reached for name in of)),
        "rows": list(dict.fromkeys(name for of in curves for name in of)),
    }
    arrays = {
        "finals": _table(finals, columns["finals"]),
        "seconds": np.array(seconds),
        "first_loss": np.array(first, dtype=float),
        "step means": np.stack(means) if means else np.empty((0, MEANS), DTYPE),
    }
    for i, name in enumerate(columns["rows"]):
        blank = [np.full(count, np.nan) for count in told["counts"]]
        arrays[f"row {i}"] = packed([of.get(name, none) for of, none in zip(curves, blank)])
    exact, rough = ([n for n in columns["reached"] if is_rough(n[2]) == kind] for kind in (False, True))
    arrays["reached"] = _table(reached, exact)
    arrays["rough"] = packed(list(_table(reached, rough).T)) if rough else np.empty(0, np.uint8)
    columns["reached"] = [list(name) for name in (*exact, *rough)]
    return arrays, {"settings": settings, "environments": environments, "kinds": kinds} | told | columns


def _place(known: list[Any], value: Any) -> int:
    if value not in known:
        known.append(value)
    return known.index(value)


def _table(rows: Sequence[Mapping[Any, float]], names: Sequence[Any]) -> np.ndarray:
    values = [[row.get(name, np.nan) for name in names] for row in rows]
    return np.array(values, dtype=float).reshape(len(rows), len(names))
