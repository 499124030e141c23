"""Online runs and `wandb sync` against a server of our own on 127.0.0.1: what arrives, and what a dead server costs."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
import wandb
from PIL import Image

from tests.reproduce.mirrors import folder, mirror
from tests.reproduce.specs import SPEC
from tests.reproduce.wandb_stub import KEY, serving
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.spec import Item
from three_factors.reproduce.engine.contract.stored import encode
from three_factors.reproduce.engine.watch import mirror as wandb_mirror

CLAIM = {
    "claim": "higher is wider",
    "value": 0.5,
    "low": 0.2,
    "high": 0.8,
    "n": 4,
    "look": None,
    "paper": 1.0,
    "verdict": "supported",
}
RUN, FIGURE = Item("cyclic S", 0, SPEC), "fig4-smoke"


def point_to(monkeypatch, url):
    """Makes `url` the W&B server of this process, whatever it was before."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def server(monkeypatch):
    with serving() as stub:
        point_to(monkeypatch, stub.url)
        yield stub
        wandb.teardown()


def sync(folder, pattern):
    """The command line's upload of run folders to the server of this process."""
    command = [Path(sys.executable).with_name("wandb"), "sync", "--no-skip-online", *sorted(folder.glob(pattern))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def run_and_figure(m, tmp_path):
    """A run of two epochs, and the figure it is in."""
    f = folder(tmp_path, rows=2)
    m.start(RUN, f)
    m.poll()
    m.finish(f, "ok", {"end hessian/frobenius": 3.5})
    picture = tmp_path / "fig4.png"
    Image.new("RGB", (8, 6)).save(picture)
    m.figure(picture.read_bytes(), pd.DataFrame({"label": ["cyclic S"], "test/accuracy": [0.5]}), [CLAIM])
    return f


def assert_arrived(stub, picture):
    assert stub.unknown == []
    assert sorted(run.name for run in stub.runs.values()) == [RUN.name, FIGURE]
    run = stub.run(RUN.name)
    assert (run.group, run.tags, run.exit_code) == (FIGURE, ["fig4"], 0)
    assert run.config == json.loads(json.dumps(encode(SPEC))) | {"label": "cyclic S", "key": SPEC.key}
    assert run.axes == dict.fromkeys(wandb_mirror.METRICS, "epoch") | {"step/loss": "step"}
    rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in run.history]
    epoch = {
        "step": 2,
        "t_eta": 0.2,
        "train/loss": 2,
        "test/accuracy": 0.5,
        "noise/lr": 0.1,
        "noise/batch_size": 32,
        "train/step_variance": 0.5,
        "noise/ratio": 0.1 / 32,
    }
    assert [row for row in rows if "epoch" in row] == [{"epoch": 1} | epoch, epoch | {"epoch": 2, "step": 4}]
    assert [(row["step"], row["step/loss"]) for row in rows if "step/loss" in row][:2] == [(1, 2.5), (2, 1.5)]
    expected = {
        "status": "ok",
        "end hessian/frobenius": 3.5,
        "train/loss": {"min": 2, "last": 2},
        "test/accuracy": {"max": 0.5, "last": 0.5},
        "noise/lr": 0.1,
    }
    assert {name: run.summary[name] for name in expected} == expected

    figure = stub.run(FIGURE)
    assert figure.exit_code == 0
    (row,) = figure.history
    assert figure.files[row["figure"]["path"]] == picture.read_bytes()
    claims, table = (json.loads(figure.files[row[name]["path"]]) for name in ("claims", "table"))
    assert dict(zip(claims["columns"], claims["data"][0])) == CLAIM | {"paper": "1.0"}
    assert table == {"columns": ["label", "test/accuracy"], "data": [["cyclic S", 0.5]]}


@pytest.mark.slow
def test_an_online_run_and_its_figure_arrive(server, tmp_path):
    said = []
    m = mirror(tmp_path, "online", said)
    f = run_and_figure(m, tmp_path)
    wandb.teardown()
    assert said == []
    assert_arrived(server, tmp_path / "fig4.png")
    assert not m.wanted(f)


