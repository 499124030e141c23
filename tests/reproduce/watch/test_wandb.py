"""The W&B mirror: offline without a login, exact metric names, and never in a run's way."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from PIL import Image

from tests.reproduce.mirrors import LOSSES, ROW, RUN, folder, mirror
from tests.reproduce.specs import SPEC
from three_factors.callbacks.hessian import HessianMonitor
from three_factors.callbacks.measures import COSTS, Measure
from three_factors.datamodules.vision import WITH_LABEL_NOISE
from three_factors.reproduce.engine.contract.files import write_json, write_text
from three_factors.reproduce.engine.contract.job import environment_of
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.steps import DTYPE, STEP_LOSSES
from three_factors.reproduce.engine.options import InputError
from three_factors.reproduce.engine.watch import mirror as wandb_mirror

OK = {"status": "ok"}


class Logged:
    """A W&B run that keeps what it is given."""

    def __init__(self, id="", resume=None, **_):
        self.id, self.resumed, self.rows, self.summary, self.ended = id, resume, [], {}, None

    def define_metric(self, *_, **__):
        pass

    def log(self, row):
        self.rows.append(row)
        self.summary |= row

    def finish(self, exit_code=0):
        self.ended = exit_code


def epochs(run):
    return [row["epoch"] for row in run.rows if "epoch" in row]


def test_rows_that_a_resumed_run_writes_anew_are_mirrored_once(tmp_path):
    there, said = folder(tmp_path, rows=3), []
    m, run = mirror(tmp_path, said=said), Logged()
    m.runs[there.path] = wandb_mirror._Mirrored(run, RUN, there, environment_of(there.path))
    m.poll()
    write_text(there.path / "metrics.jsonl", "".join(json.dumps(ROW | {"epoch": i + 1}) + "\n" for i in range(2)))
    m.poll()
    with (there.path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(ROW | {"epoch": i, "test/loss": 0.25}) + "\n" for i in (3, 4))
    m.poll()
    assert epochs(run) == [1, 2, 3, 4]
    assert not said


def test_a_run_that_begins_again_in_another_environment_is_another_run_there(tmp_path, monkeypatch):
    """On a cluster, where an array task may come back on another machine."""
    there, runs = folder(tmp_path, rows=3), []
    m = mirror(tmp_path, "online")
    monkeypatch.setattr(m, "_init", lambda **told: runs.append(Logged(**told)) or runs[-1])
    write_json(there.path / "job.json", {"threads": 1})
    m.start(RUN, there)
    m.poll()
    write_json(there.path / "job.json", {"threads": 2})
    folder(tmp_path, rows=1)  # in the same file, or in another
    m.poll()
    m.finish(there, "ok")
    assert [epochs(run) for run in runs] == [[1, 2, 3], [1]]
    assert [run.ended for run in runs] == [1, 0]
    assert (runs[0].id != runs[1].id, runs[1].resumed) == (True, None)
    assert json.loads((there.path / "wandb.json").read_text())["id"] == runs[1].id


def test_a_file_that_wandb_misses_is_a_failure_too(tmp_path, monkeypatch):
    def missing(**_):
        raise FileNotFoundError("core is not there")

    there, said = folder(tmp_path), []
    m = mirror(tmp_path, "online", said)
    monkeypatch.setattr(m, "_init", lambda **told: Logged(**told))
    m.start(RUN, there)
    monkeypatch.setattr(m, "_init", missing)
    write_json(there.path / "job.json", {"threads": 2})
    m.poll()
    assert len(said) == 1
    assert "core is not there" in said[0]


@pytest.mark.parametrize("whole", [False, True], ids=["broken off", "whole"])
@pytest.mark.parametrize(("answer", "kept"), [("409: this run was deleted", False), ("init has timed out", True)])
def test_a_run_that_the_server_does_not_want_again_is_another_one_at_the_next_call(
    answer, kept, whole, tmp_path, monkeypatch
):
    asked, there = [], folder(tmp_path)

    def call(fails):
        m = mirror(tmp_path, "online")

        def init(**told):
            asked.append(told)
            if fails:
                raise RuntimeError(answer)
            return Logged(**told)

        monkeypatch.setattr(m, "_init", init)
        m.start(RUN, there)
        if whole:
            m.finish(there, "ok")
        m.close()

    for fails in (False, True, False):
        call(fails)
    first, second, third = (told["id"] for told in asked)
    assert second == first
    assert (third == first) == kept


def test_wandb_is_given_one_timeout(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(wandb, "init", lambda **options: given.update(options) or Logged())
    mirror(tmp_path, "online").start(RUN, folder(tmp_path))
    settings = given["settings"]
    assert settings.init_timeout == settings.finish_timeout == wandb_mirror.TIMEOUT
    assert settings.finish_timeout_raises


def inspect(run):
    """The records of an offline run, by wandb's own reader."""
    tool = Path(sys.executable).with_name("wandb")
    done = subprocess.run([tool, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"wandb leet inspect: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_an_offline_run_holds_its_rows_config_and_axes(tmp_path):
    m, f = mirror(tmp_path), folder(tmp_path, rows=2)
    m.start(Item("cyclic S", 0, SPEC), f)
    m.poll()
    m.finish(f, "ok")
    assert not m.wanted(f)
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    text = "".join(map(json.dumps, inspect(runs[0])))
    for name in ("test/accuracy", "noise/ratio", "t_eta", "step/loss", "cyclic S"):
        assert name in text


@pytest.mark.slow
def test_every_metric_has_its_axis_and_its_summary(tmp_path):
    m, f = mirror(tmp_path), folder(tmp_path)
    worse = {"epoch": 2, "step": 4, "train/loss": None, "val/accuracy": 0.8, "test/accuracy": 0.4}
    (f.path / "metrics.jsonl").write_text(
        json.dumps(ROW | {"val/accuracy": 0.7}) + "\n" + json.dumps(ROW | worse) + "\n"
    )
    m.start(RUN, f)
    m.finish(f, "ok", {"end hessian/frobenius": 3.5})
    records = inspect(next((tmp_path / "wandb").glob("offline-run-*")))
    defined = {r["metric"]["name"]: r["metric"] for r in records if r["type"] == "metric"}
    assert set(defined) == {*wandb_mirror.METRICS, *wandb_mirror.AXES, "step/loss"}
    for name in wandb_mirror.METRICS:
        assert defined[name]["step_metric"] == "epoch"
    assert defined["step/loss"]["step_metric"] == "step"
    kept = {name: set(metric["summary"]) for name, metric in defined.items() if metric.get("summary")}
    best = {name: {"max", "last"} for name in ("val/accuracy", "test/accuracy")}
    assert kept == best | {name: {"min", "last"} for name in wandb_mirror.LOSSES}
    summary = {}
    for record in records:
        summary |= record["summary"]["update"] if record["type"] == "summary" else {}
    assert summary["test/accuracy"] == {"max": 0.5, "last": 0.4}
    assert summary["val/accuracy"] == {"max": 0.8, "last": 0.8}
    assert summary["train/loss"] == {"min": 2.0, "last": None}  # a diverged epoch has none
    assert summary["noise/lr"] == 0.1
    assert summary["end hessian/frobenius"] == 3.5
    assert summary["status"] == "ok"


def test_the_metrics_are_what_runs_log():
    assert set(wandb_mirror.DATA_PARTS) == {"train", *WITH_LABEL_NOISE}
    module = torch.nn.Linear(4, 3)
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(3)]
    monitor = HessianMonitor(measures=COSTS, loss=torch.nn.functional.cross_entropy)
    measured = monitor.measure(module, batches, lr=0.1)
    logged = {"hessian/seconds", *measured}  # which the monitor adds in a training
    assert logged == {name for name in wandb_mirror.METRICS if name.startswith("hessian/")}
    assert get_args(Measure) == tuple(COSTS)


@pytest.mark.slow
def test_rows_are_mirrored_as_they_come_and_only_once(tmp_path):
    m, f = mirror(tmp_path), folder(tmp_path)
    m.start(RUN, f)
    logged = []
    m.runs[f.path.name].run.log = logged.append
    m.poll()
    with (f.path / "metrics.jsonl").open("a") as file:
        text = json.dumps(ROW | {"epoch": 2, "step": 4}) + "\n"
        file.write(text[:30])
        file.flush()
        m.poll()  # half a line is left for later
        file.write(text[30:])
    np.tile(LOSSES, 2).astype(DTYPE).tofile(f.path / STEP_LOSSES)
    m.poll()
    m.finish(f, "ok")
    assert [row["epoch"] for row in logged if "epoch" in row] == [1, 2]
    assert [row["step"] for row in logged if "step/loss" in row] == [1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 39, 40, 41, 500])
