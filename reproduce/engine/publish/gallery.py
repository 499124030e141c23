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
from three_factors.reproduce.engine.judge.claims import interval, primaries, survives, tally, word
from three_factors.reproduce.engine.options import InputError, flag, parse, refuse
from three_factors.reproduce.engine.publish import forest
from three_factors.reproduce.engine.publish.current import is_current
from three_factors.reproduce.engine.publish.page import indices

GALLERY, README = CHECKOUT / "reproduce" / "gallery", CHECKOUT / "README.md"
PAPER_SCALE = GALLERY / "paper_scale.json"
MARKERS = ("<!-- results: python reproduce/gallery.py -->", "<!-- end of results -->")
COLOURS = 64  # of a picture's palette
WIDTH = 1500  # pixels at most
LIMIT = 3_000_000  # bytes of all pictures together
KEPT = ("table.csv", "claims.json")  # of each figure, as they are
FOREST, RIVALS = "claims.png", "g.png"
INTRODUCTION = """\
Written by `python reproduce/gallery.py`; each figure's table.csv and claims.json lie in its folder.

A figure names at most four primary claims, which are given a word: by the interval of their look (95 % at the first,
wider ones later) and by Holm's p over the family. *Undecided*: so few seeds cannot tell; they are not added until they
can. Everything else is estimated, with no word. *Control*: the same statement with a confound taken away; a claim
*survives* those that were run if in each of them the estimate lies on its side and none is not supported, it *falls* if
one is, else it is *open*. *Not
judged*: no value, because too few runs trained or crossed a level, or chains from different starts did not agree.
*Checks* are of the simulators. *Shares runs*: with the figure above it that has a time. The hours of the paper scale
are a forecast; `--dry-run` makes it for your machine.
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
        kept: table.csv and claims.json, as they are, and those of its arms.
        arms: arm -> its claims.
    """

    name: str
    script: str
    title: str
    pictures: dict[str, bytes]
    claims: list[dict[str, Any]]
    provenance: dict[str, Any]
    theory: bool
    kept: dict[str, bytes]
    arms: dict[str, list[dict[str, Any]]]


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
        provenance = _complete(options, definition, folder)
        suffix = "" if data is None else f"-{data}"
        pictures = {
            f"{name}{ending}{suffix}.png": small(file)
            for ending in ("", f"-{BESIDE}")
            if (file := folder / f"{name}{ending}.png").is_file()
        }
        claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        title = definition.title + ("" if data is None else f" ({data})")
        theory = isinstance(definition, Theory)
        kept, arms = {file: (folder / file).read_bytes() for file in KEPT if (folder / file).is_file()}, {}
        for arm in definition.arms:
            changed = folder.with_name(f"{folder.name}-{arm.name}")
            if (changed / "provenance.json").is_file():
                _complete(options, definition, changed)
                arms[arm.name] = json.loads((changed / "claims.json").read_text(encoding="utf-8"))
                kept |= {f"{arm.name}-{file}": (changed / file).read_bytes() for file in KEPT}
        found.append(Shown(name + suffix, name, title, pictures, claims, provenance, theory, kept, arms))
    return found


def _complete(options: GalleryOptions, definition: Definition, folder: Path) -> dict[str, Any]:
    """Returns the provenance of results that are complete and of today's settings. Raises InputError for others."""
    provenance: dict[str, Any] = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    if provenance["missing"]:
        raise InputError(f"--out: {str(folder)!r} misses {len(provenance['missing'])} runs")
    if not is_current(definition, folder, "quick", options.data_dir):
        raise InputError(f"--out: {str(folder)!r} is of other settings than these; run {definition.name}.py again")
    return provenance


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
        for name, content in one.kept.items():
            (GALLERY / one.name).mkdir(exist_ok=True)
            write_bytes(GALLERY / one.name / name, content)
    if rows := _rows(shown):
        write_bytes(GALLERY / FOREST, forest.of_claims(rows, "png"))
    if rows := _indices(shown):
        write_bytes(GALLERY / RIVALS, forest.of_indices(rows, "png"))
    write_text(GALLERY / "README.md", page(shown))
    write_text(README, f"{before}{marker}\n{outcome(shown)}\n{end}{after}")


