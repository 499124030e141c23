"""A mirror of one run, whose folder holds so many rows: what the tests of W&B take."""

import json

import numpy as np

from tests.reproduce.specs import SPEC
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import DTYPE, STEP_LOSSES
from three_factors.reproduce.engine.watch.mirror import Mirror

RUN = Item("a", 0, SPEC)

ROW = {
    "epoch": 1,
    "step": 2,
    "t_eta": 0.2,
    "train/loss": 2.0,
    "test/accuracy": 0.5,
    "train/step_variance": 0.5,
    "noise/lr": 0.1,
    "noise/batch_size": 32,
}
LOSSES = (2.5, 1.5)  # of a row's steps


def mirror(tmp_path, mode="offline", said=None):
    return Mirror(mode, tmp_path, "fig4-smoke", ["fig4"], {}, (said if said is not None else []).append)


def folder(tmp_path, rows=1):
    path = tmp_path / "runs" / "0123456789abcdef"
    path.mkdir(parents=True, exist_ok=True)
    np.tile(LOSSES, rows).astype(DTYPE).tofile(path / STEP_LOSSES)
    written = [ROW | {"epoch": i + 1, "step": len(LOSSES) * (i + 1)} for i in range(rows)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return RunFolder(path)
