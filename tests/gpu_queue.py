"""The paper's scale on one large GPU, in blocks of at most nine minutes that each are one command.

    python tests/gpu_queue.py                            # the queue: what is in the archive, what is next
    python tests/gpu_queue.py OUT --block 3 --data-dir D # on the GPU: makes block 3, adds it to the archive there
    python tests/gpu_queue.py OUT --take                 # here: takes blocks that were brought back into the archive

    python tests/gpu_queue.py OUT --block 1 --data-dir D --precision float32 --minutes 150  # on CPU cores

A block is a part of a figure's runs (`--part`). What is done when its time is over is exported: OUT is then an archive
of few small files; a run that was cut off begins again with the next call, on a bare machine. `--toy` makes a block at
smoke scale on the embedded digits. Runs of another precision are others: `--precision` lists and makes theirs.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from three_factors.reproduce.engine.contract.archive import Archive
    from three_factors.reproduce.engine.contract.spec import Item

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]

from three_factors.reproduce.engine.options import CHOICES  # once it can be found

SECONDS = 480  # of a block; nine minutes with the export and the start
GRACE = 30  # for runs to save themselves


@dataclass(frozen=True)
class Part:
    """A block of the queue.

    Attributes:
        figure: the script whose runs they are.
        scale: at which they are made.
        place: (k, n), part k of n.
        arm: of the figure.
        data: its data set.
        precision: of its runs; None for that of the scale.
    """

    figure: str
    scale: str
    place: tuple[int, int]
    arm: str = "epochs"
    data: str = "cifar10"
    precision: str | None = None

    def flags(self) -> list[str]:
        """Returns the flags that the figure and its export have in common, without folders."""
        arm = [] if self.arm == "epochs" else ["--arm", self.arm]
        precision = [] if self.precision is None else ["--precision", self.precision]
        return ["--scale", self.scale, *arm, "--data", self.data, *precision]


def parts(figure: str, scale: str, count: int, arms: Sequence[str] = ("epochs",), data: str = "cifar10") -> list[Part]:
    """Returns all parts of a figure, arm after arm."""
    return [Part(figure, scale, (k, count), arm, data) for arm in arms for k in range(1, count + 1)]


# In the order in which they say most about the question. MLPs: a part a batch size or two, all seeds in one pack.
QUEUE = [
    *parts("fig15", "paper", 5, ("epochs",), "mnist"),  # Figures 5 and 14 have the same runs
    *parts("fig5", "paper", 5, ("time",), "mnist"),
    *parts("fig1", "paper", 6, ("epochs", "time", "no-bn"), "fashionmnist"),
    *parts("noise_only", "paper", 8, data="fashionmnist"),
    *parts("rivals", "paper", 8, data="fashionmnist"),
    *parts("fingerprint", "paper", 8),
    *parts("fig4", "gpu", 3),  # Figure 13 has the same
    *parts("fig4", "paper", 20),
    *parts("table1", "gpu", 8),
    *parts("fig16", "gpu", 3),
    *parts("fig2", "gpu", 4, ("epochs", "no-bn")),
    *parts("fig3", "gpu", 3, ("epochs", "no-bn")),
    *parts("fig10", "gpu", 3, ("epochs", "no-bn")),  # 11 and 12 too
    *parts("when", "gpu", 4),
    *parts("fig9", "paper", 12, data="fashionmnist"),
    *parts("fig7", "gpu", 4),
    *parts("fig6", "gpu", 12),
    *parts("fig8", "gpu", 6),
]


def called(script: str, *flags: str, seconds: float | None = None) -> int:
    """Runs a script, ends it after so many seconds, and returns its status."""
    command = [sys.executable, str(ROOT / "reproduce" / f"{script}.py"), *flags]
    print("$", " ".join(["python", f"reproduce/{script}.py", *flags]), flush=True)
    with subprocess.Popen(command) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # runs save themselves; what is done is kept
            try:
                return process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


def made(block: Part, out: Path, data_dir: Path, *, toy: bool, seconds: float = SECONDS) -> int:
    """Makes a block, and an archive of what is done in OUT; returns the status of the export."""
    where = ["--out", str(out / "results")]
    if toy:
        block = replace(block, scale="smoke", data="digits" if block.data == "cifar10" else "digits28")
    else:
        where += ["--data-dir", str(data_dir)]
    part = ["--part", f"{block.place[0]}/{block.place[1]}", "--wandb", "disabled"]
    status = called(block.figure, *block.flags(), *where, *part, seconds=seconds)
    print(f"status {status}", flush=True)
    return called("export", block.figure, *block.flags(), *where, "--to", str(out))


def lacking(block: Part) -> tuple[int, int]:
    """Returns how many of a block's runs the archive lacks, and how many there are."""
    from three_factors.reproduce.engine.launch.parts import part_of

    archive, items = _archive(), part_of(_runs(replace(block, place=(1, 1))), block.place)
    return sum(archive.folder_of(item.spec) is None for item in items), len(items)


@cache
def _archive() -> Archive:
    from three_factors.reproduce.engine.contract.archive import Archive

    return Archive()


@cache
def _runs(block: Part) -> list[Item]:
    """Returns all runs of a block's figure."""
    from tests.reproduce.figures import figure, source
    from three_factors.reproduce.engine.options import Options
    from three_factors.reproduce.engine.planning import FigurePlan

    definition, known = figure(block.figure), _archive().sources([block.data])
    options = Options(scale=block.scale, arm=block.arm, precision=block.precision)  # type: ignore[arg-type]
    there = known[0] if known else source(block.data)
    return FigurePlan(definition, options, there, definition.arm(block.arm)).runs()


def listed(precision: str | None = None) -> Iterator[str]:
    """Yields a line a block: its number, its command, what the archive has of it."""
    for number, block in enumerate((replace(one, precision=precision) for one in QUEUE), 1):
        left, count = lacking(block)
        state = "in the archive" if not left else f"{count - left} of {count} runs in the archive"
        part = f"--part {block.place[0]}/{block.place[1]}"
        yield f"{number:>3}  python reproduce/{block.figure}.py {' '.join(block.flags())} {part}    {state}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT")
    parser.add_argument("--block", type=int, help="make this block of the queue")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--precision", choices=CHOICES, help="of the runs; by default that of their scale, TF32")
    parser.add_argument("--minutes", type=float, default=SECONDS / 60, help="after which a block is ended")
    parser.add_argument("--toy", action="store_true", help="at smoke scale, to see that it works")
    parser.add_argument("--take", action="store_true", help="take the blocks in OUT into the archive")
    options = parser.parse_args()
    if options.out is None:
        print(*listed(options.precision), sep="\n")
        return
    if options.take:
        for figure in dict.fromkeys(block.figure for block in QUEUE):
            called("export", figure, "--take", str(options.out))
        return
    if options.block is None or not 1 <= options.block <= len(QUEUE):
        parser.error(f"--block: {options.block} is not one of 1 to {len(QUEUE)}")
    options.out.mkdir(parents=True, exist_ok=True)
    block = replace(QUEUE[options.block - 1], precision=options.precision)
    raise SystemExit(made(block, options.out, options.data_dir, toy=options.toy, seconds=60 * options.minutes))


if __name__ == "__main__":
    main()
