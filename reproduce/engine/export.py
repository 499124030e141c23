"""Finished runs into a block of the archive, or into a tidy table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from three_factors.reproduce.engine.console import say
from three_factors.reproduce.engine.definition import Contents, Definition, Figure
from three_factors.reproduce.engine.launch import interrupts
from three_factors.reproduce.engine.launch.ending import end_with
from three_factors.reproduce.engine.options import EPOCHS, PRECISION, SCALES, InputError, Options, flag, parse

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.contract.spec import Item
    from three_factors.reproduce.engine.planning import Plan

FLAGS = ("figure", "csv", "to", "take", "scale", "arm", "data", "data_dir", "precision", "out", "seeds")


@dataclass(frozen=True)
class ExportOptions(Options):
    """Describes what is exported."""

    figure: str = flag("", "whose runs: fig1, table1, ...", "FIGURE")
    csv: Path | None = flag(None, "write this tidy table instead: a row a value", "FILE")

    to: Path | None = flag(None, "the archive to add to (default: the one beside the code)", "DIR")
    take: Path | None = flag(None, "take the figure's blocks from this archive, made elsewhere with --to", "DIR")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.take is not None and not self.take.is_dir():
            raise InputError(f"--take: no folder {str(self.take)!r}")
        if self.take is not None and self.csv is not None:
            raise InputError("--take: cannot go with --csv")
        if self.to is not None and self.to.exists() and not self.to.is_dir():
            raise InputError(f"--to: {str(self.to)!r} is not a folder")
        if self.csv is not None and (self.csv.is_dir() or not self.csv.absolute().parent.is_dir()):
            raise InputError(f"--csv: {str(self.csv)!r} is a folder, or in none")


def main(doc: str, contents: Contents, arguments: list[str] | None = None) -> NoReturn:
    """Writes a block, or a table, and ends the process with the status of `ending.end_with`."""
    interrupts.listen()

    def work() -> int:
        options = parse(doc, arguments, ExportOptions, FLAGS, positional="figure")
        if options.figure not in contents.page:
            raise InputError(f"figure: {options.figure!r} is none of {', '.join(contents.page)}")
        return _export(contents.load(options.figure), options)

    end_with(work)


def _export(definition: Definition, options: ExportOptions) -> int:
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.launch.server import Server
    from three_factors.reproduce.engine.planning import plan_of
    from three_factors.reproduce.engine.source import resolve

    if not isinstance(definition, Figure):
        raise InputError(f"figure: {definition.name!r} is simulated; its chains are made again in minutes, not kept")
    archive = Archive(options.to)
    if options.take is not None:
        return _take(definition, options.take, archive)
    source = resolve(definition, options, Server(), say, archive)
    assert source is not None
    plan = plan_of(definition, options, source, definition.arm(options.arm))
    results = Results(options.out, None if options.csv is None else archive)
    items = [item for stage in plan.stages(results, say) for item in stage.items]
    done = [item for item in items if results.finished(item, say) is not None]
    if not done:
        sought = f"{definition.name} --scale {options.scale} in {options.arithmetic}"
        raise InputError(f"--out: {str(options.out)!r} holds no finished run of {sought}")
    say(f"{len(done)} of {len(items)} finished in {options.out}")
    if options.csv is not None:
        rows = _tidy(plan, done, results, options.csv)
        say(f"written: {options.csv} ({rows} values)")
        return 0
    return _add(definition, options, source, archive, done, results)


def _take(definition: Definition, folder: Path, archive: Archive) -> int:
    """Takes the blocks that were made elsewhere, and the looks that were spent there."""
    from three_factors.reproduce.engine.contract.archive import Archive as Other
    from three_factors.reproduce.engine.contract.block import DamagedArchive
    from three_factors.reproduce.engine.publish import ledger

    try:
        taken = archive.take(Other(folder), definition.name, say)
    except DamagedArchive as error:
        raise InputError(f"--take: {error}") from error
    for scale in SCALES:
        ledger.append(archive.folder, ledger.of_figure(folder, definition.name, scale))
    say(f"taken: {', '.join(taken)}" if taken else f"nothing of {definition.name} is to be taken from {folder}")
    return 0


def _add(
    definition: Figure,
    options: ExportOptions,
    source: Prepared,
    archive: Archive,
    done: Sequence[Item],
    results: Results,
) -> int:
    """Adds what the archive lacks."""
    from three_factors.reproduce.engine.contract import provenance
    from three_factors.reproduce.engine.contract.run_folder import RunFolder
    from three_factors.reproduce.engine.publish import ledger
    from three_factors.reproduce.engine.source import described

    # Looks are a figure's own; its runs may be in the archive by another figure's name.
    ledger.append(archive.folder, ledger.of_figure(options.out, definition.name, options.scale))
    lacking = [item for item in done if not _is_in(archive, item)]
    others = [item.name for item in lacking if _of_another_training(archive, item, results)]
    if others:
        say(f"left out, since the archive has other trainings of these runs: {', '.join(others)}")
    new = [item for item in lacking if item.name not in others]
    if not new:
        say("nothing else is to be added" if others else "all of it is in the archive")
        return 0
    runs, lines, ends = list[Any](), dict[str, Any](), dict[str, list[str]]()
    for item in new:
        folder = results.place(item)
        if isinstance(folder, RunFolder):
            runs.append((item, folder))
        else:
            lines[item.spec.key] = results.finished(item, say)
            ends[item.spec.key] = [run.spec.key for run in _trainings(item)]
    seeds = sorted({item.seed for item in new})
    parts = [definition.name, options.scale, source.name, *([options.arm] if options.arm != EPOCHS else [])]
    parts += [] if options.arithmetic == PRECISION[options.scale] else [options.arithmetic]
    stem = "-".join([*parts, f"seeds-{seeds[0]}-{seeds[-1]}"])
    name = archive.free(stem)
    told = {
        "figure": definition.name,
        "scale": options.scale,
        "arm": options.arm,
        "precision": options.arithmetic,
        "data": described(source),
        "made": provenance.environment(),
        "lines": lines,
        "ends": ends,
    }
    written = archive.add(name, told, runs)
    assert written is not None
    size = sum(written.with_suffix(ending).stat().st_size for ending in (".json", ".npz")) / 1e6
    say(f"written: {written.with_suffix('')}.{{json,npz}} ({len(runs)} runs, {len(lines)} lines, {size:.2f} MB)")
    return 0


def _is_in(archive: Archive, item: Item) -> bool:
    folder = archive.folder_of(item.spec)
    return folder is not None and folder.complete(item.measurements, every_step=item.every_step) is not None


def _of_another_training(archive: Archive, item: Item, results: Results) -> bool:
    """Tells whether the archive has another training of a run, or of a run at an end of a line."""
    found = {run.spec.key: results.finished(run, say) for run in _trainings(item)}
    return any(result is not None and archive.has_another(key, result) for key, result in found.items())


def _trainings(item: Item) -> list[Item]:
    """Returns a run itself, or the runs at the ends of a line."""
    from three_factors.reproduce.engine.contract.spec import Item, PathSpec

    if not isinstance(item.spec, PathSpec):
        return [item]
    return [Item("", item.seed, run) for run in (item.spec.start, item.spec.end)]


def _tidy(plan: Plan, done: Sequence[Item], results: Results, file: Path) -> int:
    """Writes a row a value: label, seed, factors, epoch (empty for the end and milestones), metric, value."""
    import pandas as pd

    from three_factors.reproduce.engine.contract.files import write_text

    table: Any = plan.evidence(list(done), results, say)
    factors = [name for name in dict.fromkeys(n for of in table.factors.values() for n in of) if name in table.frame]
    index = ["label", "seed", "status", "key", *factors]
    ends = table.frame.melt(id_vars=[c for c in index if c in table.frame], var_name="metric")
    parts = [ends]
    for (label, seed), rows in table.rows.items():
        of = {"label": label, "seed": seed, "status": "ok", **table.factors.get(label, {})}
        parts.append(rows.reset_index().melt(id_vars="epoch", var_name="metric").assign(**of))
    found = pd.concat(parts, ignore_index=True).dropna(subset=["value"])
    columns = [c for c in [*index, "epoch", "metric", "value"] if c in found]
    write_text(file, found[columns].to_csv(index=False))
    return len(found)
