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
from three_factors.reproduce.engine.judge.claims import MIXED, G
from three_factors.reproduce.engine.judge.stored_claims import interval, primaries, survives, word
from three_factors.reproduce.engine.options import EPOCHS, InputError, Options
from three_factors.reproduce.engine.publish import forest
from three_factors.reproduce.engine.publish.current import is_current, of_precision

TIME = "time"  # the arm of equal t_eta
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
        claims: as they are stored.
        arms: arm -> its claims, if they are of today's settings.
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
    arms: dict[str, list[dict[str, Any]]]
    formulas: list[str]
    reductions: list[list[str]]
    regime: str
    provenance: str
    outdated: bool

    @property
    def data(self) -> str:
        return str(self.claims[0]["data"]) if self.claims else ""

    @property
    def primary(self) -> list[tuple[dict[str, Any], dict[str, dict[str, Any]], str]]:
        """Returns each claim that is given a word, what became of it in other arms, and whether it survives them."""
        found = []
        for claim in primaries(self.claims):
            others = {arm: of for arm, claims in self.arms.items() for of in claims if of["id"] == claim["id"]}
            found.append((claim, others, survives(claim, [*others.values()])))
        return found

    @property
    def estimated(self) -> list[dict[str, Any]]:
        """Returns the claims that are given none."""
        return [claim for claim in self.claims if not claim.get("primary")]


def write(contents: Contents, options: Options) -> tuple[Path, list[Entry]]:
    """Writes the page; returns where it is and what is on it. Raises InputError if there is nothing to show."""
    from jinja2 import Environment, FileSystemLoader

    definitions = [contents.load(name) for name in contents.page]
    entries = [_entry(one, options, *place) for one in definitions for place in _displayed(one, options)]
    if not entries:
        sought = f"at scale {options.scale} in {options.arithmetic}"
        raise InputError(f"--out: {str(options.out)!r} holds no figure {sought}; --run makes them")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters |= {"interval": interval, "word": word}
    displayed = {entry.script for entry in entries}
    text = environment.get_template("page.html.j2").render(
        title="Three factors influencing minima in SGD: what the figures show",
        scale=options.scale,
        made=time.strftime("%Y-%m-%d"),
        figures=entries,
        absent=[name for name in contents.page if name not in displayed],
        forest=_forest(entries, options.scale),
        rivals=_rivals(entries, options.scale),
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
    """Returns a script's folders at this scale and precision, on the data asked for, with their provenance.

    Its own data are first.
    """
    found = []
    for file in sorted((options.out / definition.name).glob(f"{options.scale}*/provenance.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        if not of_precision(definition, told, options):
            continue
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
        claims=claims,
        arms=_arms(definition, options, data),
        formulas=[_mathml(formula) for formula in definition.formulas],
        reductions=provenance["reductions"],
        regime=provenance.get("regime") or "",
        provenance=json.dumps({key: provenance[key] for key in SHOWN if key in provenance}, indent=1),
        outdated=not is_current(definition, folder, options.scale, options.data_dir),
    )


def _arms(definition: Definition, options: Options, data: str) -> dict[str, list[dict[str, Any]]]:
    """Returns arm -> its claims, of the arms that are there and of today's settings."""
    found = {}
    for folder, told in _folders(definition, options):
        if told["data"]["name"] != data or told.get("arm", EPOCHS) == EPOCHS:
            continue
        if is_current(definition, folder, options.scale, options.data_dir):
            found[str(told["arm"])] = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    return found


def _forest(entries: list[Entry], scale: str) -> str:
    """Returns the picture of all primary claims of figures, base64 of an SVG; "" if there are none.

    Checks of simulators are not among them.
    """
    rows = [
        forest.row(entry.name, scale, claim)
        for entry in entries
        if entry.data != SIMULATION
        for claim, _, _ in entry.primary
        if claim.get("rule")
    ]
    return base64.b64encode(forest.of_claims(rows, "svg")).decode() if rows else ""


def _rivals(entries: list[Entry], scale: str) -> str:
    """Returns the picture of every g, base64 of an SVG; "" if there is none."""
    rows = [
        forest.index_row(entry.name, scale, claim) for entry in entries for claim in indices(entry.claims, entry.arms)
    ]
    return base64.b64encode(forest.of_indices(rows, "svg")).decode() if rows else ""


def indices(claims: list[dict[str, Any]], arms: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the stored claims about g, which are of equal t_eta: what is mixed at equal epochs is so in an arm."""
    found = [claim for claim in claims if claim.get("quantity") == G]
    found += [claim for claim in arms.get(TIME, []) if claim.get("quantity") == MIXED]
    return [claim for claim in found if claim["value"] is not None]
