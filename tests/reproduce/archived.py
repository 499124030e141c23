"""Finished runs with made-up numbers, and archives of them."""

import json
from dataclasses import replace

import numpy as np

from tests.reproduce.specs import MEASURED, SPEC
from three_factors.reproduce.engine.contract.archive import Archive
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import DTYPE, OF_STEPS, STEP_LOSSES, planned

LONG = replace(SPEC, epochs=12)
DATA = {"name": "cifar10", "fingerprint": "0123", "train": 50_000, "test": 10_000, "channels": 3, "size": 32}
TOLD = {"figure": "fig4", "scale": "paper", "arm": "epochs", "data": DATA | {"classes": 10}, "lines": {}}


def item(seed, *, every_step=True, epochs=LONG.epochs):
    return Item("cyclic S", seed, replace(LONG, seed=seed, epochs=epochs), (MEASURED,), {"S": 32}, every_step)


def write(results, one, *, epochs=None, status="ok", measured=True, elsewhere=False, seconds=1.25):
    """Writes a finished run with noisy numbers, others where it is made elsewhere; it may have stopped early."""
    folder, random = results.folder(one.spec).path, np.random.default_rng(one.seed + 1000 * elsewhere)
    folder.mkdir(parents=True, exist_ok=True)
    count = epochs or one.spec.epochs
    steps = planned(one.spec, count)
    ends = np.searchsorted(steps.epoch, np.arange(1, count + 1), side="right").tolist()
    if one.every_step:
        np.random.default_rng([one.seed, 1]).normal(1, 0.1, ends[-1]).astype(DTYPE).tofile(folder / STEP_LOSSES)
    rows = []
    for epoch, end in enumerate(ends, start=1):
        row = {"epoch": epoch, "step": end, "t_eta": float(np.cumsum(steps.lr)[end - 1])}
        row |= {"train/step_variance": None if epoch % 7 == 0 else float(random.exponential())}
        row |= {"noise/lr": float(steps.lr[end - 1]), "noise/batch_size": int(steps.batch_size[end - 1])}
        row |= {"train/loss": float(random.exponential())}
        if epoch % 3 == 0:
            row |= {"test/accuracy": float(random.uniform()), "test/loss": float(random.exponential())}
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "key": one.spec.key,
        "status": status,
        "first_loss": 2.302585092994046,
        "final": {k: v for k, v in rows[-1].items() if k not in OF_STEPS} | {"val/loss": None},
        "bytes": (folder / "metrics.jsonl").stat().st_size,
        "milestones": {"best": {"epoch": 3, "val/loss": 0.1 + 0.2}, "end": {}},
        "provenance": {"seconds": seconds, "devices": 1, "num_nodes": 1, "accelerator": "cpu"},
    }
    (folder / "result.json").write_text(json.dumps(result))
    for measurement in one.measurements if measured else ():
        found = {at: {"hessian/trace": float(random.exponential()), "hessian/frobenius": None} for at in measurement.at}
        (folder / f"measured-{measurement.key}.json").write_text(json.dumps({"milestones": found}))


def exported(folder, *items, elsewhere=False):
    """Returns a results folder with these runs, and an archive of them."""
    results, archive = Results(folder / "out"), Archive(folder / "archive")
    for one in items:
        write(results, one, elsewhere=elsewhere)
    archive.add(f"of {folder.name}", TOLD, [(one, results.folder(one.spec)) for one in items])
    return results, archive
