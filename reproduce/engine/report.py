"""The report's command line: makes the figures that are not there yet, and writes the page."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from three_factors.reproduce.engine.console import say
from three_factors.reproduce.engine.contract.files import CHECKOUT
from three_factors.reproduce.engine.definition import Contents, Definition
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.ending import end_with
from three_factors.reproduce.engine.options import EPOCHS, OF_ALL, InputError, Options, complain, flag, parse
from three_factors.reproduce.engine.outlook import outlook
from three_factors.reproduce.engine.publish.current import is_current
from three_factors.reproduce.engine.publish.page import folders, papers, write

SCRIPTS = CHECKOUT / "reproduce"


@dataclass(frozen=True)
class ReportOptions(Options):
    """Describes what the report is asked to do."""

    run: bool = flag(False, "make the figures that are not there yet, shortest first")
    arm: str = flag(EPOCHS, "for a figure's own script; here arms are among the controls", "NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot_only:
            raise InputError("--plot-only: is for a figure's own script")
        if self.part is not None:
            raise InputError("--part: is for a figure's own script")
        if self.arm != EPOCHS:
            raise InputError(
                f"--arm: {self.arm!r} is for a figure's own script; the report shows it among the controls"
            )


def main(doc: str, contents: Contents, arguments: list[str] | None = None) -> NoReturn:
    """Makes OUT/report-SCALE.html and ends the process with the status of `ending.end_with`."""
    interrupts.listen()

    def work() -> int:
        options = parse(doc, arguments, ReportOptions)
        if options.dry_run:
            return outlook(contents, options, say)
        failed = _run_missing(contents, options) if options.run else []
        page, entries, damaged = write(contents, options)
        print(f"written: {page} ({len({entry.script for entry in entries})} of {len(contents.page)} figures)")
        for name in failed:
            print(f"{name} failed: see what it said above")
        for error in damaged:
            complain(error)
        return 2 if damaged else 1 if failed else 0

    end_with(work)


def _run_missing(contents: Contents, options: ReportOptions) -> list[str]:
    """Runs the scripts whose results are not complete, one after another. Returns those that failed."""
    failed = []
    for name in contents.running:
        definition = contents.load(name)
        for data in _wanted(definition, options):
            there, _ = folders(definition, options)  # without those that are damaged: they are made again
            made = [one for one in papers(there) if _matches(one.told, data, definition)]
            if not any(_complete(definition, one.folder, one.told, options) for one in made):
                failed += [name] if _run(_command(definition, data, options)) else []
    return failed


def _command(definition: Definition, data: str | None, options: ReportOptions) -> list[str]:
    """Returns the command of a figure with all that the report was asked for, as far as that script knows it."""
    known = (*OF_ALL, *definition.flags)
    given = {of.name: getattr(options, of.name) for of in fields(Options) if of.name in known} | {"data": data}
    words = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [flag, str(value)]
    return [sys.executable, str(SCRIPTS / f"{definition.name}.py"), *words]


def _run(command: list[str]) -> int:
    """Runs a script and returns its exit status. What ends us ends it in the same way, and is waited for."""
    with subprocess.Popen(command) as script:
        try:
            return script.wait()
        except KeyboardInterrupt as ended:
            script.send_signal(signal.SIGTERM if isinstance(ended, interrupts.Terminated) else signal.SIGINT)
            script.wait()
            raise


def _wanted(definition: Definition, options: ReportOptions) -> list[str | None]:
    """Returns the data sets a script is run on; None leaves the choice between its first and a substitute to it."""
    if not definition.data:
        return [None]
    return [None, *definition.data[1:]] if options.data is None else [options.data]


def _matches(told: dict[str, Any], data: str | None, definition: Definition) -> bool:
    """Tells whether stored results are for `data`; with None, for the script's first data set or its substitute."""
    found = told["data"]["name"]
    return found == data if data is not None else found not in definition.data[1:]


def _complete(definition: Definition, folder: Path, told: dict[str, Any], options: ReportOptions) -> bool:
    """Tells whether nothing is missing there, no more seeds are asked for, and the settings have not changed since."""
    enough = not told["missing"] and (options.seeds or 0) <= told.get("seeds", 0)
    return enough and is_current(definition, folder, options.scale, options.data_dir)
