"""The report: what is on disk of every figure at a scale, as one self-contained page."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from three_factors.reproduce.engine import interrupts
from three_factors.reproduce.engine.arms import ARMS
from three_factors.reproduce.engine.claims import controls, interval, own, tally
from three_factors.reproduce.engine.current import is_current
from three_factors.reproduce.engine.definition import BESIDE
from three_factors.reproduce.engine.ending import end_with
from three_factors.reproduce.engine.files import CHECKOUT, write_text
from three_factors.reproduce.engine.options import EPOCHS, InputError, Options, parse

SCRIPTS = CHECKOUT / "reproduce"
# In the order of the page.
THEORY = ("theorem1", "theorem2", "time_rescaling", "finite_step", "momentum", "anisotropic", "sampling", "bridge")
SCRIPTS_IN_ORDER = (*(f"fig{i}" for i in range(1, 17)), "table1", "noise_only", *THEORY)
# Shortest first, as measured at quick; figures of the same networks follow one another, since they share the runs.
TO_RUN = (
    *THEORY, "fig2", "fig7", "fig9", "fig10", "fig11", "fig12", "fig16", "table1", "fig3", "fig4", "fig13",
    "noise_only", "fig5", "fig14", "fig15", "fig6", "fig8", "fig1",
)  # fmt: skip
SIMULATION = "simulation"  # the data of a theory that has none
SHOWN = ("command", "made", "commit", "uncommitted_changes", "python", "versions", "hardware", "data", "missing")


@dataclass(frozen=True)
class ReportOptions(Options):
    """What the report is asked to do."""

    run: bool = False
    arm: str = field(default=EPOCHS, metadata={"help": "for a figure's own script; here arms are among the controls"})

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

    name: str  # unique on the page
    script: str
    heading: str
    caption: str
    pictures: list[str]  # base64 of SVGs: the figure, and what stands beside it
    claims: list[dict[str, Any]]
    formulas: list[str]  # MathML
    reductions: list[list[str]]
    provenance: str
    outdated: bool  # of other settings than the code has now

    @property
    def data(self) -> str:
        return str(self.claims[0]["data"]) if self.claims else ""

    @property
    def own(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """The claims that are no controls, each with its controls."""
        return [(claim, controls(claim, self.claims)) for claim in own(self.claims)]


def main(doc: str, arguments: list[str] | None = None) -> NoReturn:
    """Makes OUT/report-SCALE.html and ends the process with the status of `ending.end_with`."""
    interrupts.listen()

    def work() -> int:
        options = parse(doc, arguments, ReportOptions)
        failed = _run_missing(options) if options.run else []
        page, entries = write(options)
        print(f"written: {page} ({len({entry.script for entry in entries})} of {len(SCRIPTS_IN_ORDER)} figures)")
        for name in failed:
            print(f"{name} failed: see what it said above")
        return 1 if failed else 0

    end_with(work)


def _run_missing(options: ReportOptions) -> list[str]:
    """Runs the scripts that have not left everything, one after another. Returns those that failed."""
    failed = []
    for name, data in [(script, data) for script in TO_RUN for data in _wanted(options, script)]:
        made = [(folder, told) for folder, told in _made(options, name) if _answers(told, data, name)]
        if any(_complete(name, folder, told, options) for folder, told in made):
            continue
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--scale", options.scale, "--out", str(options.out)]
        known = {"wandb", "seeds", "jobs"}
        known |= {"data_dir", "devices"} if name not in THEORY else {"data_dir"} if definition(name).data else set()
        for flag in sorted(known):
            value = getattr(options, flag)
            command += [f"--{flag.replace('_', '-')}", str(value)] if value is not None else []
        command += ["--data", data] if data is not None else []
        if _run(command):
            failed.append(name)
    return failed


def _run(command: list[str]) -> int:
    """A script's exit status. What ends us ends it in the same way, and is waited for."""
    with subprocess.Popen(command) as script:
        try:
            return script.wait()
        except KeyboardInterrupt as ended:
            script.send_signal(signal.SIGTERM if isinstance(ended, interrupts.Terminated) else signal.SIGINT)
            script.wait()
            raise


