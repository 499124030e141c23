"""The report: what is on disk of every figure at a scale, as one self-contained page."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from three_factors.reproduce.engine.contract.files import write_text
from three_factors.reproduce.engine.definition import BESIDE, SIMULATION, Contents, Definition
from three_factors.reproduce.engine.judge.claims import controls, interval, own, tally, word
from three_factors.reproduce.engine.options import EPOCHS, InputError, Options
from three_factors.reproduce.engine.publish.current import is_current

SHOWN = ("command", "made", "commit", "uncommitted_changes", "python", "versions", "hardware", "data", "missing")


@dataclass(frozen=True)
class Entry:
    """One figure on the page.

    Attributes:
        name: unique on the page.
        script: its name without the data set.
        heading: the first line of the script's docstring.
        caption: what follows it.
        pictures: base64 of SVGs, the figure and what stands beside it.
        claims: as they are stored, other arms' as controls.
        formulas: MathML.
        reductions: (the paper's, here, why).
        regime: how far its runs are from the paper's.
        provenance: JSON.
        outdated: whether it is of other settings than the code has now.
    """

    name: str
    script: str
    heading: str
    caption: str
    pictures: list[str]
    claims: list[dict[str, Any]]
    formulas: list[str]
    reductions: list[list[str]]
    regime: str
    provenance: str
    outdated: bool

    @property
    def data(self) -> str:
        return str(self.claims[0]["data"]) if self.claims else ""

    @property
    def own(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each claim that is no control, with its controls."""
        return [(claim, controls(claim, self.claims)) for claim in own(self.claims)]


def write(contents: Contents, options: Options) -> tuple[Path, list[Entry]]:
    """Writes the page; returns where it is and what is on it. Raises InputError if there is nothing to show."""
    from jinja2 import Environment, FileSystemLoader

    definitions = [contents.load(name) for name in contents.page]
    entries = [_entry(one, options, *place) for one in definitions for place in _displayed(one, options)]
    if not entries:
        raise InputError(f"--out: {str(options.out)!r} holds no figure at scale {options.scale}; --run makes them")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters |= {"interval": interval, "tally": tally, "word": word}
    displayed = {entry.script for entry in entries}
    text = environment.get_template("page.html.j2").render(
        title="Three factors influencing minima in SGD: what the figures show",
        scale=options.scale,
        made=time.strftime("%Y-%m-%d"),
        figures=entries,
        absent=[name for name in contents.page if name not in displayed],
    )
    page = options.out / f"report-{options.scale}.html"
    write_text(page, text)
    return page, entries


def _displayed(definition: Definition, options: Options) -> list[tuple[Path, dict[str, Any]]]:
    """Returns a script's results on each of its own data sets if there are such, else on one other."""
    made = papers(definition, options)
    return [(folder, told) for folder, told in made if told["data"]["own"]] or made[:1]


def papers(definition: Definition, options: Options) -> list[tuple[Path, dict[str, Any]]]:
    """Returns a script's results in the paper's own arm."""
    return [(folder, told) for folder, told in _folders(definition, options) if told.get("arm", EPOCHS) == EPOCHS]


def _folders(definition: Definition, options: Options) -> list[tuple[Path, dict[str, Any]]]:
    """Returns a script's folders at this scale, on the data asked for, with their provenance; its own data first."""
    found = []
    for file in sorted((options.out / definition.name).glob(f"{options.scale}*/provenance.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        if options.data in (None, told["data"]["name"]) or told["data"]["name"] == SIMULATION:
            found.append((file.parent, told))
    return sorted(found, key=lambda item: not item[1]["data"]["own"])


def _mathml(formula: str) -> str:
    """Returns LaTeX as MathML, which browsers draw without help."""
    from latex2mathml.converter import convert

    return convert(formula, display="block")


def _entry(definition: Definition, options: Options, folder: Path, provenance: dict[str, Any]) -> Entry:
    name, data = definition.name, provenance["data"]["name"]
    heading, _, rest = definition.doc.partition("\n\n")
    caption = rest.split("\n\n    python")[0]
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    several = len(definition.data) > 1
    pictures = [folder / f"{name}.svg", folder / f"{name}-{BESIDE}.svg"]
    return Entry(
        name=f"{name}-{data}" if several else name,
        script=name,
        heading=heading.rstrip(".") + (f" On {data}" if several else ""),
        caption=" ".join(caption.split()),
        pictures=[base64.b64encode(file.read_bytes()).decode() for file in pictures if file.is_file()],
        claims=claims + _arms(definition, options, data),
        formulas=[_mathml(formula) for formula in definition.formulas],
        reductions=provenance["reductions"],
        regime=provenance.get("regime") or "",
        provenance=json.dumps({key: provenance[key] for key in SHOWN if key in provenance}, indent=1),
        outdated=not is_current(definition, folder, options.scale, options.data_dir),
    )


def _arms(definition: Definition, options: Options, data: str) -> list[dict[str, Any]]:
    """Returns the claims of other arms, as controls of the paper's, if they are of today's settings."""
    found = []
    for folder, told in _folders(definition, options):
        if told["data"]["name"] != data or told.get("arm", EPOCHS) == EPOCHS:
            continue
        if is_current(definition, folder, options.scale, options.data_dir):
            words = f"; arm {told['arm']}: {definition.arm(told['arm']).words}"
            for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8")):
                found.append(
                    claim | {"control_of": claim["control_of"] or claim["id"], "claim": claim["claim"] + words}
                )
    return found
