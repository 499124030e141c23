"""What arithmetic that repeats itself to the bit costs on a GPU: training steps with and without it, interleaved.

    python tests/benchmarks/deterministic.py

Medians over rounds of the full networks at S 128; a run resumes exactly only with it (`configure_device` of
`reproduce.engine.worker.train`).
On a CPU, where nothing changes, it runs if it is asked to (`--device cpu`).
"""

from __future__ import annotations

import os
import sys
from statistics import median

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import _code  # noqa: F401
import torch
from _timing import clocked, command_line, interleaved, parsed
from rich.console import Console
from rich.table import Table

from three_factors.reproduce.engine.contract.networks import MLPNetwork, Network, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.worker.train import build_module

NETWORKS: dict[str, Network] = {
    "MLP, 4 x 512, batch norm": MLPNetwork((512,) * 4, in_features=3072, batch_norm=True),
    "VGG-11": VGG11Network(),
    "ResNet56": ResNet56Network(),
}
SMALLEST: dict[str, Network] = {
    "MLP, 2 x 8, batch norm": MLPNetwork((8,) * 2, in_features=3072, batch_norm=True),
    "VGG-11, width 1/8": VGG11Network(width=1 / 8),
    "ResNet8": ResNet56Network(depth=8),
}


def steps(network: Network, count: int, size: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Returns the seconds of a step by the arithmetic, every round's."""
    module = build_module(network, lr=1e-4).to(device)
    optimizer = module.configure_optimizers()
    images, labels = torch.randn(size, 3, 32, 32, device=device), torch.zeros(size, dtype=torch.long, device=device)

    def train() -> None:
        for _ in range(count):
            optimizer.zero_grad()
            module.loss(module(images), labels).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def seconds(deterministic: bool) -> float:
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # as `settle` does
        if device == "cuda":
            torch.cuda.synchronize()
        return clocked(train, count)

    return interleaved({"free": lambda: seconds(False), "bound": lambda: seconds(True)}, rounds)


def main() -> None:
    parser = command_line(__doc__, smallest="small networks and two steps of 8 examples", rounds=7)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    options = parsed(parser)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device; on a CPU nothing changes")
    title = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU"
    count, size = (2, 8) if options.smallest else (30, 128)
    table = Table("network", "as torch likes", "deterministic", "ratio", title=title)
    for name, network in (SMALLEST if options.smallest else NETWORKS).items():
        times = steps(network, count, size, options.rounds, options.device)
        free, bound = median(times["free"]), median(times["bound"])
        table.add_row(name, f"{1e3 * free:.2f} ms", f"{1e3 * bound:.2f} ms", f"{bound / free:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
