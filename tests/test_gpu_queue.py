"""The queue's blocks name figures, arms and parts that there are; one is made at smoke scale, and taken home."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tests import gpu_queue
from tests.gpu_queue import QUEUE, ROOT, called, lacking, listed
from tests.reproduce.figures import figure


def test_every_block_is_a_part_of_a_figure_with_runs():
    for block in QUEUE:
        assert block.arm in {"epochs", *(arm.name for arm in figure(block.figure).arms)}
        assert block.data in figure(block.figure).data
    firsts = [block for block in QUEUE if block.place[0] == 1]
    for block in firsts:
        left, count = lacking(block)
        assert 0 <= left <= count
        assert count
    assert len(list(listed())) == len(QUEUE)
    assert all(" --precision float32 --part " in line for line in listed("float32"))


def test_a_block_of_another_precision_has_runs_of_its_own():
    ours, other = (
        {item.spec.key for item in gpu_queue._runs(replace(QUEUE[0], precision=precision, place=(1, 1)))}
        for precision in (None, "float32")
    )
    assert len(ours) == len(other)
    assert not ours & other


def test_a_script_that_takes_too_long_is_ended(tmp_path):
    status = called("fig1", "--scale", "smoke", "--out", str(tmp_path), "--data", "digits28", seconds=0.2)
    assert status in (75, -signal.SIGTERM)  # the latter before it listens


@pytest.mark.slow
def test_a_block_is_made_and_is_an_archive(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "gpu_queue.py"), str(tmp_path), "--toy", "--block", "12"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "status 0" in done.stdout
    assert (tmp_path / "fig1-smoke-digits28-seeds-0-0.npz").is_file()