def test_of_an_epoch_twenty_losses_are_logged_at_most_and_they_span_it(count):
    logged = wandb_mirror.points(count)
    assert len(logged) <= 20
    assert not count or (logged[0], logged[-1] + logged.step >= count) == (0, True)


def test_disabled_touches_nothing(tmp_path):
    m, f = mirror(tmp_path, "disabled"), folder(tmp_path)
    m.start(RUN, f)
    m.finish(f, "ok")
    assert not (tmp_path / "wandb").exists()
    assert not m.wanted(f)


@pytest.mark.slow
def test_an_offline_mirror_is_wanted_again_online(tmp_path):
    f = folder(tmp_path)
    m = mirror(tmp_path)
    m.start(RUN, f)
    m.finish(f, "ok")
    assert not m.wanted(f)
    assert mirror(tmp_path, "online").wanted(f)


def offline(tmp_path):
    return sorted((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_two_calls_mirror_a_run_once(tmp_path):
    one, other, f = mirror(tmp_path), mirror(tmp_path), folder(tmp_path)
    one.start(RUN, f)
    second = RunFolder(f.path.with_name("second"))
    second.path.mkdir()
    one.start(replace(RUN, seed=1), second)
    one.poll()
    one.finish(second, "ok")
    other.start(RUN, f)
    other.copy(RUN, f, OK)  # finished on disk, but the other call is still at it
    assert (len(one.runs), len(other.runs)) == (1, 0)
    assert other.wanted(f)
    one.finish(f, "ok")
    other.copy(RUN, f, OK)
    assert len(offline(tmp_path)) == 2
    assert not other.wanted(f)


@pytest.mark.slow
def test_of_an_interrupted_offline_run_stays_what_goes_on(tmp_path):
    f = folder(tmp_path)
    m = mirror(tmp_path)
    m.start(RUN, f)
    m.poll()
    m.close()
    (broken_off,) = offline(tmp_path)
    m = mirror(tmp_path)
    m.copy(RUN, folder(tmp_path, rows=2), OK)
    (whole,) = offline(tmp_path)
    assert whole != broken_off
    history = [record["history"]["item"] for record in inspect(whole) if record["type"] == "history"]
    assert sum("train/loss" in json.dumps(items) for items in history) == 2
    assert not list((tmp_path / "wandb" / "begun").glob("*.json"))


@pytest.mark.slow
def test_of_a_run_that_is_measured_once_more_stays_one_offline_run(tmp_path):
    m, f = mirror(tmp_path), folder(tmp_path)
    for measured in ({}, {"end hessian/trace": 3.0}):
        m.start(RUN, f)
        m.finish(f, "ok", measured)
    (run,) = offline(tmp_path)
    assert "end hessian/trace" in json.dumps(inspect(run))


def test_of_a_run_that_is_measured_once_more_stays_one_online_run(tmp_path, monkeypatch):
    m, f, runs = mirror(tmp_path, "online"), folder(tmp_path), []
    monkeypatch.setattr(m, "_init", lambda **told: runs.append(Logged(**told)) or runs[-1])
    for _ in range(2):
        m.start(RUN, f)
        m.finish(f, "ok")
    assert (runs[0].resumed, runs[1].resumed, runs[0].id == runs[1].id) == (None, "allow", True)


@pytest.mark.slow
def test_a_figure_is_mirrored_again_when_it_has_changed(tmp_path):
    Image.new("RGB", (8, 6)).save(picture := tmp_path / "fig4.png")
    claim = dict.fromkeys(("claim", "value", "low", "high", "n", "look", "paper", "verdict"), 0)
    for claims, count in (([claim], 1), ([claim], 1), ([claim | {"n": 4}], 2)):
        mirror(tmp_path).figure(picture.read_bytes(), pd.DataFrame({"label": ["a"]}), claims)  # a call's
        assert len(offline(tmp_path)) == count


def test_a_failure_of_wandb_is_said_once_and_ends_only_the_mirror(tmp_path, monkeypatch):
    said = []
    m, f = mirror(tmp_path, said=said), folder(tmp_path)
    monkeypatch.setattr(m, "_init", lambda **_: (_ for _ in ()).throw(OSError("no space left")))
    m.start(RUN, f)
    m.poll()
    m.finish(f, "ok")
    assert len(said) == 1
    assert "no space left" in said[0]


def test_online_without_a_login_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="--wandb: 'online' needs a login"):
        wandb_mirror.check("online")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    wandb_mirror.check("online")
    shutil.rmtree(tmp_path, ignore_errors=True)
