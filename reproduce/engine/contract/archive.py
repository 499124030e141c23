"""The archive: finished work in few files that are kept beside the code; read where a results folder has none of it.

A block is what one export has added: NAME.json with specs, names and lines, NAME.npz with the numbers of runs (no
pickle). A block is never written again; index.json says in which blocks a key is. Numbers at the end of a run and at
its milestones are exact (but their errors), those of epochs have four digits (`four_digits`), and of single steps there
are 2 000 means.
Simulations are not in it: the chains of one have megabytes, and are made again in minutes.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.contract.files import CHECKOUT, lock, write_bytes, write_json
from three_factors.reproduce.engine.contract.folder import Folder, PathFolder, RunFolder
from three_factors.reproduce.engine.contract.spec import AnyMeasurement, Item, RunSpec, Spec
from three_factors.reproduce.engine.contract.steps import DTYPE, OF_PLAN, of_plan, whole
from three_factors.reproduce.engine.contract.stored import decode, encode

HOME = CHECKOUT / "reproduce" / "gallery" / "archive"
EDITION = 1
MEANS = 2_000  # of a run's steps
DROPPED = 40  # bits of a float64's mantissa: 12 are left, of four digits or a little more
# Bytes do not hang on the ones before them, nor on their places.
FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]
WHOLE = ("epoch", "step")  # what is counted


def four_digits(values: np.ndarray) -> np.ndarray:
    """Rounds to 12 bits after the first, that is by at most 1.2e-4 of each value. Rounding again changes nothing."""
    return _restored(_rounded(np.asarray(values, dtype=np.float64)))


def is_rough(metric: str) -> bool:
    """Tells whether of a metric's value at a milestone four digits are kept: of errors, and of what it took."""
    return metric.endswith(("_error", "/products", "/seconds"))


def _rounded(values: np.ndarray) -> np.ndarray:
    """Returns the leading bits as integers, whose order is that of the values of one sign."""
    bits = np.where(np.isnan(values), np.nan, values).view(np.int64)
    return (bits + (1 << (DROPPED - 1))) >> DROPPED


def _restored(leading: np.ndarray) -> np.ndarray:
    return (leading.astype(np.int64) << DROPPED).view(np.float64)


