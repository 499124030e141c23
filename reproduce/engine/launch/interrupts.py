"""Ctrl-C and SIGTERM that are not lost: libraries that wait on their own (W&B) swallow an exception now and then."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_heard: type[KeyboardInterrupt] | None = None


class Terminated(KeyboardInterrupt):
    """Says that a SIGTERM has come, from a scheduler that wants the machine back: runs get time to save themselves."""


class Submitted(KeyboardInterrupt):
    """Says that the runs are with a scheduler and go on by themselves; a later call collects them."""


def listen() -> None:
    """Remembers SIGINT and SIGTERM besides raising them; leaves alone a process that was told to ignore SIGINT."""
    global _heard
    _heard = None
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)
    signal.signal(signal.SIGTERM, _hear)


def check() -> None:
    """Raises an interrupt again that a library has swallowed."""
    if _heard is not None:
        raise _heard


def behind(error: BaseException) -> KeyboardInterrupt | None:
    """Returns the interrupt that an error was made of, if any.

    Python 3.11 makes a RuntimeError of whatever is raised while a class tells its attributes their names: on imports.
    """
    cause = error.__cause__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return cause


@contextmanager
def ignoring(*numbers: int) -> Iterator[None]:
    """Lets processes that are started here ignore these signals, unless they set a handler of their own."""
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
