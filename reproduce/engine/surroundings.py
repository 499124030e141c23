"""What surrounds a script, and must not end it or get into its runs: a notebook, a terminal, W&B's variables."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec

# Of W&B's variables, those that are of one run, of a sweep that runs it, or of a process that it is in.
ONE_RUN = ("FORK_FROM", "JOB_TYPE", "NAME", "RESUME", "RESUME_FROM", "SERVICE", "SWEEP_ID", "SWEEP_PARAM_PATH", "TAGS")
PREFIXES = ("WANDB_RUN_", "WANDB_LAUNCH")
FIXED = "WANDB_PROJECT"  # the dashboard is of one project
MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "dryrun": "offline", "run": "online"}
SPELT = {
    "×": "x",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "∝": "~",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "·": "*",
    "√": "sqrt ",
    "∇": "grad ",
    "∂": "d",
    "²": "^2",
    "⁻": "^-",
    "→": "->",
    "←": "<-",
    "÷": "/",
    "⟨": "<",
    "⟩": ">",
}
ERRORS = "three_factors.spelt"


def usable_backend() -> None:
    """Takes a backend of notebooks out of the environment if its package is not there: importing matplotlib, and so
    torchmetrics and Lightning, fails under it. Nothing here draws by a backend.
    """
    backend = os.environ.get("MPLBACKEND", "")
    package = {"inline": "matplotlib_inline", "ipympl": "ipympl", "widget": "ipympl"}.get(backend.lower())
    if backend.startswith("module://"):
        package = backend.removeprefix("module://").partition(".")[0]
    if package is not None and find_spec(package) is None:
        os.environ["MPLBACKEND"] = "agg"


def spell_out() -> None:
    """Lets standard output spell what its encoding has not got (eta for η): such a letter would end the script."""
    codecs.register_error(ERRORS, _spelt)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # something else stands there: a notebook's, a test's
            stream.reconfigure(errors=ERRORS)  # type: ignore[union-attr]


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_in_ascii(letter) for letter in error.object[error.start : error.end]), error.end


def _in_ascii(letter: str) -> str:
    name = unicodedata.name(letter, "").split()
    if letter in SPELT:
        return SPELT[letter]
    if name[:1] == ["GREEK"] and len(name) == 4:  # GREEK SMALL LETTER ETA
        return name[3].capitalize() if name[1] == "CAPITAL" else name[3].lower()
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return plain or "?"


def wandb_mode() -> str | None:
    """Returns the mode that WANDB_MODE asks for, None if it is not set.

    Raises ValueError if it is none that a mirror has.
    """
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode and mode not in MODES:
        raise ValueError(f"WANDB_MODE: {mode!r} is not one of offline, online, disabled; --wandb goes before it")
    return MODES.get(mode)


def forget_run(say: Callable[[str], None]) -> None:
    """Takes W&B's variables of one run out of the environment: a figure has many, each with an id of its own."""
    names = {f"WANDB_{name}" for name in ONE_RUN}
    found = sorted(name for name in os.environ if name in names or name.startswith(PREFIXES))
    for name in found:
        del os.environ[name]
    found += [FIXED] if FIXED in os.environ else []
    if found:
        say(f"W&B: {', '.join(found)} not used: every run has a name and an id of its own")
