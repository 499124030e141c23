"""Cost of the loader and of a Trainer step, as ratios measured interleaved in one run.

    python tests/benchmarks/training.py [--json FILE] [--rounds 7]

Rows: our loader a batch of 128 (3x32x32, float32, no augmentation) against a plain gather and a standard DataLoader;
a Trainer step with NoiseScheduler, Recorder, ProgressFile and a CSVLogger on, against a hand-written loop over the same
network, batches and optimiser, for VGG-11 at 1/8 width and for the 784-256-256-10 MLP, also against a bare Trainer.
Each round times every candidate once, in turn; the ratio is the median over rounds of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import NoiseScheduler, ProgressFile
from datamodules import NoiseSchedule, PlannedLoader, plan_epoch
from lightning_modules import MLP, VGG11
from reproduce.engine.recorder import Recorder

BATCH = 128


def interleaved(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            seconds = run()
            if number:
                times[name].append(seconds)
    return times


def clocked(run: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / count


def ratio(times: dict[str, list[float]], ours: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(times[ours], times[other]))


def loaders(rounds: int) -> tuple[dict[str, list[float]], list[tuple[str, str, str, float]]]:
    inputs, targets = torch.randn(12_800, 3, 32, 32), torch.randint(0, 10, (12_800,))
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
    times = interleaved({n: lambda run=run: clocked(run, len(plan)) for n, run in candidates.items()}, rounds)
    return times, [
        ("loader", "our loader", "plain gather", 1.15),
        ("loader", "our loader", "DataLoader", 0.25),
    ]


class LastEpoch(pl.Callback):
    """Seconds a step of the last epoch, with what all callbacks do at its end."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = (time.perf_counter() - self.start) / int(trainer.num_training_batches)


class InMemory(pl.LightningDataModule):
    """Training batches by the plan, and nothing to validate."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__()
        self.inputs, self.targets = inputs, targets

    def train_dataloader(self) -> PlannedLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        return PlannedLoader(self.inputs, self.targets, plan_epoch(len(self.targets), BATCH, epoch))


def steps(
    make: Callable[[], pl.LightningModule], shape: tuple[int, ...], count: int, rounds: int
) -> dict[str, list[float]]:
    inputs, targets = torch.randn(count * BATCH, *shape), torch.randint(0, 10, (count * BATCH,))

    def with_trainer(*callbacks: pl.Callback, logger: Any = False) -> float:
        clock = LastEpoch()
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=2, logger=logger, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[*callbacks, clock], limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(make(), datamodule=InMemory(inputs, targets))
        return clock.seconds

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            noise = NoiseScheduler(NoiseSchedule(0.01, BATCH))
            recorder = Recorder(Path(folder) / "metrics.jsonl", noise)
            progress = ProgressFile(Path(folder) / "progress.json")
            return with_trainer(noise, recorder, progress, logger=pl.loggers.CSVLogger(folder))

    def by_hand() -> float:
        module = make()
        network, optimizer = module.network, torch.optim.SGD(module.parameters(), lr=0.01)
        for epoch in range(2):
            start = time.perf_counter()
            order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(targets)))
            for i in range(0, len(order), BATCH):
                chosen = order[i : i + BATCH]
                loss = F.cross_entropy(network(inputs[chosen]), targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return (time.perf_counter() - start) / count

    return interleaved({"Trainer, all on": ours, "by hand": by_hand, "bare Trainer": with_trainer}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    found, rows = {}, []
    times, pairs = loaders(options.rounds)
    found["loader"] = times
    wide = lambda: VGG11(width=1 / 8, lr=0.01).to(memory_format=torch.channels_last)  # noqa: E731
    found["VGG-11 1/8"] = steps(wide, (3, 32, 32), 12, options.rounds)
    found["MLP"] = steps(lambda: MLP(lr=0.01), (784,), 200, options.rounds)
    pairs += [
        ("VGG-11 1/8", "Trainer, all on", "by hand", 1.10),
        ("MLP", "Trainer, all on", "by hand", 1.5),
        ("MLP", "Trainer, all on", "bare Trainer", 1.2),
    ]
    for group, ours, other, bound in pairs:
        row = {
            "what": group,
            "a": ours,
            "b": other,
            "ratio": round(ratio(found[group], ours, other), 3),
            "bound": bound,
        }
        row |= {"a_us": round(1e6 * statistics.median(found[group][ours]), 1)}
        row |= {"b_us": round(1e6 * statistics.median(found[group][other]), 1)}
        rows.append(row)
    print(f"{'what':<12}{'a':<18}{'b':<15}{'a (us)':>10}{'b (us)':>10}{'a/b':>8}{'bound':>8}")
    for r in rows:
        print(f"{r['what']:<12}{r['a']:<18}{r['b']:<15}{r['a_us']:>10}{r['b_us']:>10}{r['ratio']:>8}{r['bound']:>8}")
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "threads": options.threads, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
