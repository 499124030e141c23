"""How long a training step takes here, which forecasts rest on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from three_factors.callbacks.functional.wide_products import wide_products
from three_factors.lightning_modules.losses import example_losses
from three_factors.lightning_modules.stack import StackedMLP, StackedSGD
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.worker.graphs import Repeated
from three_factors.reproduce.engine.worker.train import build_module, configure_device


def seconds_per_batch(
    network: Network, job: Job, members: int = 1, precision: str = "float32", sizes: tuple[int, int] = (32, 128)
) -> tuple[float, float]:
    """Times training steps at two batch sizes on one device; returns (seconds a step, seconds an example), medians.

    Args:
        members: of a stack, if several; an example is then one of every member.
    """
    where = configure_device(job, precision if job.accelerator == "cuda" else "float32")
    step = timed_step(network, where, members, precision)
    stack = () if members == 1 else (members,)
    times, shapes = [], [p.shape for p in build_module(network).parameters()]
    for size in sizes:
        images = torch.randn(*stack, size, job.source.channels, job.source.size, job.source.size, device=where)
        labels = torch.zeros(*stack, size, dtype=torch.long, device=where)
        # As a run makes them; what the trials leave in the weights is nobody's.
        made = Repeated(lambda _: step(images, labels), lambda: (), graphs=where.type == "cuda")  # noqa: B023
        elapsed: list[float] = []
        with wide_products(where, shapes, stack=members > 1):
            while len(elapsed) < 3 or (len(elapsed) < 10 and sum(elapsed) < 0.5):
                start = time.perf_counter()
                made.run([size])
                if where.type == "cuda":
                    torch.cuda.synchronize()
                elapsed.append(time.perf_counter() - start)
        times.append(statistics.median(elapsed[1:]))
    per_example = max((times[1] - times[0]) / (sizes[1] - sizes[0]), 1e-9)
    return max(times[0] - sizes[0] * per_example, 2e-4), per_example


def timed_step(
    network: Network, where: torch.device, members: int = 1, precision: str = "float32"
) -> Callable[[Tensor, Tensor], None]:
    """Returns what makes a step on images and labels, of a network or of a stack of so many."""
    return _step(network, where, precision) if members == 1 else _stacked_step(network, members, where)


def _step(network: Network, where: torch.device, precision: str) -> Callable[[Tensor, Tensor], None]:
    """Returns what makes a step of a network."""
    module = build_module(network, lr=1e-4).to(where)
    optimizer = module.configure_optimizers()

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = module.loss(module(images), labels)
        loss.backward()
        optimizer.step()

    return step


def _stacked_step(network: Network, members: int, where: torch.device) -> Callable[[Tensor, Tensor], None]:
    """Returns what makes a step of so many networks as one stack."""
    module = build_module(network)
    stack = StackedMLP([module.network] * members).to(where)
    parameters, rates = list(stack.parameters()), torch.full((members,), 1e-4, device=where)
    sgd = StackedSGD(parameters, torch.zeros(members, device=where), torch.zeros(members, device=where))

    def step(images: Tensor, labels: Tensor) -> None:
        loss = example_losses("cross_entropy", stack(images), labels).mean(1).sum()
        sgd.step(parameters, torch.autograd.grad(loss, parameters), rates)

    return step
