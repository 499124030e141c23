"""Keeps a small copy of the measured figures beside the code, and tells their outcome in the README."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from three_factors.reproduce.engine.console import duration
from three_factors.reproduce.engine.contract.files import CHECKOUT, write_bytes, write_text
from three_factors.reproduce.engine.definition import BESIDE, SIMULATION, Contents, Definition, Theory
from three_factors.reproduce.engine.judge.claims import interval, own, tally, word
from three_factors.reproduce.engine.options import InputError, flag, parse, refuse
from three_factors.reproduce.engine.publish.current import is_current

GALLERY, README = CHECKOUT / "reproduce" / "gallery", CHECKOUT / "README.md"
PAPER_SCALE = GALLERY / "paper_scale.json"
MARKERS = ("<!-- results: python reproduce/gallery.py -->", "<!-- end of results -->")
COLOURS = 64  # of a picture's palette
WIDTH = 1500  # pixels at most
LIMIT = 3_000_000  # bytes of all pictures together
INTRODUCTION = """\
Written by `python reproduce/gallery.py`. Intervals at 90 %; *control*: the same claim with a confound taken away.

*Inconclusive*: so few seeds cannot tell. Each claim's power is printed before the runs with the number of seeds that it
needs, often more than ten; `--seeds` adds them. *Not judged*: no value, because too few runs trained or crossed a
level, or chains from different starts did not agree. *Shares runs*: with the figure above it that has a time. The
hours of the paper scale are a forecast from steps timed on one GPU, one run at a time; `--dry-run` makes it for your
machine.
"""


@dataclass(frozen=True)
class GalleryOptions:
    """Says where the results are, and the data that they are of."""

    out: Path = flag(Path("results"), "results folder (default: results)", "DIR")
    data_dir: Path = flag(Path("data"), "where the data sets are (default: data)", "DIR")


@dataclass(frozen=True)
class Shown:
    """One figure of the gallery.

    Attributes:
        name: unique in the gallery.
        script: its name without the data set.
        title: one line.
        pictures: file name -> PNG.
        claims: as they are stored.
        provenance: likewise.
        theory: whether it is simulated.
    """

    name: str
    script: str
    title: str
    pictures: dict[str, bytes]
    claims: list[dict[str, Any]]
    provenance: dict[str, Any]
    theory: bool


def main(doc: str, contents: Contents, arguments: list[str] | None = None) -> NoReturn:
    """Writes the gallery and the README's outcome; ends the process: 0 done, 2 bad input."""
    options = parse(doc, arguments, GalleryOptions)
    try:
        shown = [one for name in contents.page for one in _read(options, contents.load(name))]
        if not shown:
            raise InputError(f"--out: {str(options.out)!r} holds no complete quick figure on the paper's data")
        write(shown)
    except InputError as error:
        refuse(error)
    count, where = len({one.script for one in shown}), GALLERY.relative_to(CHECKOUT)
    print(f"written: {count} of {len(contents.page)} figures to {where} and {README.name}")
    raise SystemExit(0)


def _read(options: GalleryOptions, definition: Definition) -> list[Shown]:
    """Reads a figure that is complete and on its own data; on several, if several are its own."""
    name, found = definition.name, []
    for data in (None, *definition.data[1:]):
        folder = options.out / name / ("quick" if data is None else f"quick-{data}")
        if not (folder / "provenance.json").is_file():
            continue
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        if provenance["missing"]:
            raise InputError(f"--out: {str(folder)!r} misses {len(provenance['missing'])} runs")
        if not is_current(definition, folder, "quick", options.data_dir):
            raise InputError(f"--out: {str(folder)!r} is of other settings than these; run {name}.py again")
        suffix = "" if data is None else f"-{data}"
        pictures = {
            f"{name}{ending}{suffix}.png": small(file)
            for ending in ("", f"-{BESIDE}")
            if (file := folder / f"{name}{ending}.png").is_file()
        }
        claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        title = definition.title + ("" if data is None else f" ({data})")
        theory = isinstance(definition, Theory)
        found.append(Shown(name + suffix, name, title, pictures, claims, provenance, theory))
    return found


