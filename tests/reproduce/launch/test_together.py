"""Two calls on one results folder share the work; a disk that takes no more loses nothing that is there."""

import errno
import json
import os
import re
import resource
import signal
from dataclasses import replace

import pytest

from tests.reproduce.script import PATIENCE, kill, run, start, until, workers
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.results import Results
from three_factors.reproduce.engine.contract.spec import Data, Item, RunSpec
from three_factors.reproduce.engine.launch.ending import end_with
from three_factors.reproduce.engine.launch.interrupts import Submitted, Terminated
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.options import InputError
from three_factors.reproduce.engine.worker.process import run_folder

FLAGS = ("--seeds", "2", "--wandb", "disabled")


def attempts(out):
    """run folder -> how often it was started."""
    return {log.parent.name: log.read_text().count("--- attempt") for log in out.glob("runs/*/log.txt")}


@pytest.mark.slow
def test_two_calls_at_once_do_every_run_once_and_both_draw_the_figure(tmp_path):
    calls = [start("fig7", tmp_path, *FLAGS) for _ in range(2)]
    printed = [call.communicate(timeout=PATIENCE)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], printed
    assert len(attempts(tmp_path)) == 6
    assert set(attempts(tmp_path).values()) == {1}
    found = sum(text.count("by another call") for text in printed)
    there = sum(int(re.search(r"(\d+) cached in", text).group(1)) for text in printed)  # where one began late
    assert 1 <= found + there <= 6  # what was done between a call's plan and its first run is taken without a word
    claims = json.loads((tmp_path / "fig7" / "smoke-digits" / "claims.json").read_text())
    assert {claim["n"] for claim in claims} == {2}


@pytest.mark.slow
def test_what_a_killed_call_was_at_is_taken_over(tmp_path):
    first = start("fig7", tmp_path, *FLAGS)
    folder, pid = until(lambda: workers(tmp_path)).popitem()
    os.kill(pid, signal.SIGSTOP)  # so that it is at it as long as this test likes
    try:
        second = start("fig7", tmp_path, *FLAGS)
        assert any("another call is at it" in line for line in second.stdout)
        assert not (folder / "result.json").exists()
        kill(first.pid)
    finally:
        os.kill(pid, signal.SIGCONT)
    first.communicate(timeout=PATIENCE)
    printed, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, printed
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 6


SPEC = RunSpec(
    MLPNetwork(hidden=(4,)), Data("digits28", "-", train=40, validation=10, test=10), NoiseSchedule(0.1, 8), 1, seed=0
)
ITEM = Item("run", 0, SPEC)


def test_a_damaged_result_is_set_aside_by_one_call_alone(tmp_path):
    results, said = Results(tmp_path), []
    folder = results.folder(SPEC)
    folder.path.mkdir(parents=True)
    (folder.path / "result.json").write_text("{")
    other = folder.try_lock()
    assert results.finished(ITEM, said.append) is None
    assert said[-1].endswith("another call is at it")
    assert folder.path.exists()
    other.release()
    assert results.finished(ITEM, said.append) is None
    assert "set aside as" in said[-1]
    assert not folder.path.exists()
    mine = folder.try_lock()
    assert mine is not None
    assert folder.try_lock() is None  # nor through the folder's new self
    mine.release()


@pytest.mark.slow
def test_a_worker_that_somebody_started_by_hand_is_waited_for(tmp_path):
    folder = Results(tmp_path).folder(SPEC)
    task = Task(ITEM, folder, Job(prepare("digits28")))
    by_hand = folder.alone()
    by_hand.acquire()

    class Waiting(Watcher):
        told_of = 0

        def elsewhere(self, task):
            self.told_of += 1
            by_hand.release()

    watcher = Waiting()
    assert Runner(Server(), jobs=1).run([task], watcher) == []
    assert watcher.told_of == 1
    assert folder.result()["status"] == "ok"


