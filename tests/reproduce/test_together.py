"""Two calls on one results folder share the work; a disk that takes no more loses nothing that is there."""

import errno
import json
import os
import resource
import signal

import pytest

from datamodules.sources import prepare
from reproduce.engine.ending import end_with
from reproduce.engine.interrupts import Submitted, Terminated
from reproduce.engine.options import InputError
from tests.reproduce.script import kill, run, start, until, workers

FLAGS = ("--seeds", "2", "--wandb", "disabled")


def attempts(out):
    """run folder -> how often it was started."""
    return {log.parent.name: log.read_text().count("--- attempt") for log in out.glob("runs/*/log.txt")}


@pytest.mark.slow
def test_two_calls_at_once_do_every_run_once_and_both_draw_the_figure(tmp_path):
    calls = [start("fig7", tmp_path, *FLAGS) for _ in range(2)]
    printed = [call.communicate(timeout=250)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], printed
    assert len(attempts(tmp_path)) == 6
    assert set(attempts(tmp_path).values()) == {1}
    assert sum(text.count("by another call") for text in printed) == 6  # each has what the other has made
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
    first.communicate(timeout=60)
    printed, _ = second.communicate(timeout=250)
    assert second.returncode == 0, printed
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 6


def small_files(limit):
    """Files beyond `limit` bytes cannot be written: as on a full disk, but for this process and its children alone."""

    def apply():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return apply


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_next_call_goes_on(tmp_path):
    prepare("digits")  # into the cache of all tests
    full = run("fig7", tmp_path, *FLAGS, preexec_fn=small_files(2_000))
    assert full.returncode == 1, full.stdout + full.stderr
    assert "File too large" in full.stdout + full.stderr
    assert "Traceback" not in full.stdout + full.stderr
    assert not list(tmp_path.glob("runs/*/.*.json.*"))  # no draft
    again = run("fig7", tmp_path, *FLAGS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 6


@pytest.mark.slow
def test_a_picture_that_finds_no_room_leaves_the_runs_and_no_part_of_itself(tmp_path):
    full = run("fig7", tmp_path, *FLAGS, preexec_fn=small_files(60_000))
    assert full.returncode == 1, full.stdout + full.stderr
    (line,) = full.stderr.strip().splitlines()
    assert line.endswith("File too large; what is finished is kept, and the next call goes on")
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 6
    assert not list(tmp_path.glob("fig7/*/fig7.png"))
    again = run("fig7", tmp_path, *FLAGS)
    assert "6 cached" in again.stdout
    assert again.returncode == 0


def test_a_read_only_folder_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    from reproduce.engine.options import Options

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
        (Terminated(), 75, "asked to leave"),
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


def test_a_fault_of_the_code_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        end_with(raising(ZeroDivisionError()))
    with pytest.raises(FileNotFoundError):
        end_with(raising(FileNotFoundError(errno.ENOENT, "No such file")))
