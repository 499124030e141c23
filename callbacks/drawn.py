"""The batches that training draws, kept for a measurement at the epoch's end and over an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed

from three_factors.callbacks.functional.nests import mapped, storable

STORED = 64 * 2**20  # bytes of examples that go into a checkpoint
UNLESS = "(they are not in the checkpoint: several ranks, over 64 MiB, or a class of their own); give batches="


class DrawnBatches:
    """Clones of the first batches of an epoch, which a checkpoint brings back in the middle of it.

    Attributes:
        epoch: the epoch that they are of, from 0; -1 before the first one.
        batches: the clones; None where the epoch keeps none, or they have been taken.
    """

    def __init__(self) -> None:
        self.epoch = -1
        self.batches: list[Any] | None = None
        self._amount = 0
        self._stored: dict[str, Any] | None = None  # what a checkpoint had; {} if it had none

    def begin(self, epoch: int, *, keep: bool, goes_on: bool) -> bool:
        """Begins an epoch, or goes on with one; returns False if its earlier batches are lost.

        Args:
            keep: whether its batches are wanted.
            goes_on: whether a checkpoint was written in the middle of it.
        """
        before, self._stored = self._stored, None
        self.epoch, self._amount, self.batches = epoch, 0, [] if keep else None
        if not (keep and goes_on) or before is None:
            return True
        if before.get("epoch") != epoch:
            return False
        self._amount, self.batches = before["kept"], list(before["batches"])
        return True

    def wants(self, amount: int) -> bool:
        """Tells whether more are to be kept, where `amount` is all that is wanted."""
        return self.batches is not None and self._amount < amount

    def add(self, batch: Any, amount: int) -> None:
        """Keeps a clone: training may write to its own."""
        assert self.batches is not None
        self.batches.append(mapped(batch, lambda tensor: tensor.detach().clone()))
        self._amount += amount

    def take(self) -> list[Any]:
        """Returns them; afterwards the epoch keeps none."""
        found, self.batches = self.batches or [], None
        return found

    def state(self) -> dict[str, Any] | None:
        """Returns what a checkpoint is to hold; None if there is nothing, or nothing that can be stored."""
        found = None if self.batches is None else stored_in_checkpoint(self.batches)
        return None if found is None else {"epoch": self.epoch, "kept": self._amount, "batches": found}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Takes over what a checkpoint held, for the epoch that begins next."""
        self._stored, self.epoch = state or {}, -1


def stored_in_checkpoint(batches: Sequence[Any]) -> list[Any] | None:
    """Copies of batches for a checkpoint, which one rank writes; None if they are not to be in it."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return None if several and torch.distributed.get_world_size() > 1 else storable(batches, STORED)
