"""What arithmetic that repeats itself to the bit costs on a GPU: training steps with and without it, interleaved.

    python tests/benchmarks/deterministic.py

Medians over rounds of the full networks at S 128; a run resumes exactly only with it (`reproduce.engine.train.settle`).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from rich.console import Console
from rich.table import Table

from reproduce.engine.spec import MLPNetwork, ResNet56Network, VGG11Network
from reproduce.engine.train import build_module

NETWORKS = {
    "MLP, 4 x 512, batch norm": MLPNetwork((512,) * 4, in_features=3072, batch_norm=True),
    "VGG-11": VGG11Network(),
    "ResNet56": ResNet56Network(),
}
ROUNDS, STEPS, SIZE = 7, 30, 128


def seconds(module, optimizer, images, labels, deterministic):
    """Of a step."""
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # as `settle` does
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        module.loss(module(images), labels).backward()
        optimizer.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS


def main():
    if not torch.cuda.is_available():
        sys.exit("no CUDA device; on a CPU nothing changes")
    table = Table("network", "as torch likes", "deterministic", "ratio", title=torch.cuda.get_device_name())
    for name, network in NETWORKS.items():
        module = build_module(network, lr=1e-4).cuda()
        optimizer = module.configure_optimizers()
        images, labels = torch.randn(SIZE, 3, 32, 32, device="cuda"), torch.zeros(SIZE, dtype=torch.long, device="cuda")
        times = {False: [], True: []}
        for _ in range(ROUNDS + 1):  # the first warms up
            for mode, found in times.items():
                found.append(seconds(module, optimizer, images, labels, mode))
        free, bound = (median(times[mode][1:]) for mode in (False, True))
        table.add_row(name, f"{1e3 * free:.2f} ms", f"{1e3 * bound:.2f} ms", f"{bound / free:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
