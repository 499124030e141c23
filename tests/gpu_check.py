"""What a large GPU is asked, in nine minutes: is the arithmetic right, do kills leave nothing, how fast is it.

    python tests/gpu_check.py OUT [--toy] [--only equality|kills|rates]

Each part is a process with a time limit, and each of its lines is printed and kept in OUT/gpu_check.jsonl as it comes:
a part that is there is not done again. `--toy` does all of it at small sizes, on a CPU too; its rates say nothing.

A rate is of whole epochs, the making of batches, the evaluations and the record among them: the time of a training of
1 + k epochs less that of one epoch, over k. Beside it stand a loop by hand, in the style of airbench (data on the GPU,
the whole step a CUDA graph), the bare replay of its graph, and a Lightning Trainer with torch's DataLoader.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "reproduce" / "_name"), str(ROOT)]

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from three_factors.datamodules.augment import crop_and_flip
from three_factors.datamodules.prepared import Prepared, prepare
from three_factors.datamodules.schedules import NoiseSchedule, as_schedule
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.folder import PackFolder, RunFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import MLPNetwork, Network, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.packs import Pack
from three_factors.reproduce.engine.contract.spec import Curvature, Data, Item, Keep, Measurement, RunSpec
from three_factors.reproduce.engine.launch import sharing
from three_factors.reproduce.engine.launch.runner import Runner, Watcher
from three_factors.reproduce.engine.launch.server import Server
from three_factors.reproduce.engine.launch.task import Task
from three_factors.reproduce.engine.worker.graphed import GraphedSteps
from three_factors.reproduce.engine.worker.measure_pack import measure_pack
from three_factors.reproduce.engine.worker.pack import train_pack
from three_factors.reproduce.engine.worker.process import _quiet
from three_factors.reproduce.engine.worker.stacked_steps import StackedSteps
from three_factors.reproduce.engine.worker.train import build_module, configure_device, train

LIMITS = {"equality": 90, "kills": 60, "rates": 380}  # seconds
LONG = 5.0  # seconds that a row is measured for, at least
RISE = 1.2  # of the time of a first guess, where that was too short
SWEEP = (1, 2, 4, 8)  # runs at a time on the GPU


class Check:
    """One call: where it writes, on what device, how large everything is."""

    def __init__(self, out: Path, *, toy: bool) -> None:
        self.out, self.toy = out, toy
        self.cuda = torch.cuda.is_available()
        self.accelerator = "cuda" if self.cuda else "cpu"
        self.where = torch.device(self.accelerator)
        self.long = 0.2 if toy else LONG
        self.tf32 = "tf32" if self.cuda else "float32"
        self.file = out / "gpu_check.jsonl"

    def job(self, name: str) -> Job:
        return Job(prepare(name), accelerator=self.accelerator)

    def said(self) -> set[str]:
        """Returns the names of the rows that are there."""
        if not self.file.exists():
            return set()
        return {json.loads(line)["row"] for line in self.file.read_text().splitlines()}

    def say(self, row: str, **values: Any) -> None:
        line = json.dumps({"row": row} | values)
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def fresh(self, name: str) -> Path:
        """Returns an empty folder."""
        folder = self.out / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    # -- how runs are made

    def pack(self, specs: list[RunSpec], job: Job, name: str) -> list[RunFolder]:
        out = self.fresh(name)
        folders = [RunFolder(out / "runs" / spec.key) for spec in specs]
        pack = PackFolder(out / "packs" / Pack.of(specs).key)
        for folder in (*folders, pack):
            folder.path.mkdir(parents=True)
        train_pack(specs, job, pack, folders)
        self.wait()
        return folders

    def single(self, spec: RunSpec, job: Job, name: str) -> RunFolder:
        folder = RunFolder(self.fresh(name) / spec.key)
        folder.path.mkdir()
        result = train(spec, job, folder)
        assert result is not None
        write_json(folder.path / "result.json", {"key": spec.key} | result)
        self.wait()
        return folder

    # -- rates

    def seconds_an_epoch(self, run: Callable[[int], object]) -> float:
        """Returns the seconds of an epoch: of run(1 + k) less run(1), so many that they take long enough."""
        first = clocked(lambda: run(1))
        more = 2
        while True:
            spent = clocked(lambda: run(1 + more)) - first  # noqa: B023
            if spent >= self.long or self.toy:
                return abs(spent) / more
            more = max(more + 1, int(RISE * more * self.long / max(spent, 0.1 * self.long)))


def clocked(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
    """Stacks against single runs, graphs against the host's steps, on the device that the rates are of."""
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


