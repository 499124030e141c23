"""The archive: finished work in few files that are kept beside the code; read where a results folder has none of it.

A block is what one export has added: NAME.json with specs, names and lines, NAME.npz with the numbers of runs (no
pickle). A block is never written again; index.json says in which blocks a key is, and the first of them which training
of it counts: a later one adds what it has of the same training. Numbers at the end of a run and at its milestones are
exact (but their errors), those of epochs have four digits (`four_digits`), and of single steps there are 2 000 means.
Simulations are not in it: the chains of one have megabytes, and are made again in minutes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.contract.block import (
    ArchivedLine,
    ArchivedRun,
    Block,
    DamagedArchive,
    same_training,
)
from three_factors.reproduce.engine.contract.exported import described
from three_factors.reproduce.engine.contract.files import CHECKOUT, lock, write_bytes, write_json
from three_factors.reproduce.engine.contract.folder import Folder, Say
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Item, RunSpec, Spec

HOME = CHECKOUT / "reproduce" / "gallery" / "archive"
INDEX = "index.json"
EDITION = 1


class Archive:
    """All blocks of one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = HOME if folder is None else folder
        self._blocks: dict[str, Block] = {}

    @cached_property
    def index(self) -> dict[str, Any]:
        """Returns blocks (name -> hashes) and keys (key -> names of blocks); both empty where there is no archive."""
        file = self.folder / INDEX
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return {"blocks": dict(found["blocks"]), "keys": dict(found["keys"])}
        except FileNotFoundError:
            return {"blocks": {}, "keys": {}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedArchive(f"{file}: cannot be read ({error})") from error

    def block(self, name: str) -> Block:
        if name not in self._blocks:
            self._blocks[name] = Block(self.folder, name, self.index["blocks"][name])
        return self._blocks[name]

    def folder_of(self, spec: Spec) -> Folder | None:
        """Returns what there is of a spec. Raises DamagedArchive."""
        names = self.index["keys"].get(spec.key)
        if not names:
            return None
        blocks, place = tuple(map(self.block, names)), self.folder / spec.key
        if isinstance(spec, RunSpec):
            return ArchivedRun.of(place, blocks)
        return ArchivedLine(place, block=blocks[0])

    def has_another(self, key: str, result: Mapping[str, Any]) -> bool:
        """Tells whether a run of this key is here, of another training than a result is. Raises DamagedArchive."""
        here = self._result(key)
        return here is not None and not same_training(here, result)

    def _result(self, key: str) -> dict[str, Any] | None:
        """Returns the result of the run of a key; None if it is not here."""
        names = self.index["keys"].get(key)
        return ArchivedRun(self.folder / key, blocks=(self.block(names[0]),)).result() if names else None

    def sources(self, names: Iterable[str]) -> list[Prepared]:
        """Returns the data sets of these names whose runs are here: their description alone, without images."""
        wanted, found = set(names), dict[str, Prepared]()
        for block in map(self.block, self.index["blocks"]):
            data = block.told["data"]
            if data is not None and data["name"] in wanted:
                found[data["fingerprint"]] = Prepared(**data, folder="", origin="the archive")
        return list(found.values())

    def add(self, name: str, told: Mapping[str, Any], runs: Sequence[tuple[Item, RunFolder]]) -> Path | None:
        """Writes one more block and returns its JSON file; None where there is nothing to write.

        Args:
            name: the block's; refused if it exists.
            told: figure, scale, data, lines with the runs at their ends, and the like, for its JSON.
            runs: finished runs with their folders; refused where another training of one is here.
        """
        results = {item.name: (item.spec.key, folder.result()) for item, folder in runs}
        others = [run for run, (key, found) in results.items() if found is not None and self.has_another(key, found)]
        if others:
            raise ValueError(f"{name}: the archive has another training of {', '.join(others)}")
        arrays, of_runs = described(runs)
        content = {"edition": EDITION} | dict(told) | of_runs
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        files = {"npz": buffer.getvalue(), "json": (json.dumps(content, separators=(",", ":")) + "\n").encode()}
        keys = [*of_runs["runs"], *content["lines"]]
        if not keys:
            return None
        self._write(name, files, keys)
        return self.folder / f"{name}.json"

    def take(self, other: Archive, figure: str, say: Say = print) -> list[str]:
        """Takes the blocks of a figure that another archive has and this one has not; returns their names here.

        A block of the same name and other runs was made elsewhere, and gets a number. Runs of which another training is
        here are left out of the index, as are lines that end in such runs, and said. Raises DamagedArchive.
        """
        taken, left_out = [], list[str]()
        for name, hashes in other.index["blocks"].items():
            block = other.block(name)
            if block.told["figure"] != figure or hashes in self.index["blocks"].values():
                continue
            others = self._others(other, block)
            left_out += others
            keys = [key for key in (*block.told["runs"], *block.told["lines"]) if key not in others]
            if keys:
                own = self.free(name)
                self._write(own, block.files(), keys)
                taken.append(own)
        if left_out:
            say(f"left out, since the archive has other trainings of these runs: {', '.join(dict.fromkeys(left_out))}")
        return taken

    def _others(self, other: Archive, block: Block) -> list[str]:
        """Returns the keys of a block whose runs, or runs at their ends, are here of another training."""
        place = other.folder
        runs = [
            key
            for key in block.told["runs"]
            if self.has_another(key, ArchivedRun(place / key, blocks=(block,)).result())
        ]
        lines = [
            key
            for key, ends in block.told.get("ends", {}).items()  # older blocks do not tell them
            if any(self.has_another(end, found) for end in ends if (found := other._result(end)) is not None)
        ]
        return runs + lines

    def free(self, stem: str) -> str:
        """Returns a name that no block has."""
        return next(name for i in range(1, 10_000) if (name := stem + f"-{i}" * (i > 1)) not in self.index["blocks"])

    def _write(self, name: str, files: Mapping[str, bytes], keys: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / INDEX, "lock"):
            self.__dict__.pop("index", None)
            index = self.index
            if name in index["blocks"]:
                raise ValueError(f"{name}: is a block already, and blocks are not written again")
            for ending, bytes_of in files.items():
                write_bytes(self.folder / f"{name}.{ending}", bytes_of)
            index["blocks"][name] = {end: hashlib.sha256(bytes_of).hexdigest() for end, bytes_of in files.items()}
            for key in keys:
                index["keys"][key] = [*index["keys"].get(key, []), name]
            write_json(self.folder / INDEX, index)
