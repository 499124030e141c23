"""The report: what is on disk of every figure at a scale, as one self-contained page."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from reproduce.engine import interrupts
from reproduce.engine.arms import ARMS
from reproduce.engine.definition import BESIDE
from reproduce.engine.files import write_text
from reproduce.engine.options import EPOCHS, InputError, Options, parse, refuse

SCRIPTS = Path(__file__).resolve().parents[1]
# Shortest first, as far as is known; figures of the same networks follow one another, since they share the runs.
FIGURES = (
    "fig4", "fig13", "fig1", "fig9", "fig5", "fig14", "fig15", "fig3", "fig2", "fig10", "fig11", "fig12", "fig7",
    "fig8", "fig16", "table1", "fig6",
)  # fmt: skip
SHOWN = ("command", "made", "commit", "uncommitted_changes", "python", "versions", "hardware", "data", "missing")


@dataclass(frozen=True)
class ReportOptions(Options):
    """What the report is asked to do."""

    run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
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
    reductions: list[list[str]]
    provenance: str


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
    print(f"written: {page} ({len(entries)} of {len(FIGURES)} figures)")
    for name in failed:
        print(f"{name} failed: see what it said above")
    raise SystemExit(1 if failed else 0)


def _run_missing(options: ReportOptions) -> list[str]:
    """Runs the scripts that have left nothing, one after another. Returns those that failed."""
    failed = []
    for name in FIGURES:
        if _folder(options, name) is not None:
            continue
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--scale", options.scale, "--out", str(options.out)]
        command += ["--data-dir", str(options.data_dir), "--wandb", options.wandb, "--devices", str(options.devices)]
        for flag in ("data", "seeds", "jobs"):
            value = getattr(options, flag)
            command += [f"--{flag}", str(value)] if value is not None else []
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    return failed


def write(options: ReportOptions) -> tuple[Path, list[Entry]]:
    """The page and what is on it. Raises InputError if there is nothing to show."""
    from jinja2 import Environment, FileSystemLoader

    entries = [entry for name in numbered(FIGURES) if (entry := _entry(options, name)) is not None]
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
        absent=[name for name in numbered(FIGURES) if name not in shown],
    )
    page = options.out / f"report-{options.scale}.html"
    write_text(page, text)
    return page, entries


def numbered(names: tuple[str, ...]) -> list[str]:
    """The figures, then the tables, each in the paper's order."""
    return sorted(names, key=lambda name: (name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))))


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


def _entry(options: ReportOptions, name: str) -> Entry | None:
    folder = _folder(options, name)
    if folder is None:
        return None
    doc: str = import_module(f"reproduce.{name}").FIGURE.doc
    heading, _, rest = doc.partition("\n\n")
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
        provenance["reductions"],
        json.dumps({key: provenance[key] for key in SHOWN if key in provenance}, indent=1),
    )


def interval(claim: dict[str, Any]) -> str:
    """As the console has it: percentage points where the value is a share of 1."""
    if claim["value"] is None:
        return ""
    scale, unit = (100, " pp") if claim["unit"] == "share" else (1, "")
    value, low, high = (None if claim[key] is None else f"{scale * claim[key]:.2f}" for key in ("value", "low", "high"))
    return f"{value} [unbounded]" if low is None or high is None else f"{value} [{low}, {high}]{unit}"
