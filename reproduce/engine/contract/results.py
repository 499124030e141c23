"""All that is done of what was asked for: below a results folder, and in the archive."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from three_factors.reproduce.engine.contract.files import read_cache
from three_factors.reproduce.engine.contract.folder import Folder, Say
from three_factors.reproduce.engine.contract.folders import FOLDERS
from three_factors.reproduce.engine.contract.spec import Item, Spec


class Elsewhere(Protocol):
    """Finished work that is kept elsewhere than in a results folder, as `archive.Archive` keeps it."""

    def folder_of(self, spec: Spec) -> Folder | None:
        """Returns what there is of a spec."""


class Results:
    """All that is done below one OUT folder. What was found finished is not looked at again.

    Args:
        out: the folder.
        archive: asked for what is not there.
    """

    def __init__(self, out: Path, archive: Elsewhere | None = None) -> None:
        self.out, self.archive = out, archive
        self._archived: dict[str, Folder] = {}
        self._known: dict[tuple[str, tuple[str, ...], bool], dict[str, Any]] = {}

    def folder(self, spec: Spec) -> Folder:
        """Returns where a spec's files are, or would be."""
        kind = FOLDERS[type(spec)]
        return kind(self.out / kind.place / spec.key)

    def place(self, item: Item) -> Folder:
        """Returns where a finished item was found."""
        return self._archived.get(item.spec.key) or self.folder(item.spec)

    @property
    def archived(self) -> int:
        """Counts what was found finished in the archive."""
        return len(self._archived)

    def other_protocols(self) -> dict[int, int]:
        """Returns protocol -> how much there is of it, for protocols that this code does not follow."""
        found: dict[int, int] = {}
        for kind in FOLDERS.values():
            for file in (self.out / kind.place).glob("*/spec.json") if kind.current is not None else ():
                protocol = read_cache(file).get("protocol")
                if isinstance(protocol, int) and protocol != kind.current:
                    found[protocol] = found.get(protocol, 0) + 1
        return found

    def missing(self, items: Iterable[Item], say: Say) -> list[Item]:
        """Returns the items that are not done, in their order."""
        return [item for item in items if self.finished(item, say) is None]

    def finished(self, item: Item, say: Say) -> dict[str, Any] | None:
        """Returns an item's result if it is done and measured; a damaged one is told, set aside, and counts as absent.

        The caller must not change it.
        """
        name = item.spec.key, tuple(measurement.key for measurement in item.measurements), item.every_step
        if name not in self._known:
            found = _finished(self.folder(item.spec), item, say) or self._from_archive(item)
            if found is None:
                return None
            self._known[name] = found
        return self._known[name]

    def _from_archive(self, item: Item) -> dict[str, Any] | None:
        folder = None if self.archive is None else self.archive.folder_of(item.spec)
        found = None if folder is None else folder.complete(item.measurements, every_step=item.every_step)
        if folder is not None and found is not None:
            self._archived[item.spec.key] = folder
        return found

    def forget(self) -> None:
        """Looks at the disk again from now on."""
        self._known.clear()
        self._archived.clear()


def _finished(folder: Folder, item: Item, say: Say) -> dict[str, Any] | None:
    try:
        return folder.complete(item.measurements, every_step=item.every_step)
    except ValueError as error:
        held = folder.try_lock()
        if held is None:
            say(f"damaged result: {error}; another call is at it")
            return None
    try:  # another call may have been here first
        return folder.complete(item.measurements, every_step=item.every_step)
    except ValueError as error:
        say(f"damaged result: {error}; set aside as {folder.set_aside().name}, to be made again")
        return None
    finally:
        held.release()
