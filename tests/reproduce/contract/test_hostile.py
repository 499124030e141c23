"""What a results folder, a checkpoint or a file of weights names is looked up; nothing in it is imported or run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reproduce.script import PATIENCE, ROOT
from tests.reproduce.specs import MEASURED, MLP, SPEC
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.stored import decode, dumps, encode
from three_factors.reproduce.engine.worker.process import run_folder
from three_factors.reproduce.engine.worker.train import LostWeights

HARMLESS = replace(MLP, epochs=2)

OWN = """
from dataclasses import dataclass
from pathlib import Path

Path({marker!r}).touch()

{register}
@dataclass(frozen=True)
class Mine:
    value: float

    def __post_init__(self):
        Path({marker!r}).with_suffix(".made").touch()

    def __call__(self, epoch):
        return self.value
"""


def module(folder: Path, register: bool = False) -> Path:
    """Writes a module `own_schedules` whose import leaves a marker; returns the marker."""
    marker = folder / "imported"
    line = "from three_factors.reproduce.engine.contract.names import register\n@register" if register else ""
    (folder / "own_schedules.py").write_text(OWN.format(marker=str(marker), register=line))
    return marker


@pytest.mark.parametrize("name", ["own_schedules:Mine", "os:system", "subprocess:Popen", "builtins:eval", 7, None])
def test_a_class_that_only_a_file_names_is_neither_imported_nor_made(name, tmp_path, monkeypatch):
    marker = module(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="none of the classes that are stored"):
        decode({"type": name, "value": 1.0})
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["schedule", "network"])
def test_a_worker_refuses_a_folder_that_names_a_class_of_its_own(inside, tmp_path):
    marker = module(tmp_path)
    folder = tmp_path / "runs" / "0123456789abcdef"
    folder.mkdir(parents=True)
    spec = encode(SPEC)
    spec[inside] = {"type": "own_schedules:Mine", "value": 1.0}
    (folder / "spec.json").write_text(json.dumps(spec))
    Job(prepare("digits28")).write(folder)
    command = [sys.executable, "reproduce/worker.py", str(folder)]
    answer = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 2
    assert "spec.json cannot be read (spec: 'own_schedules:Mine' is none of the classes" in answer.stderr
    assert not marker.exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_call_may_name_a_module_whose_classes_a_spec_may_hold(known, tmp_path):
    module(tmp_path, register=True)
    code = (
        "import sys; from three_factors.reproduce.engine.contract.stored import loads; "
        "print(loads(sys.stdin.read()).schedule.lr(0))"
    )
    text = dumps(replace(SPEC, schedule=NoiseSchedule(0.25, 32))).replace(
        '"lr": {"type": "datamodules.schedules:Constant", "value": 0.25}',
        '"lr": {"type": "own_schedules:Mine", "value": 0.25}',
    )
    answer = subprocess.run(
        [sys.executable, "-c", ("import own_schedules; " if known else "") + code],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        input=text,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == ("0.25" if known else "")
    assert known or "nor registered by this call" in answer.stderr


RUN = """
import sys
from dataclasses import replace
from pathlib import Path

from three_factors.datamodules.schedules import NoiseSchedule
from own_schedules import Mine
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.launch.server import Server
from tests.reproduce.specs import MLP

if __name__ == "__main__":
    devices, server = int(sys.argv[2]), Server()
    spec = replace(MLP, schedule=NoiseSchedule(Mine(0.01), 24), keep=None, momentum=0.0)
    job = Job(server.prepare("digits28", Path("nowhere")), devices=devices)
    folder = RunFolder(Path(sys.argv[1]) / spec.key)
    assert not Runner(server, jobs=1, devices=devices).run([Task(Item("mine", 0, spec), folder, job)], Watcher())
    print(folder.result()["status"], {row["noise/lr"] for row in folder.rows()})
"""


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.ddp)])
@pytest.mark.slow
def test_runs_of_a_script_know_the_classes_that_it_has_registered(devices, tmp_path):
    module(tmp_path, register=True)
    (tmp_path / "mine.py").write_text(RUN)
    answer = subprocess.run(
        [sys.executable, str(tmp_path / "mine.py"), str(tmp_path / "runs"), str(devices)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert answer.stdout.strip() == "ok {0.01}", answer.stderr


class Hostile:
    """Leaves a marker where it is read by pickle's rules."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def run(tmp_path):
    """A folder of a run that is to be done, ready; the marker is `tmp_path / "run by it"`."""
    folder = RunFolder(tmp_path / HARMLESS.key)
    folder.prepare(HARMLESS, Job(prepare("digits28")), (MEASURED,))
    return folder


def test_the_marker_is_left_where_a_file_is_trusted(tmp_path):
    torch.save(Hostile(tmp_path / "run by it"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "run by it").exists()


@pytest.mark.parametrize("whole", [True, False], ids=["a good checkpoint and more", "the object alone"])
def test_a_checkpoint_that_would_run_something_is_not_read(whole, run, tmp_path, capsys):
    there = {"callbacks": {"Recorder": {"rows": 0}}, "epoch": 0, "global_step": 0} if whole else {}
    torch.save(there | {"more": Hostile(tmp_path / "run by it")}, run.checkpoint)
    run_folder(run.path)
    assert "training.ckpt cannot be read" in capsys.readouterr().out
    assert run.complete((MEASURED,))["status"] == "ok"
    assert not (tmp_path / "run by it").exists()


def test_weights_that_would_run_something_are_not_read(run, tmp_path):
    run_folder(run.path)
    torch.save({"0.weight": Hostile(tmp_path / "run by it")}, run.weights("end"))
    (run.path / f"measured-{MEASURED.key}.json").unlink()
    with pytest.raises(LostWeights, match=r"end\.pt is damaged"):
        run_folder(run.path)
    assert not (tmp_path / "run by it").exists()


def test_a_job_cannot_bring_data_that_would_run_something(run, tmp_path):
    job = json.loads((run.path / "job.json").read_text())
    for array in Path(job["data"]["folder"]).glob("*.npy"):
        hostile = np.array([Hostile(tmp_path / "run by it")], dtype=object)
        np.save(tmp_path / array.name, hostile, allow_pickle=True)
    (run.path / "job.json").write_text(json.dumps(job | {"data": job["data"] | {"folder": str(tmp_path)}}))
    with pytest.raises(ValueError, match="Python objects"):
        run_folder(run.path)
    assert not (tmp_path / "run by it").exists()


def test_rows_that_would_run_something_are_damage(run, tmp_path):
    run_folder(run.path)
    for content in (pickle.dumps(Hostile(tmp_path / "run by it")), b'__import__("os").system("true")\n'):
        (run.path / "metrics.jsonl").write_bytes(content + b"\n")
        with pytest.raises(ValueError, match="is damaged"):
            run.result()
    assert not (tmp_path / "run by it").exists()
