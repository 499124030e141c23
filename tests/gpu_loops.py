"""Training loops that ours are compared with: by hand, in the style of airbench, and a Lightning Trainer's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.gpu_call import Check
from three_factors.datamodules.augment import crop_and_flip
from three_factors.datamodules.prepared import Prepared, prepare
from three_factors.datamodules.schedules import as_schedule
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.train import build_module, configure_device


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
