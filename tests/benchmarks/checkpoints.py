"""What checkpoints cost: one of each network, its size, and the share of a run's time that they take.

    python tests/benchmarks/checkpoints.py

The bound is 3 % (`callbacks.exact_resume.SHARE` aims at 2). A checkpoint's time is a median; the share of a whole run
is what the run itself has counted, with checkpoints every 15 s as in the figures.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import _code  # noqa: F401
import pytorch_lightning as pl
from _timing import command_line, parsed
from rich.console import Console
from rich.table import Table

from three_factors.callbacks import ExactResume
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import MLPNetwork, Network, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, RunSpec
from three_factors.reproduce.engine.worker import train as training

BOUND = 0.03
NETWORKS: dict[str, tuple[Network, str, int]] = {  # with their data, and epochs of the run
    "MLP 784-256-256-10": (MLPNetwork(), "digits28", 60),
    "VGG-11, width 1/8": (VGG11Network(width=1 / 8), "digits", 6),
    "VGG-11": (VGG11Network(), "digits", 1),
    "ResNet56": (ResNet56Network(), "digits", 1),
}
SMALLEST: dict[str, tuple[Network, str, int]] = {
    "MLP 784-8-10": (MLPNetwork((8,)), "digits28", 1),
    "ResNet8": (ResNet56Network(depth=8, in_channels=1), "digits28", 1),
}


def specification(network: Network, data: str, examples: int, epochs: int) -> RunSpec:
    """Returns the run of a network on so many training examples, at eta 0.01 and S 32."""
    few = max(10, examples // 40)
    source = Data(data, "-", train=examples, validation=few, test=few)
    return RunSpec(network, source, NoiseSchedule(0.01, 32), epochs, 0, momentum=0.9)


def one(network: Network, data: str, epochs: int, examples: int) -> tuple[float, int, float, float]:
    """Returns seconds and bytes of a checkpoint; seconds of the run, and of all its checkpoints."""
    seconds, sizes = [], []
    save = ExactResume.save

    def timed(self: ExactResume, trainer: pl.Trainer) -> None:
        start = time.perf_counter()
        save(self, trainer)
        seconds.append(time.perf_counter() - start)
        sizes.append(self.path.stat().st_size)

    with tempfile.TemporaryDirectory() as folder:
        run, job = specification(network, data, examples, epochs), Job(prepare(data))
        start = time.perf_counter()
        result = training.train(run, job, RunFolder(Path(folder)))
        whole = time.perf_counter() - start
    assert result is not None
    spent = result["provenance"]["checkpoint_seconds"]
    ExactResume.save = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run, job = specification(network, data, 200, 1), Job(prepare(data), checkpoint_every=0)
            training.train(run, job, RunFolder(Path(folder)))
    finally:
        ExactResume.save = save  # type: ignore[method-assign]
    return median(seconds), sizes[-1], whole, spent


def main() -> None:
    options = parsed(command_line(__doc__, smallest="two small networks, 640 examples"))
    networks, examples = (SMALLEST, 640) if options.smallest else (NETWORKS, 4_000)
    table = Table("network", "a checkpoint", "size", "run", "in checkpoints", "share", "bound")
    for name, (network, data, epochs) in networks.items():
        seconds, size, whole, spent = one(network, data, epochs, examples)
        share = spent / whole
        verdict = "ok" if share <= BOUND else f"above {100 * BOUND:.0f} %"
        times = f"{1e3 * seconds:.0f} ms", f"{size / 1e6:.1f} MB", f"{whole:.0f} s", f"{spent:.2f} s"
        table.add_row(name, *times, f"{100 * share:.2f} %", verdict)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
