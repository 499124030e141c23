"""How the time of a training step goes with members, width and S of a stack, and with runs at a time.

    python tests/benchmarks/scaling.py [--plot FILE.png] [--json FILE]

Microseconds of a step a member, of a stack of MLPs: on a GPU as a CUDA graph. Members share a step's overhead, so a
member's time falls until the arithmetic is all of it. At last VGG-11 in several processes at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _code import ROOT
from _timing import command_line, new_file, parsed

sys.path.insert(0, str(ROOT / "reproduce" / "_name"))

MEMBERS, WIDTHS, SIZES, LANES = (1, 2, 4, 8, 16, 32, 64), (32, 64, 128, 256, 512), (8, 32, 128, 512), (1, 2, 4, 8)


def stacked(hidden: tuple[int, ...], members: int, size: int, job: Any, precision: str) -> float:
    """Returns microseconds of a step a member."""
    from three_factors.reproduce.engine.contract.networks import MLPNetwork
    from three_factors.reproduce.engine.worker.timing import seconds_per_batch

    network = MLPNetwork(hidden=hidden, in_features=784)
    per_step, per_example = seconds_per_batch(network, job, members, precision, (max(1, size // 2), size))
    return 1e6 * (per_step + size * per_example) / members


def side_by_side(count: int, job: Any, precision: str, width: float) -> float:
    """Returns samples a second of VGG-11 at S 128, of all processes together."""
    from three_factors.reproduce.engine.contract.networks import VGG11Network
    from three_factors.reproduce.engine.launch import sharing
    from three_factors.reproduce.engine.launch.server import Server

    with sharing.shared(lambda words: None) as environment:
        per_step, per_example = Server().time_steps(
            VGG11Network(width=width), job, 1, precision, count, environment=environment
        )
    return count * 128 / (per_step + 128 * per_example)


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [kind for kind in ("members", "width", "S", "runs at a time") if any(r["varied"] == kind for r in rows)]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(3.4 * len(kinds), 3), layout="constrained")
    for panel, kind in zip(axes, kinds):
        found = [(r["value"], r["figure"]) for r in rows if r["varied"] == kind]
        panel.plot(*zip(*found), "o-", color="#1f77b4")
        panel.set_xscale("log", base=2)
        panel.set_xticks([value for value, _ in found], [str(value) for value, _ in found])
        panel.minorticks_off()
        panel.set(xlabel=kind, ylabel=next(r["unit"] for r in rows if r["varied"] == kind))
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = command_line(__doc__, smallest="two numbers of each, narrow", json=True)
    parser.add_argument("--plot", type=new_file, metavar="FILE", help="draw the figures here too")
    options: argparse.Namespace = parsed(parser)
    from three_factors.datamodules.prepared import prepare
    from three_factors.reproduce.engine.contract.job import Job
    from three_factors.reproduce.engine.launch import devices

    here = devices.detect()
    job, precision = Job(prepare("digits28"), here.accelerator), "tf32" if here.accelerator == "cuda" else "float32"
    few = 2 if options.smallest else None
    base = (32, 32) if options.smallest else (256, 256)
    member = "us of a step a member"
    tried = [("members", m, base, m, 32) for m in MEMBERS[:few]]
    tried += [("width", w, (w, w), 4, 32) for w in WIDTHS[:few]]
    tried += [("S", s, base, 4, s) for s in SIZES[:few]]
    rows: list[dict[str, Any]] = []

    def say(varied: str, value: int, figure: float, unit: str) -> None:
        rows.append({"varied": varied, "value": value, "figure": figure, "unit": unit})
        print(f"{varied:<16}{value:>6}{figure:>14.1f}  {unit}", flush=True)

    for varied, value, hidden, members, size in tried:
        say(varied, value, stacked(hidden, members, size, job, precision), member)
    images = Job(prepare("digits"), here.accelerator)
    for count in LANES[: 1 if options.smallest else here.count if here.accelerator == "cpu" else None]:
        width = 1 / 16 if options.smallest else 1 / 8 if here.accelerator == "cpu" else 1.0
        say("runs at a time", count, side_by_side(count, images, precision, width), "samples a second, together")
    if options.plot:
        draw(rows, options.plot)
    if options.json:
        options.json.write_text(json.dumps({"device": here.describe(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