def _wanted(options: ReportOptions, name: str) -> list[str | None]:
    """The data sets a script is run on; None leaves the choice between its own and a substitute to it."""
    if name in THEORY and definition(name).data is None:
        return [None]
    return [None, *getattr(definition(name), "also_on", ())] if options.data is None else [options.data]


def _answers(told: dict[str, Any], data: str | None, name: str) -> bool:
    """Whether results are of the data set wanted; None: of the script's first one, or a substitute."""
    found = told["data"]["name"]
    return found == data if data is not None else found not in getattr(definition(name), "also_on", ())


def _complete(name: str, folder: Path, told: dict[str, Any], options: ReportOptions) -> bool:
    """Nothing is missing there, no more seeds are asked for, and the settings have not changed since."""
    there = not told["missing"] and (options.seeds or 0) <= told.get("seeds", 0)
    return there and is_current(definition(name), folder, options.scale, options.data_dir)


def definition(name: str) -> Any:
    """The `Figure` or `Theory` of a script."""
    module = import_module(f"three_factors.reproduce.{name}")
    return module.THEORY if name in THEORY else module.FIGURE


def write(options: ReportOptions) -> tuple[Path, list[Entry]]:
    """The page and what is on it. Raises InputError if there is nothing to show."""
    from jinja2 import Environment, FileSystemLoader

    entries = [
        _entry(options, name, folder, told) for name in SCRIPTS_IN_ORDER for folder, told in _shown(options, name)
    ]
    if not entries:
        raise InputError(f"--out: {str(options.out)!r} holds no figure at scale {options.scale}; --run makes them")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters |= {"interval": interval, "tally": tally}
    shown = {entry.script for entry in entries}
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


def _shown(options: ReportOptions, name: str) -> list[tuple[Path, dict[str, Any]]]:
    """The results of a script that are shown: on each of its own data sets if there are such, else on one other."""
    made = _made(options, name)
    return [(folder, told) for folder, told in made if told["data"]["own"]] or made[:1]


def _made(options: ReportOptions, name: str) -> list[tuple[Path, dict[str, Any]]]:
    """Those of the paper's own arm."""
    return [(folder, told) for folder, told in _told(options, name) if told.get("arm", EPOCHS) == EPOCHS]


def _told(options: ReportOptions, name: str) -> list[tuple[Path, dict[str, Any]]]:
    """The folders of a figure at this scale, on the data asked for, with their provenance; its own data first."""
    found = []
    for file in sorted((options.out / name).glob(f"{options.scale}*/provenance.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        if options.data in (None, told["data"]["name"]) or told["data"]["name"] == SIMULATION:
            found.append((file.parent, told))
    return sorted(found, key=lambda item: not item[1]["data"]["own"])


def _mathml(formula: str) -> str:
    """LaTeX as MathML, which browsers draw without help."""
    from latex2mathml.converter import convert

    return convert(formula, display="block")


def _entry(options: ReportOptions, name: str, folder: Path, provenance: dict[str, Any]) -> Entry:
    defined = definition(name)
    heading, _, rest = defined.doc.partition("\n\n")
    caption = rest.split("\n\n    python")[0]
    data = provenance["data"]["name"]
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    for place, told in _told(options, name):  # other arms are controls, if of these settings
        if (
            told["data"]["name"] == data
            and told.get("arm", EPOCHS) != EPOCHS
            and is_current(defined, place, options.scale, options.data_dir)
        ):
            words = f"; arm {told['arm']}: {ARMS[told['arm']].words}"
            found = json.loads((place / "claims.json").read_text(encoding="utf-8"))
            claims += [
                claim | {"control_of": claim["control_of"] or claim["claim"], "claim": claim["claim"] + words}
                for claim in found
            ]
    several = bool(getattr(defined, "also_on", ()))
    pictures = [folder / f"{name}.svg", folder / f"{name}-{BESIDE}.svg"]
    return Entry(
        f"{name}-{data}" if several else name,
        name,
        heading.rstrip(".") + (f" On {data}" if several else ""),
        " ".join(caption.split()),
        [base64.b64encode(file.read_bytes()).decode() for file in pictures if file.is_file()],
        claims,
        [_mathml(formula) for formula in getattr(defined, "formulas", ())],
        provenance["reductions"],
        json.dumps({key: provenance[key] for key in SHOWN if key in provenance}, indent=1),
        not is_current(defined, folder, options.scale, options.data_dir),
    )