def outcome(shown: list[Shown]) -> str:
    """Returns lines for the README: how many primary claims, and how many checks of simulators, have which word."""
    networks, theory = (list[dict[str, Any]]() for _ in range(2))
    for one in shown:
        (theory if one.theory else networks).extend(primaries(one.claims))
    kinds = {
        "primary claims of the paper about trained networks, at quick scale": networks,
        "checks of the theory's simulators": theory,
    }
    return "\n".join(f"- {len(claims)} {words}: {_counted(claims)}." for words, claims in kinds.items() if claims)


def overview(shown: list[Shown]) -> str:
    """Returns one row a figure: what it says, the words of its primary claims, command, times.

    That of the paper scale is a forecast on a GPU, kept beside the pictures.
    """
    paper_scale = json.loads(PAPER_SCALE.read_text(encoding="utf-8"))
    rows = [
        f"| figure | claim | primary claims, here | command | quick, 2 CPU cores | "
        f"paper scale, {paper_scale['device']} |",
        "|---|---|---|---|---|---|",
    ]
    for one in shown:
        link = f"[{one.name}](#{one.name})"
        seconds = one.provenance["seconds"]
        own_runs = seconds > 10 or one.provenance["data"]["name"] == SIMULATION
        time = duration(seconds) if own_runs else "shares runs"
        hours = paper_scale["hours"].get(one.name)
        gpu = "–" if hours is None else f"{hours:.0f} h"
        cells = (link, one.title, _counted(primaries(one.claims)), f"`{_command(one)}`", time, gpu)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _rows(shown: list[Shown]) -> list[forest.Row]:
    """Returns the primary claims about networks, for the picture of all."""
    return [
        forest.row(one.name, "quick", claim)
        for one in shown
        if not one.theory
        for claim in primaries(one.claims)
        if claim.get("rule")
    ]


def _indices(shown: list[Shown]) -> list[forest.Row]:
    """Returns every g, for the picture in which rivals are told apart."""
    return [forest.index_row(one.name, "quick", claim) for one in shown for claim in indices(one.claims, one.arms)]


def _command(one: Shown) -> str:
    data = one.provenance["data"]["name"]
    return f"reproduce/{one.script}.py" + ("" if data == SIMULATION else f" --data {data}")


def _in_arms(one: Shown, claim: dict[str, Any]) -> str:
    """Says what became of a primary claim in every arm that was run, and whether it survives them."""
    others = {arm: of for arm, claims in one.arms.items() for of in claims if of["id"] == claim["id"]}
    if not others:
        return ""
    each = ", ".join(f"{arm} {interval(of)} {word(of)}" for arm, of in others.items())
    return f"{survives(claim, [*others.values()])}: {each}"


def _counted(claims: list[dict[str, Any]]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in tally(claims).items())


def page(shown: list[Shown]) -> str:
    """Returns every figure with its claims, as Markdown."""
    parts = [
        "# Gallery: every figure at quick scale, as measured\n",
        INTRODUCTION,
        *([f"![all primary claims on common axes]({FOREST})\n"] if _rows(shown) else []),
        *([f"![g of every figure that has one]({RIVALS})\n"] if _indices(shown) else []),
        overview(shown) + "\n",
    ]
    for one in shown:
        parts.append(f'<a id="{one.name}"></a>\n\n## {one.name}: {one.title}\n')
        parts += [f"![{one.name}]({name})\n" for name in one.pictures]
        parts.append(
            "| claim | value [interval] | n, look | paper | word | with a confound taken away | note |\n"
            "|---|---|---|---|---|---|---|"
        )
        for claim in sorted(one.claims, key=lambda claim: not claim.get("primary")):
            cells = (
                claim["claim"] + (" *(control)*" if claim["control_of"] else ""),
                interval(claim),
                f"{claim['n']}" + (f", {claim['look']}" if claim.get("primary") and claim.get("look") else ""),
                claim["paper"] or "",
                word(claim) if claim.get("primary") else "–",
                _in_arms(one, claim) if claim.get("primary") else "",
                claim["note"],
            )
            parts.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
        told = one.provenance
        changed = " and changes" if told["uncommitted_changes"] else ""
        commit = (told["commit"] or "unknown")[:7] + changed
        regime = f"{told['regime']}, " if told.get("regime") else ""
        parts.append(f"\n{told['data']['name']}, {regime}{told['hardware']}, commit {commit}.\n")
    return "\n".join(parts)
