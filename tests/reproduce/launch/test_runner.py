"""Kills: a killed run is retried once; nothing survives the figure's process; what was done stays done."""

import os
import re
import signal
import time

import pytest

from tests.reproduce.script import PATIENCE, alive, descendants, kill, run, start, until, workers

pytestmark = pytest.mark.slow
TWICE = ("--seeds", "2", "--wandb", "disabled")  # of the three runs of Figure 7, the fewest that a figure has


def finished(out):
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("runs/*/result.json")}


def test_a_worker_killed_once_is_retried_and_the_figure_completes(tmp_path):
    process = start("fig7", tmp_path, *TWICE)
    _, pid = until(lambda: workers(tmp_path)).popitem()
    kill(pid)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed
    assert printed.count("killed by signal 9; started once more; log: ") == 1
    assert len(finished(tmp_path)) == 6


def test_a_run_that_fails_twice_leaves_the_others_done_a_named_log_and_exit_1(tmp_path):
    process = start("fig7", tmp_path, *TWICE)
    folder, pid = until(lambda: workers(tmp_path)).popitem()
    kill(pid)
    second = until(lambda: workers(tmp_path).get(folder) not in (None, pid) and workers(tmp_path)[folder])
    kill(second)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, printed
    assert f"given up; log: {folder / 'log.txt'}" in printed.replace("\n", "")
    assert "1 of 6 runs are missing" in printed
    assert len(finished(tmp_path)) == 5
    assert (tmp_path / "fig7" / "smoke-digits" / "fig7.png").is_file()
    assert (folder / "log.txt").read_text().count("--- attempt") == 2


@pytest.mark.parametrize(
    ("sign", "flags"),
    [
        (signal.SIGINT, ("--seeds", "2")),  # with the W&B mirror in its default mode, and its own processes
        (signal.SIGKILL, ("--seeds", "2")),
        (signal.SIGTERM, TWICE),
        (signal.SIGKILL, ("--seeds", "1", "--devices", "2", "--wandb", "disabled")),
    ],
    ids=["Ctrl-C", "kill -9", "kill", "kill -9, two ranks"],
)
def test_no_process_outlives_the_figures_and_a_later_call_finishes_the_rest(sign, flags, tmp_path):
    total = 3 * int(flags[1])
    process = start("fig7", tmp_path, *flags, own=True)
    until(lambda: finished(tmp_path) and workers(tmp_path))
    family = descendants(process.pid)
    family += [p for child in family for p in descendants(child.pid)]
    assert len(family) >= 2
    process.send_signal(sign)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGKILL: -signal.SIGKILL}[sign]
    until(lambda: not alive(family), seconds=20)
    until(lambda: not workers(tmp_path), seconds=20)
    kept = finished(tmp_path)
    assert 1 <= len(kept) < total
    begun = sum(not (file.parent / "result.json").exists() for file in tmp_path.glob("runs/*/training.ckpt"))
    later = run("fig7", tmp_path, *flags)
    assert later.returncode == 0, later.stdout + later.stderr
    assert f"{len(kept)} cached" in later.stdout
    assert re.findall(r"\((\d+) of them begun\)", later.stdout) == ([str(begun)] if begun else [])
    if flags[-1] != "disabled":  # a W&B run for each, and the figure's own: of what was broken off nothing stays
        assert len(list(tmp_path.glob("wandb/offline-run-*"))) == total + 1
    after = finished(tmp_path)
    assert len(after) == total
    assert {key: after[key] for key in kept} == kept


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_an_impatient_ctrl_c_while_it_starts_ends_in_one_line(seconds, tmp_path):
    process = start("fig7", tmp_path, *TWICE, own=True)
    process.stdout.readline()
    time.sleep(seconds)  # into the imports of the fork server
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to every process there is
        time.sleep(0.2)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, printed
    assert printed.strip().endswith("the next call goes on from what the runs have saved")
    assert "Traceback" not in printed


def test_a_run_restarted_from_scratch_ends_as_an_uninterrupted_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run("fig7", whole, "--wandb", "disabled").returncode == 0
    process = start("fig7", broken, "--wandb", "disabled")
    _, pid = until(lambda: workers(broken)).popitem()
    kill(pid)
    process.communicate(timeout=PATIENCE)
    for file in whole.glob("runs/*/metrics.jsonl"):
        assert (broken / "runs" / file.parent.name / "metrics.jsonl").read_text() == file.read_text()
    assert finished(whole).keys() == finished(broken).keys()
