"""Runs a figure script as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.reproduce import warm

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 400.0  # seconds that anything here may take on a slow and busy machine; whatever takes longer hangs


def command(figure: str, out: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "reproduce" / f"{figure}.py"),
        "--out",
        str(out),
        "--scale",
        "smoke",
        *flags,
    ]


def run(figure: str, out: Path, *flags: str, data: str = "digits", **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end, on the fork server of this process where that has the environment for it."""
    arguments = _warm(command(figure, out, *(("--data", data) if data else ()), *flags), options.get("env", os.environ))
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False, **options)


def start(figure: str, out: Path, *flags: str, data: str = "digits", own: bool = False) -> subprocess.Popen[str]:
    """In a process group of its own, so that a signal to it is a signal to what a terminal would reach.

    Ctrl-C reaches it also where the tests themselves were started in the background, ignoring it.

    Args:
        own: with a fork server of its own, for tests of what becomes of that.
    """
    arguments = command(figure, out, *(("--data", data) if data else ()), *flags)
    return subprocess.Popen(
        arguments if own else _warm(arguments, os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _warm(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    there = warm.address(environment)
    return [arguments[0], warm.__file__, there, *arguments[1:]] if there else arguments


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{condition} did not become true in {seconds} s")


def workers(out: Path) -> dict[Path, int]:
    """run folder -> pid of the process whose log is open there."""
    found = {}
    for process in psutil.process_iter():
        try:
            target = os.readlink(f"/proc/{process.pid}/fd/1")
        except OSError:
            continue
        if target.startswith(str(out / "runs")) and target.endswith("log.txt"):
            found[Path(target).parent] = process.pid
    return found


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