# -- how fast is it


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
    """Model-steps of Figures 5, 1 and 9, and one measurement of each."""
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
    """Samples a second of VGG-11 and ResNet56: one run, several on the GPU, by hand, and by a plain Trainer."""
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


def by_hand(check: Check, spec: RunSpec) -> dict[str, Any]:
    """Returns the rate of a loop in the style of airbench, and of its graph's bare replay."""
    where, size = (
        configure_device(check.job("digits"), spec.precision),
        round(as_schedule(spec.schedule.batch_size)(0.0)),
    )
    source, random = prepare("digits"), np.random.default_rng(0)
    images, labels = on_device(source, spec.data.train, where)
    module = build_module(spec.network).to(where)
    parameters = list(module.parameters())
    eta = torch.tensor(0.01, device=where)
    optimizer = torch.optim.SGD(parameters, lr=eta, fused=True)
    steps = spec.data.train // size
    order = torch.zeros(steps * size, dtype=torch.int64, device=where)
    shifts = torch.zeros(2, steps * size, dtype=torch.int64, device=where)
    flips = torch.zeros(steps * size, dtype=torch.bool, device=where)
    cursor, total = torch.zeros(1, dtype=torch.int64, device=where), torch.zeros((), device=where)
    black = torch.zeros(images.shape[1], device=where)

    def step() -> None:
        places = cursor * size + torch.arange(size, device=where)
        chosen = order.index_select(0, places)
        top, left = shifts.index_select(1, places)
        batch = crop_and_flip(images.index_select(0, chosen), top, left, flips.index_select(0, places), 4, black)
        optimizer.zero_grad()
        with torch.autocast(where.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            loss = F.cross_entropy(module.network(batch), labels.index_select(0, chosen))
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())
        cursor.add_(1)

    def epoch() -> None:
        order.copy_(torch.from_numpy(random.permutation(len(images))[: steps * size]))
        shifts.copy_(torch.from_numpy(random.integers(0, 9, size=(2, steps * size))))
        flips.copy_(torch.from_numpy(random.random(steps * size) < 0.5))
        cursor.zero_()
        for _ in range(steps):
            replay()
        module.eval()
        with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            for part in images[:3_000].split(500):
                module.network(part).argmax(1)
        module.train()
        float(total)

    if check.cuda:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
                cursor.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay: Callable[[], None] = graph.replay
    else:
        replay = step

    def epochs(count: int) -> None:
        for _ in range(count):
            epoch()
        check.wait()

    def bare(count: int) -> None:
        for _ in range(count):
            cursor.zero_()
            for _ in range(steps):
                replay()
        check.wait()

    rates = {
        name: round(spec.data.train / check.seconds_an_epoch(run))
        for name, run in (("samples_a_second", epochs), ("bare_replay", bare))
    }
    return rates | {"of_bare": round(rates["samples_a_second"] / rates["bare_replay"], 3)}


def on_device(source: Prepared, count: int, where: torch.device) -> tuple[Tensor, Tensor]:
    arrays = source.arrays()
    images = torch.from_numpy(np.array(arrays["train_images"][:count])).to(where).float() / 255
    return images, torch.from_numpy(np.array(arrays["train_labels"][:count])).to(where)


def by_lightning(check: Check, spec: RunSpec) -> dict[str, Any]:
    """Returns the rate of one Trainer with torch's DataLoader, as a project begins: no augmentation, no evaluation."""
    torch.use_deterministic_algorithms(False)  # as a project begins
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    images, labels = on_device(prepare("digits"), spec.data.train, torch.device("cpu"))
    size = round(as_schedule(spec.schedule.batch_size)(0.0))

    def run(epochs: int) -> None:
        loader: Any = DataLoader(TensorDataset(images, labels), batch_size=size, shuffle=True, drop_last=True)
        trainer = pl.Trainer(
            accelerator="gpu" if check.cuda else "cpu",
            devices=1,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(build_module(spec.network, 0.01), loader)
        check.wait()

    return {"samples_a_second": round(spec.data.train / check.seconds_an_epoch(run))}


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
