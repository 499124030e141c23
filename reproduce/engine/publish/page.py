"""The report: what is on disk of every figure at a scale, as one self-contained page."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from three_factors.reproduce.engine.contract.files import write_text
from three_factors.reproduce.engine.definition import SIMULATION, Contents, Definition
from three_factors.reproduce.engine.judge.claims import AT_EQUAL_EPOCHS, MIXED, G
from three_factors.reproduce.engine.judge.stored_claims import (
    elsewhere,
    interval,
    primaries,
    survives,
    why_undecided,
    word,
)
from three_factors.reproduce.engine.options import EPOCHS, InputError, Options
from three_factors.reproduce.engine.publish import forest
from three_factors.reproduce.engine.publish.current import is_current, of_precision
from three_factors.reproduce.engine.publish.stored import Damaged, Stored, of_scale

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
        damaged: the arms whose claims cannot be read.
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
    damaged: list[str]
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
            others = elsewhere(claim, self.arms)
            survived = survives(claim, [*others.values()])
            # An arm that cannot be read may hold the one in which it falls.
            found.append((claim, others, "open" if self.damaged and survived == "survives" else survived))
        return found

    @property
    def estimated(self) -> list[dict[str, Any]]:
        """Returns the claims that are given none."""
        return [claim for claim in self.claims if not claim.get("primary")]


def write(contents: Contents, options: Options) -> tuple[Path, list[Entry], list[InputError]]:
    """Writes the page; returns where it is, what is on it, and what is damaged and therefore only named on it.

    Raises InputError if there is nothing to show.
    """
    from jinja2 import Environment, FileSystemLoader

    entries, wrong = list[Entry](), dict[str, list[InputError]]()
    for definition in map(contents.load, contents.page):
        found, wrong[definition.name] = folders(definition, options)
        entries += [_entry(definition, options, one, found, wrong[definition.name]) for one in _displayed(found)]
    damaged = [error for errors in wrong.values() for error in errors]
    if not entries:
        sought = f"at scale {options.scale} in {options.arithmetic}"
        nothing = InputError(f"--out: {str(options.out)!r} holds no figure {sought}; --run makes them")
        raise damaged[0] if damaged else nothing
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters |= {"interval": interval, "word": word, "why_undecided": why_undecided}
    displayed = {entry.script for entry in entries}
    text = environment.get_template("page.html.j2").render(
        title="Three factors influencing minima in SGD: what the figures show",
        scale=options.scale,
        made=time.strftime("%Y-%m-%d"),
        figures=entries,
        absent=[name for name in contents.page if name not in displayed and not wrong[name]],
        damaged=damaged,
        forest=_forest(entries, options.scale),
        rivals=_rivals(entries, options.scale),
    )
    page = options.out / f"report-{options.scale}.html"
    write_text(page, text)
    return page, entries, damaged


def _displayed(found: list[Stored]) -> list[Stored]:
    """Returns a script's results on each of its own data sets if there are such, else on one other."""
    made = papers(found)
    return [one for one in made if one.told["data"]["own"]] or made[:1]


def papers(found: list[Stored]) -> list[Stored]:
    """Returns the results in the paper's own arm."""
    return [one for one in found if one.arm == EPOCHS]


def folders(definition: Definition, options: Options) -> tuple[list[Stored], list[InputError]]:
    """Returns a script's results at this scale and precision, on the data asked for, and which are damaged.

    Its own data are first.
    """
    there, errors = of_scale(definition, options.out, options.scale)

    def asked(data: str, precision: str | None) -> bool:
        of_data = options.data is None or data in (options.data, SIMULATION)
        return of_data and of_precision(definition, precision, options)

    found = [one for one in there if asked(one.data, one.told.get("precision"))]
    wrong = [of for of in errors if not isinstance(of, Damaged) or asked(of.data, of.precision)]
    return sorted(found, key=lambda one: not one.told["data"]["own"]), wrong


def _mathml(formula: str) -> str:
    """Returns LaTeX as MathML, which browsers draw without help."""
    from latex2mathml.converter import convert

    return convert(formula, display="block")


def _entry(
    definition: Definition, options: Options, shown: Stored, found: list[Stored], wrong: list[InputError]
) -> Entry:
    name, data, provenance = definition.name, shown.data, shown.told
    heading, _, rest = definition.doc.partition("\n\n")
    caption = rest.split("\n\n    python")[0]
    several = len(definition.data) > 1
    return Entry(
        name=f"{name}-{data}" if several else name,
        script=name,
        heading=heading.rstrip(".") + (f" On {data}" if several else ""),
        caption=" ".join(caption.split()),
        pictures=[base64.b64encode(picture).decode() for picture in shown.pictures.values()],
        claims=shown.claims,
        arms=_arms(definition, options, data, found),
        damaged=[of.arm for of in wrong if isinstance(of, Damaged) and of.data == data and of.arm != EPOCHS],
        formulas=[_mathml(formula) for formula in definition.formulas],
        reductions=provenance["reductions"],
        regime=provenance.get("regime") or "",
        provenance=json.dumps({key: provenance[key] for key in SHOWN if key in provenance}, indent=1),
        outdated=not is_current(definition, shown.folder, options.scale, options.data_dir),
    )


def _arms(definition: Definition, options: Options, data: str, found: list[Stored]) -> dict[str, list[dict[str, Any]]]:
    """Returns arm -> its claims, of the arms that are there and of today's settings."""
    of_data = [one for one in found if one.data == data and one.arm != EPOCHS]
    current = [one for one in of_data if is_current(definition, one.folder, options.scale, options.data_dir)]
    return {one.arm: one.claims for one in current}


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
    for arm, of in arms.items():
        wanted = (G, MIXED) if arm == TIME else (G,)
        for claim in of:
            if claim.get("quantity") in wanted:
                text = claim["claim"].removesuffix(AT_EQUAL_EPOCHS)
                found.append(claim | {"claim": f"{text}, arm {arm}"})
    return [claim for claim in found if claim["value"] is not None]