def test_runs_of_another_protocol_are_told_and_not_trained_as_if_they_were_of_this_one(tmp_path):
    results = Results(tmp_path)
    old = replace(SPEC, protocol=0)
    results.folder(old).prepare(old, Job(prepare("digits28")))
    assert results.other_protocols() == {0: 1}
    assert results.finished(ITEM, print) is None
    with pytest.raises(ValueError, match=r"protocol: 0 of .*; what this code does is 1"):
        run_folder(results.folder(old).path)
    here = results.folder(old).path.rename(tmp_path / "runs" / "elsewhere")
    with pytest.raises(ValueError, match=f"is the spec of {old.key}, not of elsewhere"):
        run_folder(here)
    (here / "spec.json").write_text((here / "spec.json").read_text()[:100])
    with pytest.raises(ValueError, match=r"spec\.json cannot be read"):
        run_folder(here)


def small_files(limit):
    """Files beyond `limit` bytes cannot be written: as on a full disk, but for this process and its children alone."""

    def apply():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return apply


@pytest.fixture
def room_for_data():
    """The data are in the cache of all tests before the disk is full."""
    prepare("digits")


@pytest.mark.slow
@pytest.mark.usefixtures("room_for_data")
def test_a_full_disk_is_told_and_the_next_call_goes_on(tmp_path):
    full = run("fig7", tmp_path, *FLAGS, preexec_fn=small_files(2_000))
    assert full.returncode == 1, full.stdout + full.stderr
    assert "File too large" in full.stdout + full.stderr
    assert list(tmp_path.glob("runs/*/spec.json"))  # it came to the runs
    assert "Traceback" not in full.stdout + full.stderr
    assert not list(tmp_path.glob("runs/*/.*.json.*"))  # no draft
    again = run("fig7", tmp_path, *FLAGS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("room_for_data")
def test_a_picture_that_finds_no_room_leaves_the_runs_and_no_part_of_itself(tmp_path):
    full = run("fig7", tmp_path, *FLAGS, preexec_fn=small_files(60_000))
    assert full.returncode == 1, full.stdout + full.stderr
    (line,) = full.stderr.strip().splitlines()
    assert line.endswith("File too large; what is finished is kept, and the next call goes on")
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 6
    assert not list(tmp_path.glob("fig7/*/*"))  # nor a draft
    again = run("fig7", tmp_path, *FLAGS)
    assert "6 cached" in again.stdout
    assert again.returncode == 0


def test_a_read_only_folder_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    from three_factors.reproduce.engine.options import Options

    with pytest.raises(InputError, match=r"--out: '.*' cannot be written to \(Read-only file system\)"):
        Options(out=tmp_path / "results")


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "results/x"), 1, "results/x: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "results/y"), 1, "results/y: Read-only file system"),
        (InputError("--seeds: 0 is less than 1"), 2, "error: --seeds: 0 is less than 1"),
        (Terminated(), 75, "asked to exit"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Submitted(), 0, ""),
    ],
)
def test_every_end_has_its_status_and_its_line(error, status, words, capsys):
    with pytest.raises(SystemExit) as ended:
        end_with(raising(error))
    assert ended.value.code == status
    told = capsys.readouterr().err
    assert told.count("\n") == (1 if words else 0)
    assert words in told


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 75)])
def test_an_interrupt_that_python_makes_another_error_of_is_one(interrupt, status, capsys):
    class Named:
        def __set_name__(self, owner, name):
            raise interrupt

    def work():
        type("Owner", (), {"attribute": Named()})

    with pytest.raises(SystemExit) as ended:
        end_with(work)
    assert ended.value.code == status
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_on_the_way_out_of_an_interrupt_is_said():
    def work():
        try:
            raise KeyboardInterrupt
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end_with(work)


def test_a_fault_of_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        end_with(raising(ZeroDivisionError()))
    with pytest.raises(FileNotFoundError):
        end_with(raising(FileNotFoundError(errno.ENOENT, "No such file")))
