"""Which precision convolutions are trained in at gpu and paper scale: bf16 only if it ends as TF32 does.

    python tests/gpu_precision.py OUT [--pairs 8] [--data-dir data] [--toy]

VGG-11 at (eta, S) = (.001, 128) for 100 epochs, pilot seeds from 1000, a pair of runs a seed. The default is bf16 if
the paired 90 % intervals of bf16 - TF32 lie within .3 points for the accuracy at the end, and within 5 % for the loss
there, of which the logarithm is taken; else TF32. Runs are kept in OUT: a call goes on where the last was broken off.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]

import numpy as np

from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import VGG11Network
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Item, RunSpec
from three_factors.reproduce.engine.launch import devices, sharing
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.source import described

POINTS, LOGS = 0.3, 0.05  # of accuracy, and of the log of the loss
LEVEL = 0.90
FIRST_SEED = 1000


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Returns Student's interval of the mean of paired differences."""
    from scipy import special

    n = len(differences)
    half = special.stdtrit(n - 1, (1 + LEVEL) / 2) * differences.std(ddof=1) / math.sqrt(n)
    return float(differences.mean() - half), float(differences.mean() + half)


def verdict(accuracy: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
    """Returns the intervals of bf16 - TF32, and the precision that follows.

    Args:
        accuracy: at the end, of bf16 and of TF32, (2, pairs).
        loss: on the training subset, likewise.
    """
    points = interval(100 * (accuracy[0] - accuracy[1]))
    logs = interval(np.log(loss[0]) - np.log(loss[1]))
    alike = max(map(abs, points)) <= POINTS and max(map(abs, logs)) <= LOGS
    return {"points": points, "log_loss": logs, "default": "bf16" if alike else "tf32"}


class Told(Watcher):
    """Prints each run as it ends."""

    def finished(self, task: Task, slot: int, seconds: float, result: dict[str, Any]) -> None:
        told = {name: result["final"][name] for name in ("test/accuracy", "train_subset/loss")}
        print(json.dumps({"run": task.item.name, "seconds": round(seconds, 1), "status": result["status"]} | told))
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--toy", action="store_true", help="small and short, on digits, float32 in place of TF32")
    options = parser.parse_args()
    here = devices.detect()
    source = prepare("digits" if options.toy else "cifar10", options.data_dir)
    sizes = {"train": 96, "validation": 20, "test": 50, "subset": 50}
    if not options.toy:
        sizes = {"train": 45_000, "validation": 5_000, "test": 10_000, "subset": 5_000}
    told = described(source)
    base = RunSpec(
        VGG11Network(width=1 / 32 if options.toy else 1.0),
        Data(told["name"], told["fingerprint"], augment=True, **sizes),
        NoiseSchedule(0.001, 32 if options.toy else 128),
        epochs=2 if options.toy else 100,
        seed=FIRST_SEED,
    )
    tf32 = "float32" if options.toy else "tf32"
    items = [
        Item(precision, seed, replace(base, precision=precision, seed=seed))  # type: ignore[arg-type]
        for seed in range(FIRST_SEED, FIRST_SEED + options.pairs)
        for precision in ("bf16", tf32)
    ]
    job = Job(source, here.accelerator)
    tasks = [Task(item, RunFolder(options.out / "runs" / item.spec.key), job) for item in items]
    missing = [task for task in tasks if task.complete() is None]
    gpus = here.count if here.accelerator == "cuda" else 0
    with sharing.shared(print) if gpus else nullcontext(dict[str, str]()) as environment:
        failed = Runner(Server(), gpus * here.lanes or here.count, gpus=gpus, environment=environment).run(
            missing, Told()
        )
    if failed:
        raise SystemExit(failed[0].folder.log.read_text()[-2000:])
    ends = [task.complete()["final"] for task in tasks]  # type: ignore[index]
    accuracy, loss = (
        np.array([end[name] for end in ends]).reshape(-1, 2).T for name in ("test/accuracy", "train_subset/loss")
    )
    print(json.dumps({"pairs": options.pairs} | verdict(accuracy, loss)))


if __name__ == "__main__":
    main()
