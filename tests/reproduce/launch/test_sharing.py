"""Several runs on one GPU: a daemon of the call's own, by a stand-in for NVIDIA's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.reproduce.script import until
from three_factors.reproduce.engine.launch import sharing

DAEMON = """#!/bin/sh
# Serves in the foreground until it is told to quit, by whoever knows its folder.
if [ "$1" = "-f" ]; then
    {begins}
    echo $$ > "$CUDA_MPS_PIPE_DIRECTORY/daemon"
    while [ ! -e "$CUDA_MPS_PIPE_DIRECTORY/over" ]; do sleep 0.05; done
else
    read -r words
    [ "$words" = "quit -t 1" ] && touch "$CUDA_MPS_PIPE_DIRECTORY/over"
fi
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a stand-in on the path."""

    def put(begins=":"):
        file = tmp_path / "bin" / sharing.CONTROL
        file.parent.mkdir(exist_ok=True)
        file.write_text(DAEMON.format(begins=begins))
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")

    return put


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_daemon_lives_as_long_as_the_call(stand_in):
    stand_in()
    said = []
    with sharing.shared(said.append) as environment:
        pipe = environment["CUDA_MPS_PIPE_DIRECTORY"]
        until(lambda: os.path.exists(f"{pipe}/daemon"))
        pid = int(Path(pipe, "daemon").read_text())
        assert alive(pid)
        assert len(pipe) < 90  # a socket lies in it
    assert not alive(pid)
    assert not os.path.exists(pipe)
    assert said == []


@pytest.mark.parametrize(("visible", "told"), [("0,1", ""), ("GPU-0a1b", ""), ("MIG-0a1b", "MIG-0a1b")])
def test_the_daemon_is_told_of_a_slice_of_a_gpu_and_of_no_numbers(visible, told, stand_in, monkeypatch):
    stand_in('echo "$CUDA_VISIBLE_DEVICES" > "$CUDA_MPS_LOG_DIRECTORY/visible"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with sharing.shared(print) as environment:
        until(lambda: os.path.exists(f"{environment['CUDA_MPS_PIPE_DIRECTORY']}/daemon"))
        assert Path(environment["CUDA_MPS_LOG_DIRECTORY"], "visible").read_text() == f"{told}\n"


KILLED = """
import os, sys, time
from three_factors.reproduce.engine.launch import sharing
with sharing.shared(print) as environment:
    print(environment["CUDA_MPS_PIPE_DIRECTORY"], flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_it_does_not_outlive_a_call_that_is_killed(stand_in):
    stand_in()
    where = ROOT / "reproduce" / "_name"
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=where, stdout=subprocess.PIPE, text=True) as call:
        pipe = call.stdout.readline().strip()
        until(lambda: os.path.exists(f"{pipe}/daemon"))
        pid = int(Path(pipe, "daemon").read_text())
        call.kill()
    until(lambda: not alive(pid))


def test_one_that_cannot_begin_is_told_and_runs_take_turns(stand_in):
    stand_in("exit 3")
    said, start = [], time.monotonic()
    with sharing.shared(said.append) as environment:
        assert environment == {}
    assert time.monotonic() - start < 20
    assert len(said) == 1
    assert "status 3" in said[0]


def test_where_there_is_none_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = []
    with sharing.shared(said.append) as environment:
        assert environment == {}
    assert "take turns" in said[0]
