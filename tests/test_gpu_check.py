"""The scripts for the GPU, on the CPU: comparisons hold, and what is done is not done again."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.gpu_check import LIMITS
from tests.gpu_precision import interval, verdict

SCRIPT = ROOT / "tests" / "gpu_check.py"


def called(*arguments):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_its_comparisons_hold_here(tmp_path):
    ended = called(tmp_path, "--toy", "--only", "equality")
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(row["passed"] for row in rows[:-1])
    assert rows[-1] == {"row": "done: equality"}


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path):
    file = tmp_path / "gpu_check.jsonl"
    file.write_text("".join(json.dumps({"row": f"done: {part}"}) + "\n" for part in LIMITS))
    before = file.read_text()
    ended = called(tmp_path, "--toy")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert file.read_text() == before
    assert ended.stdout == ""


def test_the_interval_of_pairs_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = [low <= 1.0 <= high for low, high in (interval(random.normal(1.0, 2.0, size=8)) for _ in range(4_000))]
    assert np.mean(covered) == pytest.approx(0.90, abs=0.015)


@pytest.mark.parametrize(
    ("points", "share", "default"), [(0.0, 1.0, "bf16"), (0.4, 1.0, "tf32"), (0.0, 1.08, "tf32"), (0.0, 0.9, "tf32")]
)
def test_bf16_is_the_default_only_where_it_ends_alike(points, share, default):
    random = np.random.default_rng(1)
    accuracy, loss = 0.85 + 0.0005 * random.normal(size=(2, 8)), 0.2 * np.exp(0.005 * random.normal(size=(2, 8)))
    accuracy[0] += points / 100
    loss[0] *= share
    assert verdict(accuracy, loss)["default"] == default


def test_noise_that_hides_a_difference_does_not_make_bf16_the_default():
    random = np.random.default_rng(2)
    accuracy = 0.85 + 0.02 * random.normal(size=(2, 8))
    assert verdict(accuracy, np.full((2, 8), 0.2))["default"] == "tf32"


@pytest.mark.slow
def test_pairs_that_are_there_are_not_run_again(tmp_path):
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "gpu_precision.py"), str(tmp_path), "--toy"]
    first = subprocess.run([*command, "--pairs", "2"], cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-2000:]
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert sorted(line["run"] for line in lines[:-1]) == [
        f"{precision} seed {seed}" for precision in ("bf16", "float32") for seed in (1000, 1001)
    ]
    again = subprocess.run([*command, "--pairs", "2"], cwd=ROOT, capture_output=True, text=True)
    assert again.stdout.splitlines() == first.stdout.splitlines()[-1:]
