"""What is said on the terminal, and how long things take in words."""

from __future__ import annotations

from rich.console import Console
from rich.status import Status
from rich.text import Text

console = Console(highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """Prints a line."""
    console.print(text, style=style, markup=False)


def waiting(words: str) -> Status:
    """Returns a context with a line that moves while something takes its seconds; on a terminal alone."""
    return console.status(Text(words))


def duration(seconds: float) -> str:
    """Returns '45 s', '4 min', '3.5 h', '12 days'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
