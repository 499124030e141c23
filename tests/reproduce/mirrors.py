"""A mirror of one run, whose folder holds so many rows: what the tests of W&B take."""

import json

from tests.reproduce.specs import SPEC
from three_factors.reproduce.engine.contract.folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.watch.mirror import Mirror

RUN = Item("a", 0, SPEC)

ROW = {
    "epoch": 1, "step": 2, "t_eta": 0.2, "train/loss": 2.0, "test/accuracy": 0.5,
    "steps": {"loss": [2.5, 1.5], "lr": [0.1, 0.1], "batch_size": [32, 32]},
}  # fmt: skip


def mirror(tmp_path, mode="offline", said=None):
    return Mirror(mode, tmp_path, "fig4-smoke", ["fig4"], {}, (said if said is not None else []).append)


def folder(tmp_path, rows=1):
    path = tmp_path / "runs" / "0123456789abcdef"
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(ROW | {"epoch": i + 1}) + "\n" for i in range(rows)))
    return RunFolder(path)
