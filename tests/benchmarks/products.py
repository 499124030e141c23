"""Training steps with wide matrices multiplied by oneDNN, against torch's default; and a product with one vector.

    python tests/benchmarks/products.py [--rounds 7]

Says whether `wide_products` takes oneDNN on this machine, and times both whatever it takes: a step of a single network
and of stacks, and the passes through a Lanczos basis that a measurement makes beside its network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import _code  # noqa: F401
import torch
from _timing import clocked, command_line, interleaved, parsed, ratio

from three_factors.callbacks.functional.wide_products import WIDE, WIDE_IN_STACK, by_onednn
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.worker.timing import timed_step

NETWORKS = {
    "256 x 256": MLPNetwork(hidden=(256, 256), batch_norm=False),
    "4 x 512, batch norm": MLPNetwork(hidden=(512,) * 4, batch_norm=True),
    "4 x 128, batch norm": MLPNetwork(hidden=(128,) * 4, batch_norm=True),
    "20 x 50": MLPNetwork(hidden=(50,) * 20, batch_norm=False),
}
SECONDS = 0.25  # that a candidate is timed for in a round


@contextmanager
def multiplied(by: str) -> Iterator[None]:
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if by == "oneDNN" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def row(name: str, run: Callable[[], object], rounds: int, seconds: float) -> None:
    """Prints the microseconds of both and the ratio."""
    run()
    count = max(1, int(seconds / clocked(run)))

    def candidate(by: str) -> float:
        with multiplied(by):
            return clocked(lambda: [run() for _ in range(count)], count)

    times = interleaved({by: lambda by=by: candidate(by) for by in ("oneDNN", "default")}, rounds)
    one, default = (sorted(times[by])[len(times[by]) // 2] for by in ("oneDNN", "default"))
    faster = ratio(times, "default", "oneDNN")
    print(f"{name:45} {1e6 * default:10.0f} {1e6 * one:10.0f} {faster:7.2f}", flush=True)


if __name__ == "__main__":
    options = parsed(command_line(__doc__, smallest="one network, two steps", rounds=7))
    torch.set_num_threads(1)
    seconds = 0.0 if options.smallest else SECONDS
    taken = "taken" if by_onednn() else "not taken"
    print(f"oneDNN is {taken} here, from {WIDE} rows and columns, in a stack from {WIDE_IN_STACK}")
    print(f"{'':45} {'default us':>10} {'oneDNN us':>10} {'faster':>7}")
    for name, network in list(NETWORKS.items())[: 1 if options.smallest else None]:
        for members in (1,) if options.smallest else (1, 4, 24):
            step = timed_step(network, torch.device("cpu"), members)
            for size in (50,) if options.smallest else (50, 200, 1000):
                stack = () if members == 1 else (members,)
                images, labels = torch.randn(*stack, size, 1, 28, 28), torch.zeros(*stack, size, dtype=torch.long)
                row(f"step of {members:2}, {name}, S {size}", partial(step, images, labels), options.rounds, seconds)
    basis, vector = torch.randn(24, 10_000 if options.smallest else 269_322), torch.randn(24)
    row("one vector times a Lanczos basis", lambda: basis.T @ vector, options.rounds, seconds)
