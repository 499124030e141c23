"""The report's command line: makes the figures that are not there yet, and writes the page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.console import say
from three_factors.reproduce.engine.contract.archive import Archive
from three_factors.reproduce.engine.contract.files import CHECKOUT
from three_factors.reproduce.engine.definition import Contents, Definition, Figure
from three_factors.reproduce.engine.experiment import Arm
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.ending import end_with
from three_factors.reproduce.engine.launch.scripts import run_scripts
from three_factors.reproduce.engine.options import (
    ARCHIVED_SCALES,
    EPOCHS,
    OF_ALL,
    InputError,
    Options,
    complain,
    flag,
    parse,
)
from three_factors.reproduce.engine.outlook import outlook
from three_factors.reproduce.engine.planning import FigurePlan
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
        failed = _draw_archived(contents, options) + (_run_missing(contents, options) if options.run else [])
        page, entries, damaged = write(contents, options)
        print(f"written: {page} ({len({entry.script for entry in entries})} of {len(contents.page)} figures)")
        for name in failed:
            print(f"{name} failed: see what it said above")
        for error in damaged:
            complain(error)
        return 2 if damaged else 1 if failed else 0

    end_with(work)


def _draw_archived(contents: Contents, options: ReportOptions) -> list[str]:
    """Draws figures that are not complete in OUT from the archive, as many as there are cores at a time.

    Returns those that failed; one of which the archive has nothing is none.
    """
    archive = Archive() if options.archive or options.scale in ARCHIVED_SCALES else None
    if archive is None or not any(
        archive.block(name).told["scale"] == options.scale for name in archive.index["blocks"]
    ):
        return []
    figures = [(of, data, EPOCHS) for of, data in _missing(contents, options) if isinstance(of, Figure)]
    arms = [one for name in contents.page for one in _missing_arms(contents.load(name), options, archive)]
    left = [[*_command(*one, options), "--plot-only"] for one in (*figures, *arms)]
    say(f"from the archive: what it has of {len(figures)} figures and {len(arms)} of their arms")
    ended = run_scripts(left, at_once=os.cpu_count() or 1)
    failed = [of for of in ended if of.status not in (0, 1)]  # 1: nothing there, or not all
    for of in failed:
        print(of.complaints.strip() or of.printed.strip())
    return [Path(of.command[0]).stem for of in failed]


def _run_missing(contents: Contents, options: ReportOptions) -> list[str]:
    """Runs the scripts whose results are not complete, one after another. Returns those that failed."""
    return [one.name for one, data in _missing(contents, options) if _run(_command(one, data, EPOCHS, options))]


def _missing(contents: Contents, options: ReportOptions) -> Iterator[tuple[Definition, str | None]]:
    """Yields the scripts whose results are not complete, and the data set that they lack; shortest first."""
    for definition in map(contents.load, contents.running):
        for data in _wanted(definition, options):
            there, _ = folders(definition, options)  # without those that are damaged: they are made again
            made = [one for one in papers(there) if _matches(one.told, data, definition)]
            if not any(_complete(definition, one.folder, one.told, options) for one in made):
                yield definition, data


def _missing_arms(
    definition: Definition, options: ReportOptions, archive: Archive
) -> Iterator[tuple[Definition, str | None, str]]:
    """Yields the arms of a figure whose runs are all in the archive, and whose results are not complete."""
    if not isinstance(definition, Figure):
        return
    there, _ = folders(definition, options)
    done = {(one.data, one.arm) for one in there if _complete(definition, one.folder, one.told, options)}
    for data in definition.data:
        if options.data not in (None, data):
            continue
        for source, arm in product(archive.sources([data]), definition.arms):
            if (data, arm.name) not in done and _archived(definition, arm, source, options, archive):
                yield definition, None if data == definition.data[0] else data, arm.name


def _archived(figure: Figure, arm: Arm, source: Prepared, options: ReportOptions, archive: Archive) -> bool:
    of = Options(scale=options.scale, seeds=options.seeds, precision=options.precision)
    try:
        runs = FigurePlan(figure, of, source, arm).runs()
    except InputError:  # the arm leaves no run at this scale
        return False
    return all(run.spec.key in archive.index["keys"] for run in runs)


def _command(definition: Definition, data: str | None, arm: str, options: ReportOptions) -> list[str]:
    """Returns a figure's script, and of all that the report was asked for what it knows."""
    known = (*OF_ALL, *definition.flags)
    given = {of.name: getattr(options, of.name) for of in fields(Options) if of.name in known}
    given |= {"data": data} | ({"arm": arm} if "arm" in known else {})
    words = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [flag, str(value)]
    return [str(SCRIPTS / f"{definition.name}.py"), *words]


def _run(command: list[str]) -> int:
    """Runs a script and returns its exit status. What ends us ends it in the same way, and is waited for."""
    with subprocess.Popen([sys.executable, *command]) as script:
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
