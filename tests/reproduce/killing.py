"""Runs of the fork server that the tests end as they like: at a moment of their own code, or rank by rank."""

import os
import pkgutil
import signal
import socket
from contextlib import suppress

from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.engine.contract.job import Job


def job(data, devices=1, every=0.0, accelerator="cpu", **options):
    """The job of a run on this machine, with a checkpoint every so many seconds."""
    return Job(prepare(data), accelerator, devices, checkpoint_every=every, **options)


def begin(server, folder, spec, job, measurements=(), gpu=None):
    """Starts the run, or goes on with it; its process."""
    folder.prepare(spec, job, measurements)
    return server.start("serve_run", str(folder.path), gpu)


def die_at(folder, name, number, when):
    """`worker.serve_run` that dies before or after the `number`-th call of the function `name`; in a forked process."""
    from three_factors.reproduce.engine.worker import process as worker

    place, _, attribute = name.rpartition(".")
    owner, calls = pkgutil.resolve_name(place), [0]
    usual = getattr(owner, attribute)

    def dying(*arguments, **options):
        calls[0] += 1
        if calls[0] == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = usual(*arguments, **options)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, attribute, dying)
    worker.serve_run(folder, None)


def serve_rank(folder, rank, ranks, port):
    """`worker.serve_run` as one of several ranks, as torchrun starts them; in a forked process."""
    from tests.ranks import as_torchrun
    from three_factors.reproduce.engine.worker import process as worker

    as_torchrun(rank, ranks)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    worker.serve_run(folder, None)


def end(process):
    """Kills a process of the server's and all that it has started, as `kill -9` does."""
    for kill in (os.killpg, os.kill):  # before its setsid it has no group of its own
        with suppress(ProcessLookupError):
            kill(process.pid, signal.SIGKILL)
    process.join()


def forked(server, function, *arguments):
    """A started process of the server's that calls a function of the tests."""
    with server.running() as context:
        process = context.Process(target=function, args=arguments)
        process.start()
    return process


def on_ranks(server, folder, ranks):
    """Starts the prepared run on several ranks; returns their processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [forked(server, serve_rank, str(folder.path), rank, ranks, port) for rank in range(ranks)]


def killed(server, folder, name, number, when="before"):
    """Starts the prepared run, and waits until it has killed itself there."""
    process = forked(server, die_at, str(folder.path), name, number, when)
    process.join()
    assert process.exitcode == -signal.SIGKILL, folder.log.read_text()
