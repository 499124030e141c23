"""A block of the archive, and its runs and lines, which read as the folders of finished ones do."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from three_factors.reproduce.engine.contract.compact import MEANS, bins, unpacked
from three_factors.reproduce.engine.contract.folders import PathFolder
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.contract.steps import of_plan
from three_factors.reproduce.engine.contract.stored import decode

WHOLE = ("epoch", "step")  # what is counted


class DamagedArchive(ValueError):
    """Says that a block is not what its index says."""


def same_training(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tells whether two results of one key are of the same training: they end alike to the bit.

    How long it took is not asked, since a training that is repeated to the bit has the same weights.
    """
    return _ends(one) == _ends(other)


def _ends(result: Mapping[str, Any]) -> tuple[Any, ...]:
    final = {k: v for k, v in result["final"].items() if v is not None and not k.endswith("/seconds")}
    return result["status"], result.get("first_loss"), final


@dataclass(frozen=True)
class Block:
    """The files of one block, read when they are first asked for.

    Attributes:
        folder: of the archive.
        name: of the block.
        hashes: of its two files, as the index has them.
    """

    folder: Path
    name: str
    hashes: Mapping[str, str]

    def _read(self, ending: str) -> bytes:
        file = self.folder / f"{self.name}.{ending}"
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DamagedArchive(f"{file}: cannot be read ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != self.hashes.get(ending):
            raise DamagedArchive(f"{file}: is not what the archive's index says; restore it, or export it again")
        return content

    def files(self) -> dict[str, bytes]:
        """Returns its files, by their endings. Raises DamagedArchive."""
        return {ending: self._read(ending) for ending in ("npz", "json")}

    @cached_property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self._read("json")))

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(self._read("npz")), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    @cached_property
    def place(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.told["runs"])}

    @cached_property
    def curves(self) -> dict[str, list[np.ndarray]]:
        """Returns metric -> a run's values in every row, NaN where there was none."""
        return {
            name: unpacked(self.arrays[f"row {i}"], self.told["counts"]) for i, name in enumerate(self.told["rows"])
        }

    @cached_property
    def reached(self) -> np.ndarray:
        """Returns what was logged and measured at milestones, (runs, columns), in the order of `told`."""
        exact = self.arrays["reached"]
        rough = list[np.ndarray]()
        if count := len(self.told["reached"]) - exact.shape[1]:
            rough = unpacked(self.arrays["rough"], [len(exact)] * count)
        return np.column_stack([exact, *rough])

    def spec(self, key: str) -> RunSpec:
        at = self.place[key]
        setting = self.told["settings"][self.told["setting"][at]]
        return decode(setting | {"seed": self.told["seed"][at]})


@dataclass(frozen=True)
class ArchivedRun(RunFolder):
    """A run of the archive, which reads as the folder of a finished run does.

    Attributes:
        blocks: those that have something of this training; the first has the run itself.
    """

    blocks: tuple[Block, ...] = field(default=(), kw_only=True)

    @classmethod
    def of(cls, path: Path, blocks: Sequence[Block]) -> ArchivedRun:
        """Returns the first block's run, with what later blocks have of the same training.

        A block made on another machine may have the same key with other bits: nothing of it belongs to this run.
        """

        def result(block: Block) -> dict[str, Any]:
            return cls(path, blocks=(block,)).result()

        alike = [block for block in blocks[1:] if same_training(result(blocks[0]), result(block))]
        return cls(path, blocks=(blocks[0], *alike))

    @property
    def _block(self) -> tuple[Block, int]:
        return self.blocks[0], self.blocks[0].place[self.path.name]

    def result(self) -> dict[str, Any]:
        block, at = self._block
        told = block.told
        final = _named(told["finals"], block.arrays["finals"][at])
        reached: dict[str, dict[str, float]] = {}
        for (source, milestone, name), value in zip(told["reached"], block.reached[at].tolist()):
            if source == "" and not np.isnan(value):
                reached.setdefault(milestone, {})[name] = int(value) if name in WHOLE else value
        milestones, _ = told["kinds"][told["milestones"][at]]
        for milestone in milestones:  # those at which nothing is told as well
            reached.setdefault(milestone, {})
        where = told["environments"][told["environment"][at]] | {"seconds": float(block.arrays["seconds"][at])}
        first = float(block.arrays["first_loss"][at])
        return {
            "key": self.path.name,
            "status": told["status"][at],
            "first_loss": None if np.isnan(first) else first,
            "final": final,
            "milestones": reached,
            "provenance": where,
            "archive": block.name,
        }

    def measured(self, measurement: AnyMeasurement) -> dict[str, dict[str, Any]] | None:
        key = measurement.key
        for block in self.blocks:
            at = block.place[self.path.name]
            _, measured = block.told["kinds"][block.told["milestones"][at]]
            if key not in measured:
                continue
            found: dict[str, dict[str, Any]] = {name: {} for name in measured[key]}
            for (source, milestone, name), value in zip(block.told["reached"], block.reached[at].tolist()):
                if source == key and milestone in found and not np.isnan(value):
                    found[milestone][name] = value
            return found
        return None

    def _has_steps(self, result: dict[str, Any]) -> bool:
        return self._step_means is not None

    @property
    def _step_means(self) -> np.ndarray | None:
        for block in self.blocks:
            row = block.told["steps"][block.place[self.path.name]]
            if row >= 0:
                return np.asarray(block.arrays["step means"][row])
        return None

    def rows(self) -> list[dict[str, Any]]:
        block, at = self._block
        count, spec = block.told["epochs"][at], block.spec(self.path.name)
        where = block.told["environments"][block.told["environment"][at]]
        values = {name: each[at].tolist() for name, each in block.curves.items()}
        plan = of_plan(spec, count, where.get("devices", 1) * where.get("num_nodes", 1))
        return [row | {name: of[i] for name, of in values.items() if not np.isnan(of[i])} for i, row in enumerate(plan)]

    def step_losses(self) -> np.ndarray | None:
        """Returns means of the steps' losses, each repeated for the steps that it is of."""
        means, count = self._step_means, self.result()["final"]["step"]
        if means is None:
            return None
        used = means[: min(MEANS, count)]
        return np.repeat(used, np.diff(bins(count)))


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    pairs = zip(names, values.tolist())
    return {name: int(value) if name in WHOLE else value for name, value in pairs if not np.isnan(value)}


@dataclass(frozen=True)
class ArchivedLine(PathFolder):
    """A line of the archive."""

    block: Block = field(kw_only=True)

    def result(self) -> dict[str, Any]:
        return dict(self.block.told["lines"][self.path.name])
