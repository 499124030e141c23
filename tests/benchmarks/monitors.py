"""What the monitors' trial before the first step costs, and what a step costs with every callback on.

    python tests/benchmarks/monitors.py [--json FILE] [--rounds 15] [--full-width] [--against DIR]
                                        [--clock cpu --threads 1]

Trials: the seconds of each monitor's hook at the first batch of a fit, as a share of 100 steps of a bare Trainer at
S 128, for VGG-11 at 1/8 width (3x32x32), for the 784-256-256-10 MLP, and with `--full-width` for the paper's VGG-11
(some 3 minutes more): a trial makes a number of calls that depends on the layers alone, a step costs by its size.
`first` is that of the first fit, which pays for what torch loads then and is not counted. Steps: of the MLP, in an
epoch in which no monitor measures, with NoiseScheduler, HessianMonitor, GradientNoiseMonitor, InterpolationMonitor,
ProgressFile, KeepWeights and a CSVLogger on, against a bare Trainer; with `--against DIR` also against the same step
with the packages of the checkout DIR, each in a process of its own. Each round times every candidate once, in turn;
shares and ratios are medians over rounds of those within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import _code
import pytorch_lightning as pl
import torch
from _elsewhere import Elsewhere, checkout, serve
from _fits import BATCH, InMemory, fit, quiet, random_data, trainer_step
from _timing import CLOCKS, clocked, command_line, interleaved, middle_half, parsed, positive, ratio, ratios, use_clock

from three_factors.callbacks import (
    GradientNoiseMonitor,
    HessianMonitor,
    InterpolationMonitor,
    KeepWeights,
    NoiseScheduler,
    ProgressFile,
)
from three_factors.datamodules import NoiseSchedule
from three_factors.lightning_modules import MLP, VGG11

MONITORS = (HessianMonitor, GradientNoiseMonitor, InterpolationMonitor)
NEVER = 1_000_000  # epochs between two measurements
STEPS = 100  # that a trial is compared with
TRIAL, SAME = 0.01, 1.05  # bounds: share of the steps; over the step of another checkout
PAUSE = 0.05  # seconds, in which the threads of the one before spin on
Make = Callable[[], pl.LightningModule]


def vgg(width: float) -> pl.LightningModule:
    return VGG11(width=width, lr=0.01).to(memory_format=torch.channels_last)


def mlp() -> pl.LightningModule:
    return MLP(lr=0.01)


def trial(make: Make, data: InMemory, kind: Callable[..., pl.Callback]) -> float:
    """Returns the seconds of a monitor's hook before the first step of a fit."""
    monitor = kind(every_n_epochs=NEVER)
    hook, seconds = monitor.on_train_batch_start, []

    def timed(*arguments: Any) -> None:
        seconds.append(clocked(lambda: hook(*arguments)))

    monitor.on_train_batch_start = timed  # type: ignore[method-assign]
    fit(make, data, monitor, steps=1)
    return seconds[0]


def trials(network: str, make: Make, data: InMemory, rounds: int) -> list[dict[str, Any]]:
    """Returns a row a monitor."""
    candidates: dict[str, Callable[[], float]] = {kind.__name__: partial(trial, make, data, kind) for kind in MONITORS}
    first = {name: run() for name, run in candidates.items()}
    times = interleaved(candidates | {"step": partial(trainer_step, make, data)}, rounds, pause=PAUSE)
    return [
        {
            "network": network,
            "monitor": name,
            "ms": 1e3 * statistics.median(times[name]),
            "first ms": 1e3 * first[name],
            "steps ms": 1e3 * STEPS * statistics.median(times["step"]),
            "share": ratio(times, name, "step") / STEPS,
            "bound": TRIAL,
        }
        for name in candidates
    ]


