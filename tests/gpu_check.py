"""What a large GPU is asked, in nine minutes: is the arithmetic right, do kills leave nothing, how fast is it.

    python tests/gpu_check.py OUT [--toy] [--only equality|kills|rates]

Each part is a process with a time limit, and each of its lines is printed and kept in OUT/gpu_check.jsonl as it comes:
a part that is there is not done again. `--toy` does all of it at small sizes, on a CPU too; its rates say nothing.

What a rate is, and what stands beside it, says `gpu_rates`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]

import torch
from torch import Tensor

from tests.gpu_call import Check
from tests.gpu_rates import rates
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Keep, RunSpec
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.worker.graphed import GraphedSteps
from three_factors.reproduce.engine.worker.process import _quiet
from three_factors.reproduce.engine.worker.stacked_steps import StackedSteps

LIMITS = {"equality": 90, "kills": 60, "rates": 380}  # seconds


def spread(ours: Any, theirs: Any) -> float:
    """Returns the largest difference between two states, in units of the largest number.

    Not tensor by tensor: a bias before batch norm is rounding alone.
    """
    numbers = {name: value.double() for name, value in theirs.items() if value.is_floating_point()}
    size = max(float(value.abs().max()) for value in numbers.values())
    return max(float((ours[name].double() - value).abs().max()) for name, value in numbers.items()) / size


def weights(folder: RunFolder) -> dict[str, Tensor]:
    return dict(torch.load(folder.weights("end"), weights_only=True, map_location="cpu"))


# -- is it right

STACKED = RunSpec(
    MLPNetwork(hidden=(32, 32), in_features=784, batch_norm=True),
    Data("digits28", "-", train=960, validation=100, test=100, subset=100),
    NoiseSchedule(0.1, 48),
    epochs=3,
    seed=0,
    momentum=0.9,
    precision="float64",
)
CONVOLUTIONS = RunSpec(
    VGG11Network(width=1 / 8),
    Data("digits", "-", train=960, validation=100, test=100, augment=True, subset=100),
    NoiseSchedule(0.02, 48),
    epochs=3,
    seed=0,
    momentum=0.9,
    precision="float32",
)


def equality(check: Check) -> None:
    """Compares stacks with single runs, and graphs with the host's steps, on the device that the rates are of."""
    specs = [replace(STACKED, seed=seed, keep=Keep(), schedule=NoiseSchedule(0.1 / (1 + seed), 48)) for seed in (0, 1)]
    job = check.job("digits28")
    stacked = check.pack(specs, job, "stacked")
    apart = [spread(weights(of), weights(check.single(spec, job, "single"))) for of, spec in zip(stacked, specs)]
    check.say("stack against single runs, float64", apart=max(apart), bound=1e-9, passed=max(apart) < 1e-9)
    for precision in ("float32", check.tf32):
        twins = [replace(spec, precision=precision) for spec in specs]
        graphs = check.pack(twins, job, "graphs")
        with by_the_host(StackedSteps, lambda steps: steps._repeated):
            host = check.pack(twins, job, "host")
        apart = [spread(weights(a), weights(b)) for a, b in zip(graphs, host)]
        check.say(f"stack: graphs against the host, {precision}", apart=max(apart), bound=0, passed=max(apart) == 0)
    job = check.job("digits")
    for name, network in (("VGG-11", VGG11Network(width=1 / 8)), ("ResNet56", ResNet56Network(depth=8, width=0.25))):
        for precision in ("float32", *((check.tf32, "bf16") if check.cuda else ())):
            spec = replace(CONVOLUTIONS, network=network, precision=precision, keep=Keep())
            graphs = check.single(spec, job, "graphs")
            with by_the_host(GraphedSteps, None):
                host = check.single(spec, job, "host")
            apart = spread(weights(graphs), weights(host))
            check.say(f"{name}: graphs against the host, {precision}", apart=apart, bound=0, passed=apart == 0)


@contextmanager
def by_the_host(kind: Any, part: Callable[[Any], Any] | None) -> Iterator[None]:
    """Lets the host make the steps of a class that has graphs, or whose `part` has them."""
    made = kind.__init__

    def without(this: Any, *parts: Any, **options: Any) -> None:
        made(this, *parts, **options)
        (this if part is None else part(this)).graphs = False

    kind.__init__ = without
    try:
        yield
    finally:
        kind.__init__ = made


# -- does a kill leave anything


def kills(check: Check) -> None:
    from tests.reproduce.killing import job
    from tests.reproduce.soak import Soak
    from tests.reproduce.specs import MEASURED, SOAK

    gpu = 0 if check.cuda else None
    soak = Soak(Server(), SOAK, (MEASURED,), job("digits", accelerator=check.accelerator), check.fresh("kills"), gpu)
    ended = soak.kill(3)
    check.say("a run killed three times ends as one that is not", ended=ended, passed=ended >= 1)


PARTS = {"equality": equality, "kills": kills, "rates": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--toy", action="store_true", help="small sizes, which show that all of it runs")
    parser.add_argument("--only", choices=PARTS, help="one part, in this process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        _quiet()
        check = Check(options.out, toy=options.toy)
        PARTS[options.only](check)
        check.say(f"done: {options.only}")
        return
    for part, limit in LIMITS.items():
        if f"done: {part}" in Check(options.out, toy=options.toy).said():
            continue
        command = [sys.executable, __file__, str(options.out), "--only", part, *(["--toy"] if options.toy else [])]
        try:
            ended = subprocess.run(command, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            ended = f"over {limit} s"
        if ended != 0:
            print(json.dumps({"row": f"broken off: {part}", "status": ended}), flush=True)


if __name__ == "__main__":
    main()
