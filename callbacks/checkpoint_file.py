"""A checkpoint's file: replaced as a whole, and looked into before it is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

TRUST = (
    "reading that runs its code: where(trusted=True) does, for a file of your own; or name the class in "
    "torch.serialization.add_safe_globals"
)


class Replacing(TorchCheckpointIO):
    """Writes beside the file and renames. Lightning's own leaves files in the system's temporary folder when killed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        draft = path.with_name(f".{path.name}.draft")
        try:
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)  # of a full disk it is the largest part


def unknown_class(path: Path) -> str:
    """Returns a class in a checkpoint that `weights_only=True` refuses, found without reading it.

    "" if there is none.
    """
    try:
        return next(iter(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))), "")
    except Exception:  # a damaged file: reading it says so
        return ""
