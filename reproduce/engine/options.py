"""The command line that all figure scripts share."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_type_hints

from three_factors.reproduce.engine import surroundings

Scale = Literal["smoke", "quick", "gpu", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "quick", "gpu", "paper")
ARCHIVED_SCALES: tuple[Scale, ...] = ("gpu", "paper")  # whose runs are taken from the archive, where it has them
EPOCHS = "epochs"  # the arm that keeps the paper's own protocol
# It follows the scale, never the machine: the runs of the archive are those of any machine.
PRECISION: dict[Scale, str] = {"smoke": "float32", "quick": "float32", "gpu": "tf32", "paper": "tf32"}
CHOICES = ("float32", "tf32", "bf16")  # of --precision
WANDB_MODES = ("offline", "online", "disabled")


class InputError(ValueError):
    """Bad input: one line that names the field and the value. A script prints it and exits with 2."""


def flag(default: Any, words: str, metavar: str = "K") -> Any:
    """Returns a field that is a flag of the command line, with its help."""
    return field(default=default, metadata={"help": words, "metavar": metavar})


SEEDS = 100  # at most: an edition of claims has a hundred seeds, 100 to 199 the first, and the next one's follow them
MOST_PARTS = 1_000  # with the paper's seeds no figure has more than 450 runs, and further parts would be empty
PLACES = ("runs", "paths", "simulations", "packs")  # of OUT: each `contract.folder.Folder.place`
LEAST = 5  # minutes of an array task: SLURM keeps time by the minute, and a run takes some to begin
DATA = (
    "cifar10, mnist, fashionmnist, digits, digits28, or a folder NAME/{train,test}/<class>/* in --data-dir; default: "
    "the figure's own, or the embedded digits, said loudly, if it is nowhere to be had"
)
SIZES = (
    "smoke (seconds), quick (minutes on two CPU cores, the default), gpu (minutes on one large GPU: the paper's own "
    "network, data, eta and S, fewer epochs and seeds) or paper (the paper's own numbers)"
)
MIRROR = "W&B mirror: offline, online or disabled (default: what WANDB_MODE says, else offline)"
ARITHMETIC = (
    "of training: float32 (no TF32), tf32 (GPUs), or bf16 (autocast); default: float32 at smoke and quick, tf32 at gpu "
    "and paper scale. Other runs than the default's"
)
AT_A_TIME = "runs at a time (default: one a CPU core; on a GPU as many as its memory takes, or one pack)"
PIECE = (
    "make only the K-th of N parts of the runs, packs as a whole: for several machines, or hours in pieces; nothing is "
    "drawn or judged"
)
LIMIT = "with --slurm: minutes an array task may take; a run that needs more goes on in another (default: 240)"


@dataclass(frozen=True)
class Options:
    """Holds what a script is asked to do. Every field is a flag of the same name; not every script has all of them."""

    scale: Scale = flag("quick", SIZES, "smoke|quick|gpu|paper")
    arm: str = flag(EPOCHS, "what is changed in all runs: {arms} (default: epochs, the paper's own protocol)", "NAME")
    data: str | None = flag(None, DATA, "NAME")
    data_dir: Path = flag(Path("data"), "where data sets are looked for and downloaded to (default: data)", "DIR")
    out: Path = flag(Path("results"), "results folder (default: results)", "DIR")
    precision: str | None = flag(None, ARITHMETIC, "|".join(CHOICES))
    seeds: int | None = flag(None, "seeds per setting, 100 at most; more train only the new (default: the scale's)")
    devices: int = flag(1, "devices a run trains on together, with DDP (default: 1)")
    num_nodes: int = flag(1, "nodes a run trains on together, with --devices on each (default: 1)")
    slurm: bool = flag(False, "submit the runs as array tasks of SLURM and wait for them")
    partition: str | None = flag(None, "with --slurm: the partition (default: the cluster's)", "NAME")
    time: int | None = flag(None, LIMIT, "MINUTES")
    gpus: bool = flag(False, "with --slurm: the devices are GPUs")
    detach: bool = flag(False, "with --slurm: submit and return; the same command collects later")
    part: str | None = flag(None, PIECE, "K/N")
    no_packs: bool = flag(False, "train every run in a process of its own, also where several go as one stack")
    jobs: int | None = flag(None, AT_A_TIME)
    wandb: str = flag("offline", MIRROR, "offline|online|disabled")
    archive: bool = flag(False, "at smoke and quick scale too take from the archive what it has")
    plot_only: bool = flag(False, "draw and judge what is there; train nothing")
    dry_run: bool = flag(False, "print runs, steps and expected hours; train nothing")

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"--scale: {self.scale!r} is not one of {', '.join(SCALES)}")
        check_precision(self.precision)
        if self.wandb not in WANDB_MODES:
            raise InputError(f"--wandb: {self.wandb!r} is not one of {', '.join(WANDB_MODES)}")
        for name in ("seeds", "devices", "num_nodes", "jobs", "time"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')}: {value} is less than 1")
        if self.seeds is not None and self.seeds > SEEDS:
            raise InputError(f"--seeds: {self.seeds} is more than {SEEDS}, the seeds of one edition of claims")
        if self.part is not None:
            if self.plot_only:
                raise InputError("--part: cannot go with --plot-only")
            self.place()
        if self.plot_only and self.dry_run:
            raise InputError("--dry-run: cannot go with --plot-only")
        _check_folder("data-dir", self.data_dir, _check_readable)
        _check_folder("out", self.out, _check_writable)
        for place in (*PLACES, "slurm") if self.slurm else PLACES:
            check_place(self.out / place)
        self._check_slurm()

    def place(self) -> tuple[int, int] | None:
        """Returns (K, N) of `part`; None without one. Raises InputError if it is no part."""
        if self.part is None:
            return None
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", self.part)
        first, last = map(int, match.groups()) if match else (0, 0)
        if not 1 <= first <= last <= MOST_PARTS:
            raise InputError(f"--part: {self.part!r} is not K/N with K from 1 to N, and N at most {MOST_PARTS}")
        return first, last

    @property
    def arithmetic(self) -> str:
        """Returns the precision of the runs: the one asked for, or the scale's."""
        return self.precision or PRECISION[self.scale]

    def _check_slurm(self) -> None:
        for name in ("partition", "time", "gpus", "detach"):
            if getattr(self, name) and not self.slurm:
                raise InputError(f"--{name}: goes with --slurm")
        if self.time is not None and self.time < LEAST:
            few = f"{self.time} minutes are fewer than {LEAST}"
            raise InputError(f"--time: {few}; runs save themselves one before the end")
        if self.num_nodes > 1 and not self.slurm and "SLURM_JOB_ID" not in os.environ:
            raise InputError(f"--num-nodes: {self.num_nodes} nodes need --slurm, or an allocation of SLURM around them")


