"""The same timing with the packages of another checkout: a process a checkout, which take turns."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from _code import ROOT


def checkout(text: str) -> Path:
    """Reads the folder of a checkout."""
    path = Path(text).resolve()
    if not (path / "callbacks" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout: there is no callbacks/__init__.py in it")
    return path


def serve(run: Callable[[], float]) -> None:
    """Says which checkout is measured here, then answers each line of stdin with the seconds of a run."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    print(ROOT, file=answers, flush=True)
    for _ in sys.stdin:
        print(run(), file=answers, flush=True)


class Elsewhere:
    """Runs a script that serves, of this checkout, with the packages of `folder`; a call returns a run's seconds."""

    def __init__(self, folder: Path, script: str, *arguments: str) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._met = False

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # of one that has ended
            self._process.stdin.close()  # which ends it
        self._process.wait()

    def __call__(self) -> float:
        if not self._met:  # not before the first turn: the processes start side by side
            told = Path(self._line())
            assert told == self.folder, f"{told} is measured, not {self.folder}"
            self._met = True
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.folder}: its process has ended with {self._process.wait()}")
        return line.rstrip("\n")
