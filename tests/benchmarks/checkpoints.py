"""What checkpoints cost: one of each network, its size, and the share of a run's time that they take.

    python tests/benchmarks/checkpoints.py

The bound is 3 % (`callbacks.exact_resume.SHARE` aims at 2). A checkpoint's time is a median; the share of a whole run
is what the run itself has counted, with checkpoints every 15 s as in the figures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from callbacks import ExactResume
from datamodules.prepared import prepare
from datamodules.schedules import NoiseSchedule
from reproduce.engine import train as training
from reproduce.engine.results import RunFolder
from reproduce.engine.spec import Data, MLPNetwork, ResNet56Network, RunSpec, VGG11Network

BOUND = 0.03
NETWORKS = {
    "MLP 784-256-256-10": (MLPNetwork(), "digits28", 60),
    "VGG-11, width 1/8": (VGG11Network(width=1 / 8), "digits", 6),
    "VGG-11": (VGG11Network(), "digits", 1),
    "ResNet56": (ResNet56Network(), "digits", 1),
}


def one(network, data, epochs):
    """Seconds and bytes of a checkpoint; seconds of the run, and of all its checkpoints."""
    spec = RunSpec(network, Data(data, "-", train=4_000, validation=100, test=100), NoiseSchedule(0.01, 32), epochs, 0,
                   momentum=0.9)  # fmt: skip
    seconds, sizes = [], []
    save = ExactResume.save

    def timed(self, trainer):
        start = time.perf_counter()
        save(self, trainer)
        seconds.append(time.perf_counter() - start)
        sizes.append(self.path.stat().st_size)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = training.train(spec, training.Job(prepare(data)), RunFolder(Path(folder)))
        whole = time.perf_counter() - start
    spent = result["provenance"]["checkpoint_seconds"]
    ExactResume.save = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            short = RunSpec(network, Data(data, "-", train=200, validation=50, test=50), NoiseSchedule(0.01, 32), 1, 0,
                            momentum=0.9)  # fmt: skip
            training.train(short, training.Job(prepare(data), checkpoint_every=0), RunFolder(Path(folder)))
    finally:
        ExactResume.save = save
    return median(seconds), sizes[-1], whole, spent


def main():
    table = Table("network", "a checkpoint", "size", "run", "in checkpoints", "share", "bound")
    for name, (network, data, epochs) in NETWORKS.items():
        seconds, size, whole, spent = one(network, data, epochs)
        share = spent / whole
        table.add_row(
            name, f"{1e3 * seconds:.0f} ms", f"{size / 1e6:.1f} MB", f"{whole:.0f} s", f"{spent:.2f} s",
            f"{100 * share:.2f} %", "ok" if share <= BOUND else f"above {100 * BOUND:.0f} %",
        )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
