"""Where results come from: the command, the code, the libraries, and what of them may change a run's bits."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

from three_factors.reproduce.engine.contract.files import CHECKOUT
from three_factors.reproduce.engine.contract.job import ROUNDED

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "torchvision",
    "torchmetrics",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "wandb",
)
BITS = PACKAGES[:5]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# What a run may pass through; the figure's process and tests change none of its bits.
RUN = (
    "lightning_modules",
    "datamodules",
    "callbacks",
    "reproduce/theory",
    "reproduce/engine/contract",
    "reproduce/engine/worker",
)


def environment() -> dict[str, Any]:
    """Returns the command, the code and the libraries."""
    return {
        "command": " ".join(["python", *(word for word in sys.argv if word != "--plot-only")]),  # that makes all of it
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def bits(hardware: str) -> dict[str, str]:
    """Returns what may change the bits of a training, besides its job: a half-done one goes on only with the same.

    hardware: a name; how many there are changes no bits.
    """
    rounded = {"initial weights": "one rounding apart"} if os.environ.get(ROUNDED) else {}
    return {
        **rounded,
        "hardware": hardware,
        "code": _hash(*RUN),
        "libraries": ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in BITS)]),
    }


def _hash(*places: str) -> str:
    """Returns 12 hexadecimal digits for what the sources in files and folders do, with or without git."""
    digest = hashlib.sha256()
    for place in (CHECKOUT / place for place in places):
        for file in sorted(place.rglob("[!.]*.py")) if place.is_dir() else [place]:
            name = file.relative_to(CHECKOUT) if file.is_relative_to(CHECKOUT) else file.name
            digest.update(f"{name}\0{meaning(file.read_bytes())}\0".encode())
    return digest.hexdigest()[:12]


def meaning(source: bytes) -> str:
    """Returns the syntax tree of a module as text: comments, docstrings and line breaks are not in it."""
    words: list[str] = []
    _write(ast.parse(source), words)
    return "\0".join(words)


def _write(node: ast.AST, words: list[str]) -> None:
    words.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        entries = value if isinstance(value, list) else [value]
        if name == "body" and isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            entries = entries[1:]
        words.append(f"{name} {len(entries)}")
        for entry in entries:
            if isinstance(entry, ast.AST):
                _write(entry, words)
            else:
                words.append(repr(entry))


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
