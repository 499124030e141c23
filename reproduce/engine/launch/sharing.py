"""CUDA MPS: processes on one GPU compute at the same time there, in place of taking turns."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

CONTROL = "nvidia-cuda-mps-control"
PATIENCE = 5.0  # seconds: a daemon that cannot begin says so at once; one that is told to end waits for nobody
# The daemon ends when our end of its standard input is closed, however we die.
SCRIPT = f"""
{CONTROL} -f &
daemon=$!
(read -r _; echo quit -t 1 | {CONTROL}; sleep 2; kill $daemon 2>/dev/null) <&3 &
reader=$!
wait $daemon
status=$?
kill $reader 2>/dev/null
exit $status
"""
# It would number the devices anew, and whoever it serves goes by the old numbers. Of a GPU in slices it serves the one
# that this names, which has a name and no number.
NOT_ITS_OWN = "CUDA_VISIBLE_DEVICES"
SLICE = "MIG-"  # how the name of one begins


def possible() -> bool:
    """Tells whether there is a daemon to start."""
    return shutil.which(CONTROL) is not None


def _environment() -> dict[str, str]:
    """Returns the daemon's environment: ours, but for the numbers of devices."""
    return {name: of for name, of in os.environ.items() if name != NOT_ITS_OWN or of.startswith(SLICE)}


@contextmanager
def shared(say: Callable[[str], None]) -> Iterator[Mapping[str, str]]:
    """Keeps a daemon of this call's own; yields what processes need in their environment to be served by it.

    Nothing, where there is none to be had: then they take turns, which is said.
    """
    if not possible():
        say(f"runs on one GPU take turns: there is no {CONTROL}, by which they could compute at the same time")
        yield {}
        return
    with TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder:  # a socket's path must be short
        own = {f"CUDA_MPS_{what}_DIRECTORY": str(Path(folder) / what.lower()) for what in ("PIPE", "LOG")}
        for path in own.values():
            Path(path).mkdir()
        daemon = subprocess.Popen(
            ["sh", "-c", f"exec 3<&0; {SCRIPT}"],
            env=_environment() | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(1.0)
            if daemon.returncode is not None:
                say(f"runs on one GPU take turns: {CONTROL} ended with status {daemon.returncode}")
            yield own if daemon.returncode is None else {}
        finally:
            assert daemon.stdin is not None
            daemon.stdin.close()
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, 9)
                daemon.wait()
