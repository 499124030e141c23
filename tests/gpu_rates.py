"""How fast a large GPU trains: stacks of MLPs, and convolutions alone, several at a time and in other loops.

A rate is of whole epochs, the making of batches, the evaluations and the record among them: the time of a training of
1 + k epochs less that of one epoch, over k. Beside it stand a loop by hand, in the style of airbench (data on the GPU,
the whole step a CUDA graph), the bare replay of its graph, and a Lightning Trainer with torch's DataLoader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from tests.gpu_call import Check, clocked
from tests.gpu_loops import by_hand, by_lightning
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement
from three_factors.reproduce.engine.contract.networks import MLPNetwork, Network, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Item, Keep, RunSpec
from three_factors.reproduce.engine.launch import sharing
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.worker.measure_pack import measure_pack

SWEEP = (1, 2, 4, 8)  # runs at a time on the GPU


def mlp(hidden: tuple[int, ...], batch_norm: bool, size: int, train: int, precision: str, **options: Any) -> RunSpec:
    return RunSpec(
        MLPNetwork(hidden=hidden, in_features=784, batch_norm=batch_norm),
        Data("digits28", "-", train=train, validation=1_000, test=1_000, subset=1_000),
        NoiseSchedule(0.01, size),
        epochs=1,
        seed=1000,
        precision=precision,  # type: ignore[arg-type]
        **options,
    )


def stacks(check: Check) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields rows of model-steps of Figures 5, 1 and 9, and of one measurement of each."""
    shapes = {
        "Figure 5": ((256, 256), False, 90, (50, 100, 200, 500, 1000), {"momentum": 0.9}),
        "Figure 1": ((512,) * 4, True, 25, (25, 100, 500), {}),
        "Figure 9": ((50,) * 20, False, 50, (50, 200), {}),
    }
    train = 400 if check.toy else 9_000
    for figure, (hidden, norm, members, sizes, options) in shapes.items():
        members = 2 if check.toy else members
        for size in sizes[:1] if check.toy else sizes:
            base = mlp(hidden, norm, size, train // size * size, check.tf32, **options)

            def row(base: RunSpec = base, members: int = members, size: int = size) -> dict[str, Any]:
                specs = [replace(base, seed=1000 + i) for i in range(members)]
                job = check.job("digits28")

                def run(epochs: int) -> None:
                    check.pack([replace(spec, epochs=epochs) for spec in specs], job, "rate")

                steps = base.data.train // size
                seconds = check.seconds_an_epoch(run) / steps
                return {
                    "us_a_step": round(1e6 * seconds, 1),
                    "us_a_model_step": round(1e6 * seconds / members, 2),
                    "members": members,
                }

            yield f"{figure}: stack, S {size}", row

        def measured(hidden: tuple[int, ...] = hidden, norm: bool = norm, members: int = members) -> dict[str, Any]:
            base = mlp(hidden, norm, 100, 400 if check.toy else 4_000, check.tf32, keep=Keep())
            specs = [replace(base, seed=1000 + i) for i in range(members)]
            job = check.job("digits28")
            folders = check.pack(specs, job, "measured")
            curvature = Curvature(
                100 if check.toy else 2_000, 250, ("top_eigenvalue", "trace", "frobenius"), max_products=100
            )
            seconds = clocked(lambda: measure_pack(specs, Measurement(curvature, ("end",)), job, folders))
            return {"seconds_a_member": round(seconds / members, 4), "members": members}

        yield f"{figure}: Hessian of a stack", measured


def convolutions(check: Check) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yields rows of samples a second of VGG-11 and ResNet56: one run, several, by hand, and by a plain Trainer."""
    networks: dict[str, Network] = {
        "VGG-11": VGG11Network(width=1 / 16 if check.toy else 1.0),
        "ResNet56": ResNet56Network(depth=8, width=0.25) if check.toy else ResNet56Network(),
    }
    train = 128 if check.toy else 8_960
    for name, network in networks.items():
        for precision in (check.tf32, "bf16") if check.cuda else ("float32",):
            base = RunSpec(
                network,
                Data("digits", "-", train=train, validation=1_000, test=1_000, augment=True, subset=1_000),
                NoiseSchedule(0.01, 32 if check.toy else 128),
                epochs=1,
                seed=1000,
                precision=precision,  # type: ignore[arg-type]
            )

            def alone(base: RunSpec = base) -> dict[str, Any]:
                job = check.job("digits")
                seconds = check.seconds_an_epoch(lambda epochs: check.single(replace(base, epochs=epochs), job, "one"))
                return {"samples_a_second": round(base.data.train / seconds)}

            yield f"{name}, {precision}: one run", alone
            for count in SWEEP[1:2] if check.toy else SWEEP[1:]:
                if name == "ResNet56" and count < 8 and not check.toy:
                    continue

                def several(base: RunSpec = base, count: int = count) -> dict[str, Any]:
                    seconds = check.seconds_an_epoch(lambda epochs: together(check, base, count, epochs))
                    return {"samples_a_second": round(count * base.data.train / seconds), "mps": sharing.possible()}

                yield f"{name}, {precision}: {count} runs at a time", several
            if name == "VGG-11":
                yield f"{name}, {precision}: by hand", lambda base=base: by_hand(check, base)
    base = replace(base, network=networks["VGG-11"], precision="float32")
    yield "VGG-11: a Trainer with torch's DataLoader", lambda: by_lightning(check, base)


def together(check: Check, base: RunSpec, count: int, epochs: int) -> None:
    """Makes runs at the same time, each in a process of its own."""
    out, job = check.fresh("together"), check.job("digits")
    specs = [replace(base, seed=1000 + i, epochs=epochs) for i in range(count)]
    tasks = [Task(Item("run", spec.seed, spec), RunFolder(out / spec.key), job) for spec in specs]
    with sharing.shared(lambda words: None) as environment:
        failed = Runner(SERVER, count, gpus=int(check.cuda), environment=environment).run(tasks, Watcher())
    if failed:
        raise RuntimeError(failed[0].folder.log.read_text()[-2000:])


SERVER = Server()


def rates(check: Check) -> None:
    there = check.said()
    for name, row in (*stacks(check), *convolutions(check)):
        if name in there:
            continue
        try:
            check.say(name, **row())
        except Exception as error:  # one row is not worth the others
            check.say(name, failed=f"{type(error).__name__}: {error}"[:500])
        if check.cuda:
            torch.cuda.empty_cache()
