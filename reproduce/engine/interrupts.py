"""Ctrl-C that is not lost: libraries that wait on their own (W&B) swallow a KeyboardInterrupt now and then."""

from __future__ import annotations

import signal
from typing import Any, NoReturn

_heard = False


def listen() -> None:
    """Remembers SIGINT besides raising KeyboardInterrupt; leaves alone a process that was told to ignore it."""
    global _heard
    _heard = False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)


def check() -> None:
    """Raises KeyboardInterrupt if there was one, whoever caught it since."""
    if _heard:
        raise KeyboardInterrupt


def _hear(*_: Any) -> NoReturn:
    global _heard
    _heard = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break off the ending of the runs
    raise KeyboardInterrupt
