"""What a script has published, read back whole: the pictures, table, claims and provenance of a folder of results."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from xml.parsers import expat

from three_factors.datamodules.sources import one_line
from three_factors.reproduce.engine.contract.files import read_cache
from three_factors.reproduce.engine.definition import BESIDE, SIMULATION, Definition
from three_factors.reproduce.engine.options import CHOICES, EPOCHS, InputError, check_place
from three_factors.reproduce.engine.publish.outputs import FILES

T = TypeVar("T")
Kind = Literal["png", "svg"]
TABLE, CLAIMS, PROVENANCE = FILES
# What readers take for granted, and every edition has written.
OF_CLAIM: Mapping[str, Any] = {
    "claim": str,
    "value": float | int | None,
    "low": float | int | None,
    "high": float | int | None,
    "n": int,
    "paper": str | None,
    "verdict": str,
    "note": str,
    "data": str,
    "unit": str,
    "control_of": str,
}
OF_PROVENANCE: Mapping[str, Any] = {
    "commit": str | None,
    "uncommitted_changes": bool,
    "hardware": str,
    "data": dict,
    "reductions": list,
    "runs": dict,
    "missing": list,
    "seconds": float | int,
}
OF_DATA: Mapping[str, Any] = {"name": str, "own": bool}


class Damaged(InputError):
    """A file of a folder of results is missing or damaged: names it, and the command that makes it again.

    Attributes:
        data: the data set that the folder is of.
        arm: its arm.
        precision: of its runs; "" for the scale's own.
    """

    def __init__(self, words: str, data: str, arm: str, precision: str) -> None:
        super().__init__(words)
        self.data, self.arm, self.precision = data, arm, precision


@dataclass(frozen=True)
class Stored:
    """A folder of results, all of whose files are whole.

    Attributes:
        folder: OUT/NAME/SCALE[-DATA][-ARM][-PRECISION].
        told: its provenance.
        claims: as they are stored.
        files: name -> content of table, claims and provenance.
        pictures: name without ending -> content: the figure, and what stands beside it.
    """

    folder: Path
    told: dict[str, Any]
    claims: list[dict[str, Any]]
    files: dict[str, bytes]
    pictures: dict[str, bytes]

    @property
    def data(self) -> str:
        return str(self.told["data"]["name"])

    @property
    def arm(self) -> str:
        return str(self.told.get("arm", EPOCHS))


def read(definition: Definition, folder: Path, kind: Kind) -> Stored | None:
    """Reads a folder of results, with its pictures of one kind; None if it has no results.

    Raises Damaged if a file is missing or damaged, and InputError if something else is in the folder's place.
    """
    check_place(folder.parent)
    check_place(folder)
    name, place = definition.name, _Place.of(definition, folder)
    drawn = [name] if definition.beside is None or place.arm else [name, f"{name}-{BESIDE}"]
    if not any((folder / file).exists() for file in (*FILES, *(f"{one}.{kind}" for one in drawn))):
        return None

    def sound(file: str, parse: Callable[[bytes], T]) -> tuple[bytes, T]:
        try:
            return _sound(folder / file, parse)
        except ValueError as error:
            again = f"{place.command(definition, folder)} makes it again"
            words = f"--out: {str(folder / file)!r} {error}; {again}"
            data = place.data or (definition.data or (SIMULATION,))[0]
            raise Damaged(words, data, place.arm or EPOCHS, place.precision) from error

    provenance, told = sound(PROVENANCE, _provenance)
    claims, stated = sound(CLAIMS, _claims)
    table, _ = sound(TABLE, _check_table)
    check = {"png": _check_png, "svg": _check_svg}[kind]
    pictures = {one: sound(f"{one}.{kind}", check)[0] for one in drawn}
    return Stored(folder, told, stated, {TABLE: table, CLAIMS: claims, PROVENANCE: provenance}, pictures)


def of_scale(definition: Definition, out: Path, scale: str) -> tuple[list[Stored], list[InputError]]:
    """Reads all of a script's folders at a scale, with their SVGs; and says what is wrong with those that cannot be."""
    place, found, wrong = out / definition.name, list[Stored](), list[InputError]()
    try:
        check_place(place)
    except InputError as error:
        return [], [error]
    for folder in sorted([place / scale, *place.glob(f"{scale}-*")]):
        try:
            found += [] if (one := read(definition, folder, "svg")) is None else [one]
        except InputError as error:
            wrong.append(error)
    return found, wrong


@dataclass(frozen=True)
class _Place:
    """What a folder's name says of its results; "" for what it leaves to be understood (`Context.folder`)."""

    scale: str
    data: str
    arm: str
    precision: str

    @classmethod
    def of(cls, definition: Definition, folder: Path) -> _Place:
        rest, precision = _cut(folder.name, CHOICES)
        rest, arm = _cut(rest, (arm.name for arm in definition.arms))
        scale, _, data = rest.partition("-")
        return cls(scale, data, arm, precision)

    def command(self, definition: Definition, folder: Path) -> str:
        """Returns the command that makes the results again, with the seeds that they have, if that can be read."""
        words = ["python", f"reproduce/{definition.name}.py", "--scale", self.scale]
        seeds = read_cache(folder / PROVENANCE).get("seeds", "")
        given = {"data": self.data, "arm": self.arm, "precision": self.precision, "seeds": seeds}
        for flag, value in (given | {"out": folder.parents[1]}).items():
            words += [f"--{flag}", str(value)] if value else []
        return shlex.join(words)


def _cut(name: str, endings: Iterable[str]) -> tuple[str, str]:
    """Returns a name without its ending, and the ending, if it is one of these."""
    for ending in endings:
        if name.endswith(f"-{ending}"):
            return name.removesuffix(f"-{ending}"), ending
    return name, ""


def _sound(file: Path, parse: Callable[[bytes], T]) -> tuple[bytes, T]:
    """Returns a file's content, and what it says. Raises ValueError with what is wrong with it."""
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise ValueError("is missing") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    if not content:
        raise ValueError("is empty")
    try:
        return content, parse(content)
    except ValueError as error:
        raise ValueError(f"is damaged ({one_line(error)})") from error


def _provenance(content: bytes) -> dict[str, Any]:
    told = json.loads(content)
    _check(told, OF_PROVENANCE, "it")
    _check(told["data"], OF_DATA, "data")
    return dict(told)


def _claims(content: bytes) -> list[dict[str, Any]]:
    claims = json.loads(content)
    if not isinstance(claims, list):
        raise ValueError("it is no list of claims")
    for i, claim in enumerate(claims):
        _check(claim, OF_CLAIM, f"claim {i}")
    return claims


def _check(stored: Any, fields: Mapping[str, Any], what: str) -> None:
    if not isinstance(stored, dict):
        raise ValueError(f"{what} has no fields")
    for name, kind in fields.items():
        if name not in stored:
            raise ValueError(f"{what} lacks {name}")
        if not isinstance(stored[name], kind):
            raise ValueError(f"{what} has {name} {stored[name]!r}")


def _check_table(content: bytes) -> None:
    text = content.decode("utf-8")
    try:
        widths = {len(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True)}
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if len(widths) != 1 or not text.endswith("\n"):
        raise ValueError("a row is cut off")


def _check_png(content: bytes) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise whatever they come upon
        raise ValueError("it is no PNG, or cut off") from error


def _check_svg(content: bytes) -> None:
    try:
        expat.ParserCreate().Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