def everything_on(make: Make, data: InMemory) -> float:
    """Returns the seconds of a step with all callbacks on, of which no monitor is due."""
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [
            NoiseScheduler(NoiseSchedule(0.01, BATCH)),
            *(kind(every_n_epochs=NEVER) for kind in MONITORS),
            ProgressFile(Path(folder) / "progress.json"),
            KeepWeights(),
        ]
        return trainer_step(make, data, *callbacks, logger=pl.loggers.CSVLogger(folder))


def steps(data: InMemory, rounds: int, against: Path | None, arguments: list[str]) -> list[dict[str, Any]]:
    """Returns a row for the bare Trainer, and one for the other checkout if there is one."""
    here = interleaved(
        {"all on": partial(everything_on, mlp, data), "bare Trainer": partial(trainer_step, mlp, data)}, rounds
    )
    rows = [compared(here, "all on", "bare Trainer", "-")]
    if against is not None:
        with ExitStack() as both:
            served = {
                name: both.enter_context(Elsewhere(folder, __file__, "--serve", *arguments))
                for name, folder in (("all on", _code.ROOT), ("all on, there", against))
            }
            rows.append(compared(interleaved(served, rounds, pause=PAUSE), "all on", "all on, there", SAME))
    return rows


def compared(times: dict[str, list[float]], ours: str, other: str, bound: float | str) -> dict[str, Any]:
    """Returns a row: microseconds of both, the ratio, and the quartiles of it."""
    micro = {f"{side} us": 1e6 * statistics.median(times[name]) for side, name in (("a", ours), ("b", other))}
    low, high = middle_half(ratios(times, ours, other))
    found = {"ratio": ratio(times, ours, other), "from": low, "to": high, "bound": bound}
    return {"a": ours, "b": other} | micro | found


def main() -> None:
    parser = command_line(__doc__, smallest="epochs of two steps", rounds=15, json=True)
    parser.add_argument("--full-width", action="store_true", help="also the trials of VGG-11 at full width")
    parser.add_argument("--against", type=checkout, metavar="DIR", help="another checkout, to be compared with")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="default: torch's own")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="default: wall; cpu where others compute too, with --threads 1"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parsed(parser)
    torch.set_num_threads(options.threads)
    use_clock(options.clock)
    quiet()
    flat = random_data((784,), 2 if options.smallest else 200)
    if options.serve:
        serve(partial(everything_on, mlp, flat))
        return
    images = random_data((3, 32, 32), 2 if options.smallest else 12)
    before = trials("VGG-11 1/8", partial(vgg, 1 / 8), images, options.rounds)
    before += trials("MLP", mlp, flat, options.rounds)
    if options.full_width:
        before += trials("VGG-11", partial(vgg, 1.0), random_data((3, 32, 32), 2), options.rounds)
    print(f"{'network':<12}{'trial of':<22}{'ms':>9}{'first ms':>10}{f'{STEPS} steps ms':>14}{'share':>9}{'bound':>8}")
    for r in before:
        times = f"{r['ms']:>9.3f}{r['first ms']:>10.1f}{r['steps ms']:>14.1f}"
        print(f"{r['network']:<12}{r['monitor']:<22}{times}{r['share']:>9.2%}{r['bound']:>8.0%}")
    arguments = ["--threads", str(options.threads), "--clock", options.clock]
    arguments += ["--smallest"] if options.smallest else []
    during = steps(flat, options.rounds, options.against, arguments)
    print(f"\n{'step of':<12}{'a':<11}{'b':<20}{'a (us)':>10}{'b (us)':>13}{'a/b':>9}{'middle half':>15}{'bound':>8}")
    for r in during:
        times = f"{r['a us']:>10.1f}{r['b us']:>13.1f}{r['ratio']:>9.3f}{r['from']:>9.3f}-{r['to']:.3f}"
        print(f"{'MLP':<12}{r['a']:<11}{r['b']:<20}{times}{r['bound']:>8}")
    if options.json:
        found = {"torch": torch.__version__, "threads": options.threads, "trials": before, "steps": during}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
