"""What the benchmarks share: their command line, and candidates that take turns."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = "wall"


def now() -> float:
    """Returns the seconds of the clock that is used."""
    return CLOCKS[_clock]()


def use_clock(name: str) -> None:
    """Takes another clock: "cpu" counts the seconds that this process computes, on whatever number of threads."""
    global _clock
    _clock = name


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def new_file(text: str) -> Path:
    """Reads a path to write to; that its folder is missing is said before the measurement, not after it."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, or in none")
    return path


def command_line(
    about: str | None, *, smallest: str, rounds: int | None = None, json: bool = False
) -> argparse.ArgumentParser:
    """Returns a parser with `--smallest` and, where there are `rounds` or figures to write, `--rounds` and `--json`.

    Args:
        smallest: what is left out or made small.
        rounds: the default; at the smallest setting it is 1.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--smallest", action="store_true", help=f"{smallest}; it shows that all of it runs, its numbers say nothing"
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=positive, help=f"default: {rounds}; 1 at the smallest setting")
        parser.set_defaults(usual_rounds=rounds)
    if json:
        parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the figures here")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the options given, with the rounds that belong to them."""
    options = parser.parse_args()
    if getattr(options, "rounds", 0) is None:
        options.rounds = 1 if options.smallest else options.usual_rounds
    return options


def interleaved(
    candidates: dict[str, Callable[[], float]], rounds: int, *, pause: float = 0.0
) -> dict[str, list[float]]:
    """Returns the seconds of every candidate in every round, after one round that is not counted.

    Args:
        candidates: each returns its own seconds.
        pause: seconds before each, for threads of the one before that still spin.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            time.sleep(pause)
            seconds = run()
            if number:
                times[name].append(seconds)
    return times


def clocked(run: Callable[[], object], count: int = 1) -> float:
    """Returns the seconds that a call takes, divided by `count`."""
    start = now()
    run()
    return (now() - start) / count


def ratios(times: dict[str, list[float]], ours: str, other: str) -> list[float]:
    """Returns the ratio within each round."""
    return [a / b for a, b in zip(times[ours], times[other])]


def ratio(times: dict[str, list[float]], ours: str, other: str) -> float:
    """Returns the median over rounds of the ratios within a round."""
    return statistics.median(ratios(times, ours, other))


def middle_half(values: list[float]) -> tuple[float, float]:
    """Returns the quartiles: far apart where the machine was not quiet."""
    low, _, high = statistics.quantiles(values * 2 if len(values) == 1 else values, n=4, method="inclusive")
    return low, high
