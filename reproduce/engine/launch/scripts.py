"""Scripts that only draw, several at a time: each in a process forked from a server that has loaded what draws.

Half of what drawing a figure from the archive takes is loading pandas, SciPy and Matplotlib; here it is done once.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from three_factors.reproduce.engine.launch.server import Server

LOADED = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pandas",
    "scipy.stats",
    "three_factors.reproduce.contents",
    "three_factors.reproduce.engine.figure",
    "three_factors.reproduce.engine.console",
    "three_factors.reproduce.engine.evidence",
    "three_factors.reproduce.engine.planning",
    "three_factors.reproduce.engine.publish.outputs",
    "three_factors.reproduce.engine.publish.plots",
)
BROKEN = 70  # the status of a script that ends in a traceback; Python's own is that of one that has nothing to draw
PATIENCE = 30.0  # seconds that a script gets to end itself


@dataclass(frozen=True)
class Ended:
    """Describes how a script ended: its exit status (BROKEN after a traceback), what it printed and complained of."""

    command: Sequence[str]
    status: int
    printed: str
    complaints: str


def run_scripts(commands: Sequence[Sequence[str]], at_once: int) -> list[Ended]:
    """Runs scripts, each given as its file and its arguments; returns how they ended, in their order.

    What interrupts this process ends those that run, and no other begins.
    """
    begun, running = list[_Script](), dict[Any, _Script]()
    with TemporaryDirectory() as folder:
        try:
            for i, command in enumerate(commands):
                begun.append(script := _Script(command, Path(folder) / str(i)))
                script.process.start()
                running[script.process.sentinel] = script
                while len(running) >= at_once:
                    _await_one(running)
            while running:
                _await_one(running)
        except BaseException:
            started = [script for script in begun if script.process.pid is not None]
            for script in started:
                script.process.terminate()
            for script in started:
                script.process.join(PATIENCE)
                script.process.kill()
                script.process.join()
            raise
        return [script.ended() for script in begun]


class _Script:
    """A script that runs once its process is started, and the folder for what it prints."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = command
        folder.mkdir()
        self._files = [folder / name for name in ("printed", "complaints")]
        for file in self._files:
            file.touch()
        with Server(LOADED).running() as context:
            self.process = context.Process(target=_run, args=(list(command), *map(str, self._files)))

    def ended(self) -> Ended:
        return Ended(self._command, self.process.exitcode, *(file.read_text(errors="replace") for file in self._files))


def _await_one(running: dict[Any, _Script]) -> None:
    for sentinel in wait(list(running)):
        running.pop(sentinel).process.join()


def _run(command: list[str], *files: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the server ignores it
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    try:
        runpy.run_path(command[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(BROKEN)
