"""Runs on two ranks that are killed, or asked to leave, and started again end as one that was not, to the bit."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.reproduce.killing import job, on_ranks
from tests.reproduce.leavings import assert_same
from tests.reproduce.script import PATIENCE, ROOT, descendants, until
from tests.reproduce.specs import MEASURED, SOAK
from three_factors.reproduce.engine.contract.job import PREEMPTED
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.launch.runner import Server

pytestmark = [pytest.mark.slow, pytest.mark.ddp]


@pytest.fixture(scope="module")
def server():
    return Server()


def complete(folder):
    return folder.complete((MEASURED,)) is not None


def by_lightning(folder, every=0.0):
    """Starts SOAK on two ranks, or goes on with it, as the figures do."""
    folder.prepare(SOAK, job("digits", 2, every), (MEASURED,))
    command = [sys.executable, "reproduce/worker.py", str(folder.path)]
    with folder.log.open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def by_forks(server, folder):
    """The same without the imports of every rank."""
    folder.prepare(SOAK, job("digits", 2), (MEASURED,))
    return on_ranks(server, folder, 2)


@pytest.fixture(scope="module")
def of_two(server, tmp_path_factory):
    """The folder of an uninterrupted run on two ranks."""
    folder = RunFolder(tmp_path_factory.mktemp("two") / SOAK.key)
    for rank in by_forks(server, folder):
        rank.join()
    assert complete(folder), folder.log.read_text()
    return folder.path


def written(checkpoint):
    """When the checkpoint was last written; 0 if there is none."""
    try:
        return checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_a_run_on_two_ranks_killed_at_random_moments_ends_as_an_uninterrupted_one(server, of_two, tmp_path, request):
    moments, resumed, ended = random.Random(1), 0, 0
    folder = RunFolder(tmp_path / "0" / SOAK.key)
    for _ in range(max(5, request.config.getoption("--kills") // 4)):
        ranks, before = by_forks(server, folder), written(folder.checkpoint)
        for _ in range(moments.randint(0, 25)):  # so many checkpoints later, and a moment
            while ranks[0].is_alive() and written(folder.checkpoint) == before:
                time.sleep(0.002)
            before = written(folder.checkpoint)
        time.sleep(moments.uniform(0, 0.05))
        for rank in moments.sample(ranks, 2):
            rank.kill()
        for rank in ranks:
            rank.join()
        if complete(folder):
            assert_same(folder.path, of_two)
            resumed += folder.log.read_text().count("goes on from epoch")
            ended += 1
            folder = RunFolder(tmp_path / str(ended) / SOAK.key)
    for rank in by_forks(server, folder):
        rank.join()
    assert_same(folder.path, of_two)
    assert resumed + folder.log.read_text().count("goes on from epoch") >= 1


def test_two_ranks_asked_to_leave_save_themselves_and_go_on_after_one_was_killed(server, of_two, tmp_path):
    folder = RunFolder(tmp_path / SOAK.key)
    process = by_lightning(folder, every=1000.0)
    until(lambda: len(folder.rows()) >= 2)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == PREEMPTED
    assert folder.checkpoint.is_file()
    process = by_lightning(folder)
    before = written(folder.checkpoint)
    until(lambda: written(folder.checkpoint) != before)
    (other,) = [p for p in descendants(process.pid) if "reproduce/worker.py" in " ".join(p.cmdline())]
    other.kill()
    assert process.wait(timeout=PATIENCE) != 0
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert not complete(folder)
    for rank in by_forks(server, folder):  # whoever starts them
        rank.join()
    assert folder.log.read_text().count("goes on from epoch") == 2
    assert_same(folder.path, of_two)