def _packed(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns curves, one after another, in few bytes, uint8 (n,).

    Differences without their signs' scatter (0, -1, 1, -2, 2, … are 0, 1, 2, 3, 4, …), most significant bytes first:
    what is left is noise, which nothing makes smaller than its entropy.
    """
    flat = np.concatenate([np.diff(_rounded(part), prepend=0) for part in parts])
    folded = np.where(flat < 0, -2 * flat - 1, 2 * flat).astype(">u4")
    planes = folded.view(np.uint8).reshape(-1, 4).T.tobytes()
    return np.frombuffer(lzma.compress(planes, format=lzma.FORMAT_RAW, filters=FILTERS), np.uint8)


def _unpacked(packed: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    planes = lzma.decompress(packed.tobytes(), format=lzma.FORMAT_RAW, filters=FILTERS)
    folded = np.frombuffer(planes, np.uint8).reshape(4, -1).T.copy().view(">u4").ravel().astype(np.int64)
    flat = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    return [_restored(np.cumsum(part)) for part in np.split(flat, np.cumsum(lengths)[:-1])]


class DamagedArchive(ValueError):
    """Says that a block is not what its index says."""


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
            name: _unpacked(self.arrays[f"row {i}"], self.told["counts"]) for i, name in enumerate(self.told["rows"])
        }

    @cached_property
    def reached(self) -> np.ndarray:
        """Returns what was logged and measured at milestones, (runs, columns), in the order of `told`."""
        exact = self.arrays["reached"]
        rough = list[np.ndarray]()
        if count := len(self.told["reached"]) - exact.shape[1]:
            rough = _unpacked(self.arrays["rough"], [len(exact)] * count)
        return np.column_stack([exact, *rough])

    def spec(self, key: str) -> RunSpec:
        at = self.place[key]
        setting = self.told["settings"][self.told["setting"][at]]
        return decode(setting | {"seed": self.told["seed"][at]})


@dataclass(frozen=True)
class ArchivedRun(RunFolder):
    """A run of the archive, which reads as the folder of a finished run does.

    Attributes:
        blocks: those that have something of it; the first has the run itself.
    """

    blocks: tuple[Block, ...] = field(default=(), kw_only=True)

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
        for block in self.blocks:
            at = block.place[self.path.name]
            _, measured = block.told["kinds"][block.told["milestones"][at]]
            if measurement.key not in measured:
                continue
            found: dict[str, dict[str, Any]] = {name: {} for name in measured[measurement.key]}
            for (source, milestone, name), value in zip(block.told["reached"], block.reached[at].tolist()):
                if source == measurement.key and milestone in found and not np.isnan(value):
                    found[milestone][name] = value
            return found
        return None

    def _has_steps(self, result: dict[str, Any]) -> bool:
        block, at = self._block
        return block.told["steps"][at] >= 0

    def rows(self) -> list[dict[str, Any]]:
        block, at = self._block
        count, spec = block.told["epochs"][at], block.spec(self.path.name)
        where = block.told["environments"][block.told["environment"][at]]
        values = {name: each[at].tolist() for name, each in block.curves.items()}
        plan = of_plan(spec, count, where.get("devices", 1) * where.get("num_nodes", 1))
        return [row | {name: of[i] for name, of in values.items() if not np.isnan(of[i])} for i, row in enumerate(plan)]

    def step_losses(self) -> np.ndarray | None:
        """Returns means of the steps' losses, each repeated for the steps that it is of."""
        block, at = self._block
        row = block.told["steps"][at]
        if row < 0:
            return None
        means, count = block.arrays["step means"][row], self.result()["final"]["step"]
        used = means[: min(MEANS, count)]
        return np.repeat(used, np.diff(_bins(count)))


def _bins(count: int) -> np.ndarray:
    return np.linspace(0, count, min(MEANS, count) + 1).round().astype(int)


@dataclass(frozen=True)
class ArchivedLine(PathFolder):
    """A line of the archive."""

    block: Block = field(kw_only=True)

    def result(self) -> dict[str, Any]:
        return dict(self.block.told["lines"][self.path.name])


class Archive:
    """All blocks of one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = HOME if folder is None else folder
        self._blocks: dict[str, Block] = {}

    @cached_property
    def index(self) -> dict[str, Any]:
        """Returns blocks (name -> hashes) and keys (key -> names of blocks); both empty where there is no archive."""
        file = self.folder / "index.json"
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
            return ArchivedRun(place, blocks=blocks)
        return ArchivedLine(place, block=blocks[0])

    def sources(self, names: Iterable[str]) -> list[Prepared]:
        """Returns the data sets of these names whose runs are here: their description alone, without images."""
        wanted, found = set(names), dict[str, Prepared]()
        for block in map(self.block, self.index["blocks"]):
            data = block.told["data"]
            if data is not None and data["name"] in wanted:
                found[data["fingerprint"]] = Prepared(**data, folder="", origin="the archive")
        return list(found.values())

    def add(self, name: str, told: Mapping[str, Any], runs: Sequence[tuple[Item, RunFolder]]) -> Path | None:
        """Writes one more block and returns its JSON file; None where all of it is here already.

        Args:
            name: the block's; refused if it exists.
            told: figure, scale, data, lines and the like, for its JSON.
            runs: finished runs with their folders.
        """
        arrays, described = _described(runs)
        content = {"edition": EDITION} | dict(told) | described
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        files = {"npz": buffer.getvalue(), "json": (json.dumps(content, separators=(",", ":")) + "\n").encode()}
        keys = [*described["runs"], *content["lines"]]
        if not keys:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / "index.json", "lock"):
            self.__dict__.pop("index", None)
            index = self.index
            if name in index["blocks"]:
                raise ValueError(f"{name}: is a block already, and blocks are not written again")
            for ending, bytes_of in files.items():
                write_bytes(self.folder / f"{name}.{ending}", bytes_of)
            index["blocks"][name] = {end: hashlib.sha256(bytes_of).hexdigest() for end, bytes_of in files.items()}
            for key in keys:
                index["keys"][key] = [*index["keys"].get(key, []), name]
            write_json(self.folder / "index.json", index)
        return self.folder / f"{name}.json"


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, Any]:
    pairs = zip(names, values.tolist())
    return {name: int(value) if name in WHOLE else value for name, value in pairs if not np.isnan(value)}


def _described(runs: Sequence[tuple[Item, RunFolder]]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns a block's arrays, and what its JSON says of the runs."""
    settings, environments, kinds, means = list[Any](), list[Any](), list[Any](), list[np.ndarray]()
    told: dict[str, list[Any]] = {
        name: []
        for name in (
            "runs",
            "setting",
            "seed",
            "status",
            "epochs",
            "counts",
            "milestones",
            "environment",
            "steps",
        )
    }
    finals, reached, seconds, first = list[Any](), list[Any](), list[float](), list[float]()
    curves: list[dict[str, np.ndarray]] = []
    for item, folder in runs:
        result = folder.result()
        assert result is not None
        assert isinstance(item.spec, RunSpec)
        rows = folder.rows()
        setting = {k: v for k, v in encode(item.spec).items() if k != "seed"}
        where = {k: v for k, v in result["provenance"].items() if not k.endswith("seconds")}
        if "data_origin" in where:  # a path of the machine that it was made on is nobody else's
            where["data_origin"] = Path(where["data_origin"]).name
        values = {("", at, name): v for at, of in result.get("milestones", {}).items() for name, v in of.items()}
        measured = {}
        for m in item.measurements:
            found = folder.measured(m)
            if found is not None:
                measured[m.key] = list(found)
                values |= {(m.key, at, name): v for at, of in found.items() for name, v in of.items()}
        losses = folder.step_losses() if item.every_step else None
        for name, value in (
            ("runs", item.spec.key),
            ("setting", _place(settings, setting)),
            ("seed", item.spec.seed),
            ("status", result["status"]),
            ("epochs", len(whole(rows))),
            ("counts", len(rows)),
            ("milestones", _place(kinds, [list(result.get("milestones", {})), measured])),
            ("environment", _place(environments, where)),
            ("steps", -1 if losses is None else len(means)),
        ):
            told[name].append(value)
        if losses is not None:
            means.append(_step_means(losses))
        seconds.append(result["provenance"]["seconds"])
        first.append(np.nan if result.get("first_loss") is None else result["first_loss"])
        finals.append({k: v for k, v in result["final"].items() if v is not None})
        reached.append({k: v for k, v in values.items() if v is not None})
        names = dict.fromkeys(name for row in rows for name in row if name not in OF_PLAN)
        curves.append({name: np.array([row.get(name) for row in rows], dtype=float) for name in names})
    columns = {
        "finals": list(dict.fromkeys(name for of in finals for name in of)),
        "reached": list(dict.fromkeys(name for of in reached for name in of)),
        "rows": list(dict.fromkeys(name for of in curves for name in of)),
    }
    arrays = {
        "finals": _table(finals, columns["finals"]),
        "seconds": np.array(seconds),
        "first_loss": np.array(first, dtype=float),
        "step means": np.stack(means) if means else np.empty((0, MEANS), DTYPE),
    }
    for i, name in enumerate(columns["rows"]):
        blank = [np.full(count, np.nan) for count in told["counts"]]
        arrays[f"row {i}"] = _packed([of.get(name, none) for of, none in zip(curves, blank)])
    exact, rough = ([n for n in columns["reached"] if is_rough(n[2]) == kind] for kind in (False, True))
    arrays["reached"] = _table(reached, exact)
    arrays["rough"] = _packed(list(_table(reached, rough).T)) if rough else np.empty(0, np.uint8)
    columns["reached"] = [list(name) for name in (*exact, *rough)]
    return arrays, {"settings": settings, "environments": environments, "kinds": kinds} | told | columns


def _place(known: list[Any], value: Any) -> int:
    if value not in known:
        known.append(value)
    return known.index(value)


def _table(rows: Sequence[Mapping[Any, float]], names: Sequence[Any]) -> np.ndarray:
    values = [[row.get(name, np.nan) for name in names] for row in rows]
    return np.array(values, dtype=float).reshape(len(rows), len(names))


def _step_means(losses: np.ndarray) -> np.ndarray:
    edges = _bins(len(losses))
    found = np.full(MEANS, np.nan, DTYPE)
    found[: len(edges) - 1] = np.add.reduceat(losses.astype(float), edges[:-1]) / np.diff(edges)
    return found