def small(file: Path) -> bytes:
    """Returns a PNG with fewer pixels and a palette."""
    from PIL import Image

    with Image.open(file) as image:
        picture = image.convert("RGB")
    if picture.width > WIDTH:
        size = (WIDTH, round(picture.height * WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
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
    for one in shown:
        for name, picture in one.pictures.items():
            write_bytes(GALLERY / name, picture)
    write_text(GALLERY / "README.md", page(shown))
    write_text(README, f"{before}{marker}\n{outcome(shown)}\n{end}{after}")


def outcome(shown: list[Shown]) -> str:
    """Returns lines for the README: how many claims and controls have which verdict."""
    networks, theory, controls = (list[dict[str, Any]]() for _ in range(3))
    for one in shown:
        (theory if one.theory else networks).extend(own(one.claims))
        controls += [claim for claim in one.claims if claim["control_of"]]
    kinds = {
        "claims about trained networks, at quick scale": networks,
        "claims about the theory, simulated": theory,
        "controls, the same claims with a confound taken away": controls,
    }
    return "\n".join(f"- {len(claims)} {words}: {_counted(claims)}." for words, claims in kinds.items() if claims)


def overview(shown: list[Shown]) -> str:
    """Returns one row a figure: what it says, verdicts of the paper's claims and of the controls, command, times.

    That of the paper scale is a forecast on a GPU, kept beside the pictures.
    """
    paper_scale = json.loads(PAPER_SCALE.read_text(encoding="utf-8"))
    rows = [
        f"| figure | claim | the paper's claims, here | controls | command | quick, 2 CPU cores | "
        f"paper scale, {paper_scale['device']} |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in shown:
        paper, controls = own(one.claims), [claim for claim in one.claims if claim["control_of"]]
        link = f"[{one.name}](#{one.name})"
        seconds = one.provenance["seconds"]
        own_runs = seconds > 10 or one.provenance["data"]["name"] == SIMULATION
        time = duration(seconds) if own_runs else "shares runs"
        hours = paper_scale["hours"].get(one.name)
        gpu = "–" if hours is None else f"{hours:.0f} h"
        cells = (link, one.title, _counted(paper), _counted(controls), f"`{_command(one)}`", time, gpu)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _command(one: Shown) -> str:
    data = one.provenance["data"]["name"]
    return f"reproduce/{one.script}.py" + ("" if data == SIMULATION else f" --data {data}")


def _counted(claims: list[dict[str, Any]]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in tally(claims).items())


def page(shown: list[Shown]) -> str:
    """Returns every figure with its claims, as Markdown."""
    parts = [
        "# Gallery: every figure at quick scale, as measured\n",
        INTRODUCTION,
        overview(shown) + "\n",
    ]
    for one in shown:
        parts.append(f'<a id="{one.name}"></a>\n\n## {one.name}: {one.title}\n')
        parts += [f"![{one.name}]({name})\n" for name in one.pictures]
        parts.append("| claim | value [interval] | n | paper | verdict | note |\n|---|---|---|---|---|---|")
        for claim in one.claims:
            cells = (
                claim["claim"] + (" *(control)*" if claim["control_of"] else ""),
                interval(claim),
                claim["n"],
                claim["paper"] or "",
                word(claim),
                claim["note"],
            )
            parts.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
        told = one.provenance
        changed = " and changes" if told["uncommitted_changes"] else ""
        commit = (told["commit"] or "unknown")[:7] + changed
        regime = f"{told['regime']}, " if told.get("regime") else ""
        parts.append(f"\n{told['data']['name']}, {regime}{told['hardware']}, commit {commit}.\n")
    return "\n".join(parts)