OF_ALL = ("scale", "out", "seeds", "jobs", "wandb", "archive", "plot_only", "dry_run")  # flags that every script has


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def parse(
    description: str,
    arguments: list[str] | None = None,
    kind: type[Any] = Options,
    flags: Iterable[str] | None = None,
    arms: Iterable[str] = (),
    positional: str = "",
) -> Any:
    """Returns the options of a command line; ends the process with one line and status 2 on bad input.

    Args:
        description: the help's first lines.
        arguments: sys.argv's by default.
        kind: the class of the options; each of its fields is a flag.
        flags: those of its fields that there are here; the others have their defaults.
        arms: the names that `--arm` takes besides `epochs`.
        positional: the field that is given without a flag, if there is one.
    """
    surroundings.spell_out()
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    hints = get_type_hints(kind)
    for each in fields(kind):
        if flags is not None and each.name not in flags:
            continue
        name, words = f"--{each.name.replace('_', '-')}", each.metadata["help"]
        if each.name == "arm":
            words = words.format(arms=", ".join((EPOCHS, *arms)))
        if hints[each.name] is bool:
            parser.add_argument(name, action="store_true", help=words)
            continue
        if each.name == positional:
            parser.add_argument(each.name, metavar=each.metadata["metavar"], help=words)
            continue
        convert = next((kind for kind in (int, Path) if kind in (hints[each.name], *get_args(hints[each.name]))), str)
        default = None if each.name == "wandb" else each.default
        parser.add_argument(name, type=convert, default=default, metavar=each.metadata["metavar"], help=words)
    try:
        given = vars(parser.parse_args(arguments))
        if "wandb" in given and given["wandb"] is None:
            given["wandb"] = _mode()
        return kind(**given)
    except InputError as error:
        refuse(error)


def _mode() -> str:
    """Returns W&B's mode where no flag gives it."""
    try:
        asked = surroundings.wandb_mode()
    except ValueError as error:
        raise InputError(str(error)) from error
    usual = Options.wandb
    if asked not in (None, usual):
        print(f"W&B: {asked}, as WANDB_MODE says (--wandb goes before it)", flush=True)
    return asked or usual


def check_precision(asked: str | None) -> None:
    """Raises InputError for a precision that there is none of."""
    if asked is not None and asked not in CHOICES:
        raise InputError(f"--precision: {asked!r} is not one of {', '.join(CHOICES)}")


def refuse(error: Exception) -> NoReturn:
    """Prints one line on standard error and exits with status 2."""
    complain(error)
    raise SystemExit(2)


def complain(error: Exception) -> None:
    """Prints one line on standard error."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def check_place(place: Path) -> None:
    """Raises InputError if `place`, of a folder below OUT, is taken by something else: a file, a link to nothing."""
    if os.path.lexists(place) and not place.is_dir():
        raise InputError(f"--out: {str(place)!r} is no folder, and in the way of one")


def _check_folder(flag: str, folder: Path, check: Callable[[Path], None]) -> None:
    try:
        check(folder)
    except OSError as error:
        raise InputError(f"--{flag}: {str(folder)!r} cannot be used ({error.strerror})") from error


def _check_readable(folder: Path) -> None:
    if not folder.is_dir() and folder != Options.data_dir:  # the default need not exist: data are downloaded to it
        raise InputError(f"--data-dir: no folder {str(folder)!r}")


def _check_writable(folder: Path) -> None:
    """Checks that `folder` is, or could be made, a folder we may write to; nothing of it stays there."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {str(folder)!r} is not a folder")
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.exists():  # no folder can be made in its place
        raise InputError(f"--out: {str(nearest)!r} is a link to {os.readlink(nearest)!r}, which is not there")
    try:
        with tempfile.TemporaryFile(dir=nearest):  # permission bits say nothing to root or on a read-only mount
            pass
    except OSError as error:
        raise InputError(f"--out: {str(folder)!r} cannot be written to ({error.strerror})") from error
