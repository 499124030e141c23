"""The fork server that a test process keeps, for the scripts that it runs: they import torch and Lightning once.

As a script, `warm.py ADDRESS SCRIPT ...` runs SCRIPT with the server at ADDRESS in place of one of its own.
"""

import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

# What a server's environment may differ in: no worker asks for it.
HERE_ALONE = {"PYTEST_CURRENT_TEST", "PYTHONPATH", "THREE_FACTORS_PACKS"}


def script(path: Path, *arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Runs a script that needs torch in a process of this process's server; its exit code, and what it printed."""
    from tests.reproduce.killing import forked
    from three_factors.reproduce.engine.launch.server import Server

    with TemporaryDirectory() as folder:
        printed = [Path(folder) / name for name in ("stdout", "stderr")]
        process = forked(Server(), _as_main, str(path), arguments, str(cwd), *map(str, printed))
        process.join()
        return process.exitcode, *(file.read_text() for file in printed)


def _as_main(path: str, arguments: tuple[str, ...], cwd: str, *printed: str) -> None:
    for descriptor, file in zip((1, 2), printed):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    runpy.run_path(path, run_name="__main__")


def address(environment: Mapping[str, str]) -> str | None:
    """Returns where this process's fork server listens; None if its runs would be in another environment."""
    import psutil

    from three_factors.reproduce.engine.contract.files import IMPORTABLE
    from three_factors.reproduce.engine.launch.server import Server

    with Server().running():
        kept = psutil.Process(forkserver._forkserver._forkserver_pid).environ()
    named = (str(IMPORTABLE) + os.pathsep + environment.get("PYTHONPATH", "")).rstrip(os.pathsep)
    same = _compared(kept) == _compared(environment) and kept["PYTHONPATH"] == named
    return forkserver._forkserver._forkserver_address if same else None


def _compared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in HERE_ALONE}


def _use(there: str) -> None:
    """Makes multiprocessing take the server that listens there for the one it has started."""
    server = forkserver._forkserver
    server._forkserver_address = there
    server._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)  # it lives as long as the tests, not as we do
    server.ensure_running = forkserver.ensure_running = lambda: None


if __name__ == "__main__":
    _use(sys.argv[1])
    del sys.argv[:2]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
