"""The fork server: it has torch and Lightning loaded, which the figure's process never imports.

A process has one, which loads what the first `Server` asks for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.sources import DataError
from three_factors.reproduce.engine.contract import names
from three_factors.reproduce.engine.contract.files import IMPORTABLE
from three_factors.reproduce.engine.contract.job import SCHEDULERS, Job
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.launch import interrupts

# For glibc's malloc, which else gives the tensors of a step back to the system at its end, and gets them anew, page by
# page, in the next: a step of a small VGG-11 is 1.05 to 1.3 times as fast, with the same bits.
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "MALLOC_TRIM_THRESHOLD_": 256 << 20,
}  # bytes; the first is the most it takes


class Server:
    """The fork server. It starts on first use, in about the time that importing torch and Lightning takes.

    It is started with these signals ignored, which its children inherit: what a terminal or a scheduler sends to all
    processes reaches the figure's alone, which ends them, or asks them to exit by SIGTERM.

    Args:
        loaded: the modules that it loads; by default what runs need.
    """

    def __init__(self, loaded: Sequence[str] = ("three_factors.reproduce.engine.worker.process",)) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(loaded))

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Passes on to the server what must be there at its start: our place, since sys.path does not reach it, and
        how it keeps memory, if the user has not said so.
        """
        before = {name: os.environ.get(name) for name in ("PYTHONPATH", *MEMORY)}
        os.environ["PYTHONPATH"] = os.pathsep.join([str(IMPORTABLE), *filter(None, [before["PYTHONPATH"]])])
        for name, value in MEMORY.items():
            os.environ.setdefault(name, str(value))
        try:
            yield
        finally:
            for name, text in before.items():
                if text is None:
                    del os.environ[name]
                else:
                    os.environ[name] = text

    def start(self, function: str, *arguments: Any) -> Any:
        """Starts `worker.process.<function>` in a forked process."""
        with self.running() as context:
            process = context.Process(target=_call_worker, args=(function, arguments, names.registered_modules()))
            process.start()
        return process

    @contextmanager
    def running(self) -> Iterator[Any]:
        """Returns the multiprocessing context of the server, which runs and finds this checkout's modules."""
        with self._environment():
            self._ensure_running()
            yield self._context

    @staticmethod
    def _ensure_running() -> None:
        """Starts the server with signals ignored; a first run then waits seconds for its imports, and can be ended."""
        with interrupts.ignoring(signal.SIGINT, signal.SIGTERM, *SCHEDULERS):
            forkserver.ensure_running()

    def prepare(self, name: str, data_dir: Path, download: bool = True) -> Prepared:
        """Prepares a data set in a process that has torchvision. Raises DataError."""
        answer = self._ask("serve_prepare", name, str(data_dir), download)
        if isinstance(answer, DataError):
            raise answer
        return Prepared(**answer)

    def time_steps(
        self,
        network: Network,
        job: Job,
        members: int = 1,
        precision: str = "float32",
        together: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[float, float]:
        """Returns (seconds a step, seconds an example) of a training step: of a network, or of so many as a stack.

        Args:
            together: processes that make such steps at the same time on one device; the medians of them.
            environment: what they get in theirs.
        """
        with ExitStack() as stack:
            asked = [
                stack.enter_context(self._asking("serve_timing", network, job, members, precision, environment or {}))
                for _ in range(together)
            ]
            found = [answer() for answer in asked]
        per_step, per_example = (statistics.median(column) for column in zip(*found, strict=True))
        return per_step, per_example

    def _ask(self, function: str, *arguments: Any) -> Any:
        with self._asking(function, *arguments) as answer:
            return answer()

    @contextmanager
    def _asking(self, function: str, *arguments: Any) -> Iterator[Callable[[], Any]]:
        """Starts a process that answers; yields what waits for the answer."""
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = self.start(function, *arguments, theirs)
        theirs.close()

        def answer() -> Any:
            try:
                return ours.recv()
            except EOFError:
                process.join()
                raise RuntimeError(f"{function} ended with status {process.exitcode} and no answer") from None

        try:
            yield answer
        except BaseException:  # Ctrl-C: nobody waits for the answer
            process.kill()
            raise
        finally:
            ours.close()
            process.join()


def _call_worker(function: str, arguments: tuple[Any, ...], modules: list[str]) -> None:
    from three_factors.reproduce.engine.worker import process

    for module in modules:  # sys.path is that of the figure's process
        import_module(module)
    getattr(process, function)(*arguments)
