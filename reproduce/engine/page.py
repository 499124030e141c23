"""The report: what is on disk of every figure at a scale, as one self-contained page."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from reproduce.engine import interrupts
from reproduce.engine.arms import ARMS
from reproduce.engine.claims import interval
from reproduce.engine.definition import BESIDE
from reproduce.engine.files import write_text
from reproduce.engine.options import EPOCHS, InputError, Options, parse, refuse

SCRIPTS = Path(__file__).resolve().parents[1]
# In the order of the page.
THEORY = ("theorem1", "theorem2", "time_rescaling", "finite_step", "momentum", "anisotropic", "sampling")
SCRIPTS_IN_ORDER = (*(f"fig{i}" for i in range(1, 17)), "table1", *THEORY)
# Shortest first, as far as is known; figures of the same networks follow one another, since they share the runs.
TO_RUN = (
    *THEORY, "fig4", "fig13", "fig1", "fig9", "fig5", "fig14", "fig15", "fig3", "fig2", "fig10", "fig11", "fig12",
    "fig7", "fig8", "fig16", "table1", "fig6",
)  # fmt: skip
SHOWN = ("command", "made", "commit", "uncommitted_changes", "python", "versions", "hardware", "data", "missing")


@dataclass(frozen=True)
class ReportOptions(Options):
    """What the report is asked to do."""

    run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag in ("plot_only", "dry_run"):
            if getattr(self, flag):
                raise InputError(f"--{flag.replace('_', '-')}: is for a figure's own script")
        if self.arm != EPOCHS:
            raise InputError(
                f"--arm: {self.arm!r} is for a figure's own script; the report shows it among the controls"
            )


@dataclass(frozen=True)
class Entry:
    """One figure on the page."""

    name: str
    heading: str
    caption: str
    pictures: list[str]  # base64 of SVGs: the figure, and what stands beside it
    claims: list[dict[str, Any]]
    formulas: list[str]  # MathML
    reductions: list[list[str]]
    provenance: str

    @property
    def data(self) -> str:
        return str(self.claims[0]["data"]) if self.claims else ""

    @property
    def own(self) -> list[dict[str, Any]]:
        """The paper's claims."""
        return [claim for claim in self.claims if not claim["control"]]

    @property
    def controls(self) -> dict[str, int]:
        """verdict -> how many controls have it."""
        return dict(Counter(claim["verdict"] for claim in self.claims if claim["control"]))


def main(doc: str, arguments: list[str] | None = None) -> NoReturn:
    """Makes OUT/report-SCALE.html and ends the process: 0 done, 1 a figure failed, 2 bad input."""
    interrupts.listen()
    options = parse(doc, arguments, ReportOptions)
    try:
        failed = _run_missing(options) if options.run else []
        page, entries = write(options)
    except InputError as error:
        refuse(error)
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"written: {page} ({len(entries)} of {len(SCRIPTS_IN_ORDER)} figures)")
    for name in failed:
        print(f"{name} failed: see what it said above")
    raise SystemExit(1 if failed else 0)


def _run_missing(options: ReportOptions) -> list[str]:
    """Runs the scripts that have not left everything, one after another. Returns those that failed."""
    failed = []
    for name in TO_RUN:
        folder = _folder(options, name)
        if folder is not None and _complete(folder, options):
            continue
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--scale", options.scale, "--out", str(options.out)]
        known = {"wandb", "seeds", "jobs"} | ({"data_dir", "devices", "data"} if name not in THEORY else set())
        for flag in sorted(known):
            value = getattr(options, flag)
            command += [f"--{flag.replace('_', '-')}", str(value)] if value is not None else []
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    return failed


def _complete(folder: Path, options: ReportOptions) -> bool:
    """Nothing is missing there, and no more seeds are asked for."""
    told = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    return not told["missing"] and (options.seeds or 0) <= told.get("seeds", 0)


def definition(name: str) -> Any:
    """The `Figure` or `Theory` of a script."""
    module = import_module(f"reproduce.{name}")
    return module.THEORY if name in THEORY else module.FIGURE


def write(options: ReportOptions) -> tuple[Path, list[Entry]]:
    """The page and what is on it. Raises InputError if there is nothing to show."""
    from jinja2 import Environment, FileSystemLoader

    entries = [entry for name in SCRIPTS_IN_ORDER if (entry := _entry(options, name)) is not None]
    if not entries:
        raise InputError(f"--out: {str(options.out)!r} holds no figure at scale {options.scale}; --run makes them")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters["interval"] = interval
    shown = {entry.name for entry in entries}
    text = environment.get_template("page.html.j2").render(
        title="Three factors influencing minima in SGD: what the figures show",
        scale=options.scale,
        made=time.strftime("%Y-%m-%d"),
        figures=entries,
        absent=[name for name in SCRIPTS_IN_ORDER if name not in shown],
    )
    page = options.out / f"report-{options.scale}.html"
    write_text(page, text)
    return page, entries


def _folder(options: ReportOptions, name: str) -> Path | None:
    """Where a figure's results are: on its own data if there are such, else on a substitute."""
    return next((folder for folder, told in _told(options, name) if told.get("arm", EPOCHS) == EPOCHS), None)


def _told(options: ReportOptions, name: str) -> list[tuple[Path, dict[str, Any]]]:
    """The folders of a figure at this scale, on the data asked for, with their provenance; its own data first."""
    found = []
    for file in sorted((options.out / name).glob(f"{options.scale}*/provenance.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        if options.data in (None, told["data"]["name"]):
            found.append((file.parent, told))
    return sorted(found, key=lambda item: not item[1]["data"]["own"])


def _mathml(formula: str) -> str:
    """LaTeX as MathML, which browsers draw without help."""
    from latex2mathml.converter import convert

    return convert(formula, display="block")


def _entry(options: ReportOptions, name: str) -> Entry | None:
    folder = _folder(options, name)
    if folder is None:
        return None
    defined = definition(name)
    heading, _, rest = defined.doc.partition("\n\n")
    caption = rest.split("\n\n    python")[0]
    everything = _told(options, name)
    provenance = next(told for place, told in everything if place == folder)
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    for place, told in everything:  # the other arms on the same data are controls
        if told["data"]["name"] == provenance["data"]["name"] and told.get("arm", EPOCHS) != EPOCHS:
            words = f"; arm {told['arm']}: {ARMS[told['arm']].words}"
            found = json.loads((place / "claims.json").read_text(encoding="utf-8"))
            claims += [claim | {"control": True, "claim": claim["claim"] + words} for claim in found]
    pictures = [folder / f"{name}.svg", folder / f"{name}-{BESIDE}.svg"]
    return Entry(
        name,
        heading.rstrip("."),
        " ".join(caption.split()),
        [base64.b64encode(file.read_bytes()).decode() for file in pictures if file.is_file()],
        claims,
        [_mathml(formula) for formula in getattr(defined, "formulas", ())],
        provenance["reductions"],
        json.dumps({key: provenance[key] for key in SHOWN if key in provenance}, indent=1),
    )
