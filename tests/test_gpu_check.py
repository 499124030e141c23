"""The script for the GPU, on the CPU: its comparisons hold, and what is done is not done again."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.gpu_check import LIMITS

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
