"""Cost of the loader and of a Trainer step, as ratios measured interleaved in one run.

    python tests/benchmarks/training.py [--json FILE] [--rounds 7]

Rows: our loader a batch of 128 (3x32x32, float32, no augmentation) against a plain gather and a standard DataLoader;
a Trainer step with NoiseScheduler, Recorder, ProgressFile and a CSVLogger on, against a hand-written loop over the same
network, batches and optimiser, for VGG-11 at 1/8 width and for the 784-256-256-10 MLP, also against a bare Trainer.
Each round times every candidate once, in turn; the ratio is the median over rounds of the ratios within a round.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import _code  # noqa: F401
import numpy as np
import pytorch_lightning as pl
import torch
from _fits import BATCH, quiet, random_data, trainer_step
from _timing import clocked, command_line, interleaved, parsed, positive, ratio
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from three_factors.callbacks import NoiseScheduler, ProgressFile
from three_factors.datamodules import NoiseSchedule, PlannedLoader, plan_epoch
from three_factors.lightning_modules import MLP, VGG11
from three_factors.reproduce.engine.worker.members import Member
from three_factors.reproduce.engine.worker.recorder import Recorder

PAIRS = (
    ("loader", "our loader", "plain gather", 1.15),
    ("loader", "our loader", "DataLoader", 0.25),
    ("VGG-11 1/8", "Trainer, all on", "by hand", 1.10),
    ("MLP", "Trainer, all on", "by hand", 1.5),
    ("MLP", "Trainer, all on", "bare Trainer", 1.2),
)


def loaders(batches: int, rounds: int) -> dict[str, list[float]]:
    inputs, targets = torch.randn(batches * BATCH, 3, 32, 32), torch.randint(0, 10, (batches * BATCH,))
    plan = plan_epoch(len(inputs), BATCH, 0)
    order = torch.from_numpy(plan.indices)

    def gather() -> None:
        for i in range(0, len(order), BATCH):
            inputs[order[i : i + BATCH]]

    def drain(loader: object) -> Callable[[], None]:
        return lambda: [None for _ in loader] and None  # type: ignore[attr-defined]

    standard = DataLoader(TensorDataset(inputs, targets), batch_size=BATCH, shuffle=True)
    candidates = {
        "our loader": drain(PlannedLoader(inputs, targets, plan)),
        "plain gather": gather,
        "DataLoader": drain(standard),
    }
    return interleaved({n: lambda run=run: clocked(run, len(plan)) for n, run in candidates.items()}, rounds)


def steps(
    make: Callable[[], pl.LightningModule], shape: tuple[int, ...], count: int, rounds: int
) -> dict[str, list[float]]:
    data = random_data(shape, count)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            noise = NoiseScheduler(NoiseSchedule(0.01, BATCH))
            recorder = Recorder(Member(Path(folder) / "metrics.jsonl"), noise)
            progress = ProgressFile(Path(folder) / "progress.json")
            return trainer_step(make, data, noise, recorder, progress, logger=pl.loggers.CSVLogger(folder))

    def epoch_by_hand(module: pl.LightningModule, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(data.targets)))
        for i in range(0, len(order), BATCH):
            chosen = order[i : i + BATCH]
            loss = F.cross_entropy(module.network(data.inputs[chosen]), data.targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def by_hand() -> float:
        module = make()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        epoch_by_hand(module, optimizer, 0)
        return clocked(lambda: epoch_by_hand(module, optimizer, 1), count)

    return interleaved(
        {"Trainer, all on": ours, "by hand": by_hand, "bare Trainer": lambda: trainer_step(make, data)}, rounds
    )


def main() -> None:
    parser = command_line(__doc__, smallest="two batches of data", rounds=7, json=True)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="default: torch's own")
    options = parsed(parser)
    torch.set_num_threads(options.threads)
    quiet()
    wide = lambda: VGG11(width=1 / 8, lr=0.01).to(memory_format=torch.channels_last)  # noqa: E731
    found = {
        "loader": loaders(2 if options.smallest else 100, options.rounds),
        "VGG-11 1/8": steps(wide, (3, 32, 32), 2 if options.smallest else 12, options.rounds),
        "MLP": steps(lambda: MLP(lr=0.01), (784,), 2 if options.smallest else 200, options.rounds),
    }
    rows = [
        {
            "what": group,
            "a": ours,
            "b": other,
            "ratio": round(ratio(found[group], ours, other), 3),
            "bound": bound,
            "a_us": round(1e6 * statistics.median(found[group][ours]), 1),
            "b_us": round(1e6 * statistics.median(found[group][other]), 1),
        }
        for group, ours, other, bound in PAIRS
    ]
    print(f"{'what':<12}{'a':<18}{'b':<15}{'a (us)':>10}{'b (us)':>10}{'a/b':>8}{'bound':>8}")
    for r in rows:
        print(f"{r['what']:<12}{r['a']:<18}{r['b']:<15}{r['a_us']:>10}{r['b_us']:>10}{r['ratio']:>8}{r['bound']:>8}")
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "threads": options.threads, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