@pytest.mark.slow
def test_offline_runs_arrive_by_wandb_sync(server, tmp_path):
    said = []
    run_and_figure(mirror(tmp_path, "offline", said), tmp_path)
    wandb.teardown()
    assert (said, server.requests) == ([], 0)
    sync(tmp_path, "wandb/offline-run-*")
    assert_arrived(server, tmp_path / "fig4.png")


PATIENCE = 60  # seconds, on a busy machine: W&B's own has no end, or is minutes
BROKEN = pytest.mark.parametrize("how", ["answers 500", "never answers", "is gone"])


def breaks(how, stub, server):
    """Ends the server in the way asked for."""
    if how == "is gone":
        server.close()
    stub.status = {"answers 500": 500, "never answers": 0}.get(how, 200)


@pytest.mark.slow
@BROKEN
def test_a_server_that_is_broken_from_the_start_costs_one_timeout_and_one_line(how, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(wandb_mirror, "TIMEOUT", 3)
    with ExitStack() as stack:
        stub = stack.enter_context(serving())
        point_to(monkeypatch, stub.url)
        breaks(how, stub, stack)
        m, started = mirror(tmp_path, "online", said), time.monotonic()
        f = run_and_figure(m, tmp_path)
        assert time.monotonic() - started < PATIENCE
        wandb.teardown()
    assert len(said) == 1
    assert "results on disk are complete" in said[0]
    mirror(tmp_path)._lock(f)  # another call may do better
    assert not (f.path / "wandb.json").exists()
    assert not stub.runs


@pytest.mark.slow
@BROKEN
def test_a_server_that_breaks_in_the_middle_costs_one_timeout_and_the_run_stays_wanted(how, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(wandb_mirror, "TIMEOUT", 3)
    with ExitStack() as stack:
        stub = stack.enter_context(serving())
        point_to(monkeypatch, stub.url)
        m, f = mirror(tmp_path, "online", said), folder(tmp_path, rows=2)
        m.start(RUN, f)
        assert said == []
        breaks(how, stub, stack)
        started = time.monotonic()
        m.poll()
        m.finish(f, "ok")
        assert time.monotonic() - started < PATIENCE
        begun = []
        monkeypatch.setattr(m, "_init", lambda **options: begun.append(options))
        run_and_figure(m, tmp_path)  # what comes later does not ask, and so not wait, again
        assert begun == []
        wandb.teardown()
    assert len(said) == 1
    mirror(tmp_path)._lock(f)
    assert stub.runs
    assert mirror(tmp_path, "online").wanted(f)
    with serving() as later:  # W&B's own copy is whole
        point_to(monkeypatch, later.url)
        sync(tmp_path, "wandb/run-*")
        assert [row["epoch"] for row in later.run(RUN.name).history if "epoch" in row] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_was_interrupted_goes_on_as_the_same_run_in_the_same_environment(threads, server, tmp_path):
    for rows, ended, count in ((2, False, 1), (3, True, threads)):
        m, f = mirror(tmp_path, "online"), folder(tmp_path, rows=rows)
        write_json(f.path / "job.json", {"threads": count})
        m.start(RUN, f)
        m.poll()
        if ended:
            m.finish(f, "ok")
        m.close()
        wandb.teardown()
    assert server.unknown == []
    *before, run = server.runs.values()
    assert len(before) == threads - 1  # of another environment: its rows may be others
    assert run.exit_code == 0
    assert [row["epoch"] for row in run.history if "epoch" in row] == [1, 2, 3]
    own = range(1, 7) if threads == 2 else (1, 2, 3, 4, 5, 6)
    assert [row["step"] for row in run.history if "step/loss" in row] == list(own)
    assert (run.summary["epoch"], run.summary["status"]) == (3, "ok")
