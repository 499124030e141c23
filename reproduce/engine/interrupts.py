"""Ctrl-C and SIGTERM that are not lost: libraries that wait on their own (W&B) swallow an exception now and then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

PREEMPTED = 75  # exit status after SIGTERM: saved, to be gone on with (EX_TEMPFAIL of sysexits.h)
SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2)  # how a cluster announces a time limit or a preemption
_heard: type[KeyboardInterrupt] | None = None


class Terminated(KeyboardInterrupt):
    """SIGTERM: by a scheduler, say, that wants the machine back. Runs get the time to save themselves."""


class Submitted(KeyboardInterrupt):
    """The runs are with a scheduler and go on by themselves; a later call collects them."""


def listen() -> None:
    """Remembers SIGINT and SIGTERM besides raising; leaves alone a process that was told to ignore SIGINT."""
    global _heard
    _heard = None
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)
    signal.signal(signal.SIGTERM, _hear)


def check() -> None:
    """Raises what there was, whoever caught it since."""
    if _heard is not None:
        raise _heard


@contextmanager
def ignoring(*numbers: int) -> Iterator[None]:
    """Processes that are started here ignore these signals, unless they set a handler of their own."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(number: int, *_: Any) -> NoReturn:
    global _heard
    _heard = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    for other in (signal.SIGINT, signal.SIGTERM):  # a second one must not break off the ending of the runs
        signal.signal(other, signal.SIG_IGN)
    raise _heard
