"""Keeps a small copy of the measured figures beside the code, and tells their outcome in the README.

Of each figure the highest scale that was run is shown, the lower ones behind it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from three_factors.reproduce.engine.contract.files import CHECKOUT, write_bytes
from three_factors.reproduce.engine.definition import Contents, Definition, Theory
from three_factors.reproduce.engine.options import (
    ARITHMETIC,
    CHOICES,
    PRECISION,
    InputError,
    Scale,
    check_precision,
    flag,
)
from three_factors.reproduce.engine.publish import forest
from three_factors.reproduce.engine.publish.current import is_current
from three_factors.reproduce.engine.publish.gallery_page import (
    FOREST,
    INDICES,
    Shown,
    claim_rows,
    index_rows,
    outcome,
    page,
)
from three_factors.reproduce.engine.publish.stored import CLAIMS, TABLE, Stored, read

GALLERY, README = CHECKOUT / "reproduce" / "gallery", CHECKOUT / "README.md"
PAPER_SCALE = GALLERY / "paper_scale.json"
MARKERS = ("<!-- results: python reproduce/gallery.py -->", "<!-- end of results -->")
SCALES: tuple[Scale, ...] = ("paper", "gpu", "quick")  # the highest first
COLOURS = 256  # of a picture's palette
WIDTH = 1500  # pixels at most
LIMIT = 3_000_000  # bytes of all pictures together
COPIED = (TABLE, CLAIMS)  # of each figure, as they are


@dataclass(frozen=True)
class GalleryOptions:
    """Says where the results are, and the data that they are of."""

    out: Path = flag(Path("results"), "results folder (default: results)", "DIR")
    data_dir: Path = flag(Path("data"), "where the data sets are (default: data)", "DIR")
    precision: str | None = flag(None, ARITHMETIC, "|".join(CHOICES))

    def __post_init__(self) -> None:
        check_precision(self.precision)


def shown_of(contents: Contents, options: GalleryOptions) -> list[Shown]:
    """Reads all figures that are there. Raises InputError if there is none, or one is not fit to be shown."""
    shown = [one for name in contents.page for one in _read(options, contents.load(name))]
    if not shown:
        raise InputError(f"--out: {str(options.out)!r} holds no complete figure on the paper's data")
    return shown


def _read(options: GalleryOptions, definition: Definition) -> list[Shown]:
    """Reads a figure that is complete and on its own data, at every scale; on several data sets, if they are its own.

    Raises InputError for one that is not complete, damaged, or of other settings than the code's.
    """
    found = []
    for data in (None, *definition.data[1:]):
        scales = [_at(options, definition, data, scale) for scale in SCALES]
        there = [one for one in scales if one is not None]
        if there:
            found.append(replace(there[0], behind=tuple(there[1:])))
    return found


def _at(options: GalleryOptions, definition: Definition, data: str | None, scale: Scale) -> Shown | None:
    """Reads a figure at one scale; None if it is not there."""
    name, suffix = definition.name, "" if data is None else f"-{data}"
    asked = options.precision if "precision" in definition.flags else None
    last = "" if asked in (None, PRECISION[scale]) else f"-{asked}"
    folder = options.out / name / f"{scale}{suffix}{last}"
    found = _complete(options, definition, folder, scale)
    if found is None:
        return None
    changed = {arm.name: folder.with_name(f"{scale}{suffix}-{arm.name}{last}") for arm in definition.arms}
    made = {arm: _complete(options, definition, of, scale) for arm, of in changed.items()}
    arms = {arm: of for arm, of in made.items() if of is not None}
    return Shown(
        name=name + suffix,
        script=name,
        title=definition.title + ("" if data is None else f" ({data})"),
        scale=scale,
        pictures={f"{drawn}{suffix}.png": small(picture) for drawn, picture in found.pictures.items()},
        claims=found.claims,
        arms={arm: of.claims for arm, of in arms.items()},
        provenance=found.told,
        theory=isinstance(definition, Theory),
        kept={f"{of.folder.name}/{file}": of.files[file] for of in (found, *arms.values()) for file in COPIED},
    )


def _complete(options: GalleryOptions, definition: Definition, folder: Path, scale: Scale) -> Stored | None:
    """Returns results that are whole, complete and of today's settings; None if there are none.

    Raises InputError for others.
    """
    found = read(definition, folder, "png")
    if found is None:
        return None
    if found.told["missing"]:
        raise InputError(f"--out: {str(folder)!r} misses {len(found.told['missing'])} runs")
    if not is_current(definition, folder, scale, options.data_dir):
        raise InputError(f"--out: {str(folder)!r} is of other settings than these; run {definition.name}.py again")
    return found


def small(picture: bytes) -> bytes:
    """Returns a PNG with fewer pixels and a palette that has every colour drawn, be it of a few points."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        pixels = image.convert("RGB")
    if pixels.width > WIDTH:
        size = (WIDTH, round(pixels.height * WIDTH / pixels.width))
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # By coverage: a median cut takes most of the palette for the greys of the letters, and makes two curves alike.
    palette = pixels.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write(shown: list[Shown]) -> None:
    """Writes pictures, the page with every claim, the README's outcome. Raises InputError if pictures are too large."""
    size = sum(len(picture) for one in shown for picture in one.pictures.values())
    if size > LIMIT:
        raise InputError(f"--out: the pictures take {size} bytes, more than {LIMIT}")
    before, marker, rest = README.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not (marker and end):
        raise InputError(f"README: lacks the markers {MARKERS[0]!r} and {MARKERS[1]!r}")
    told = f"{before}{marker}\n{outcome(shown)}\n{end}{after}"
    files = dict(_files(shown)) | {README: told.encode()}  # all made before any is written
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content)


def _files(shown: list[Shown]) -> Iterator[tuple[Path, bytes]]:
    """Yields the gallery's files and what is in them."""
    for one in shown:
        for name, picture in one.pictures.items():
            yield GALLERY / name, picture
        for each in (one, *one.behind):
            for name, content in each.kept.items():
                yield GALLERY / one.name / name, content
    if rows := claim_rows(shown):
        yield GALLERY / FOREST, forest.of_claims(rows, "png")
    if rows := index_rows(shown):
        yield GALLERY / INDICES, forest.of_indices(rows, "png")
    forecast = json.loads(PAPER_SCALE.read_text(encoding="utf-8"))
    yield GALLERY / "README.md", page(shown, forecast).encode()
