"""Where results come from: the command, the code, the libraries, and what of them may change a run's bits."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

from reproduce.engine.files import CHECKOUT

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


def environment() -> dict[str, Any]:
    """The command, the code and the libraries."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def bits(hardware: str) -> dict[str, str | None]:
    """What may change the bits of a training, besides its job: a half-done one goes on only where all is the same."""
    return {
        "hardware": hardware,
        "code": _code(),
        "libraries": ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in BITS)]),
    }


def _code() -> str | None:
    """The commit, and a hash of what has been changed since; None outside of git."""
    commit, changes = _git("rev-parse", "--short", "HEAD"), _git("diff", "HEAD", "--", "*.py")
    if commit is None:
        return None
    return commit + (f" changed ({hashlib.sha256(changes.encode()).hexdigest()[:8]})" if changes else "")


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
