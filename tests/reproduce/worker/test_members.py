"""The record of a run: what it says is done is on the disk before it says so."""

import json
import os
from dataclasses import replace

import pytest

from tests.reproduce.specs import MLP
from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.engine.contract.files import digest
from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.steps import STEP_LOSSES
from three_factors.reproduce.engine.worker.process import run_folder

SPECS = [replace(MLP, seed=seed, epochs=2, keep=None) for seed in range(2)]


@pytest.fixture
def stored(monkeypatch):
    """Inode and size of each file when it was brought to the disk."""
    found, fsync = [], os.fsync

    def record(descriptor):
        there = os.fstat(descriptor)
        found.append((there.st_ino, there.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["a run of its own", "members of a pack"])
@pytest.mark.slow
def test_all_rows_and_steps_are_on_the_disk_before_there_is_a_result(packed, stored, tmp_path):
    job = Job(prepare("digits28"), every_step=True, checkpoint_every=1000.0)
    folders = [RunFolder(tmp_path / "runs" / spec.key) for spec in SPECS]
    for spec, folder in zip(SPECS, folders):
        folder.prepare(spec, job)
    if packed:
        pack = Pack.of(SPECS)
        there = PackFolder(tmp_path / "packs" / pack.key)
        there.prepare(pack, job)
        run_folder(there.path)
    for folder in folders:
        run_folder(folder.path)
        result = json.loads((folder.path / "result.json").read_text())
        before = stored[: stored.index(place(folder.path / "result.json"))]
        for name in ("metrics.jsonl", STEP_LOSSES):
            assert place(folder.path / name) in before, name
            assert result["sha256"][name] == digest(folder.path / name)


def place(file):
    there = file.stat()
    return there.st_ino, there.st_size
