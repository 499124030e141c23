"""The W&B mirror: offline without a login, exact metric names, and never in a run's way."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.engine import wandb_mirror
from reproduce.engine.options import InputError
from reproduce.engine.results import RunFolder
from reproduce.engine.wandb_mirror import Mirror

ROW = {
    "epoch": 1, "step": 2, "t_eta": 0.2, "train/loss": 2.0, "test/accuracy": 0.5,
    "steps": {"loss": [2.5, 1.5], "lr": [0.1, 0.1], "batch_size": [32, 32]},
}  # fmt: skip


def mirror(tmp_path, mode="offline", said=None):
    return Mirror(mode, tmp_path, "fig4-smoke", ["fig4"], (said if said is not None else []).append)


def folder(tmp_path, rows=1):
    path = tmp_path / "runs" / "0123456789abcdef"
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(ROW | {"epoch": i + 1}) + "\n" for i in range(rows)))
    return RunFolder(path)


def inspect(run):
    """What an offline run holds, by wandb's own reader."""
    tool = Path(sys.executable).with_name("wandb")
    done = subprocess.run([tool, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"wandb leet inspect: {done.stderr}")
    return done.stdout


def test_an_offline_run_holds_its_rows_config_and_axes(tmp_path):
    m, f = mirror(tmp_path), folder(tmp_path, rows=2)
    m.start("cyclic S seed 0", f, {"arm": "cyclic S", "epochs": 2})
    m.poll()
    m.finish(f, "ok")
    assert not m.wanted(f)
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    text = inspect(runs[0])
    for name in ("test/accuracy", "noise/ratio", "t_eta", "step/loss", "cyclic S"):
        assert name in text


def test_rows_are_mirrored_as_they_come_and_only_once(tmp_path):
    m, f = mirror(tmp_path), folder(tmp_path)
    m.start("a seed 0", f, {})
    logged = []
    m.runs[f.path.name].run.log = logged.append
    m.poll()
    with (f.path / "metrics.jsonl").open("a") as file:
        text = json.dumps(ROW | {"epoch": 2, "step": 4}) + "\n"
        file.write(text[:30])
        file.flush()
        m.poll()  # half a line is left for later
        file.write(text[30:])
    m.poll()
    m.finish(f, "ok")
    assert [row["epoch"] for row in logged if "epoch" in row] == [1, 2]
    assert [row["step"] for row in logged if "step/loss" in row] == [1, 2, 3, 4]


def test_disabled_touches_nothing(tmp_path):
    m, f = mirror(tmp_path, "disabled"), folder(tmp_path)
    m.start("a seed 0", f, {})
    m.finish(f, "ok")
    assert not (tmp_path / "wandb").exists()
    assert not m.wanted(f)


def test_an_offline_mirror_is_wanted_again_online(tmp_path):
    f = folder(tmp_path)
    m = mirror(tmp_path)
    m.start("a seed 0", f, {})
    m.finish(f, "ok")
    assert not m.wanted(f)
    assert mirror(tmp_path, "online").wanted(f)


def test_a_failure_of_wandb_is_said_once_and_ends_only_the_mirror(tmp_path, monkeypatch):
    said = []
    m, f = mirror(tmp_path, said=said), folder(tmp_path)
    monkeypatch.setattr(m, "_init", lambda **_: (_ for _ in ()).throw(OSError("no space left")))
    m.start("a seed 0", f, {})
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
