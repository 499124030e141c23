"""Products of wide float32 matrices on AMD's processors, by the faster of torch's two libraries for them.

MKL, which torch takes, keeps to AVX2 on processors that are not Intel's. oneDNN uses AVX-512 there, in the same
float32: it trains wide MLPs 1.3 to 2.1 times as fast, and is slower with narrow ones and with a single vector
(tests/benchmarks/README.md). torch takes it for float32 only where it may round to bfloat16 as well, as it does on
processors with AMX, which are Intel's; that nothing is rounded here is tried out, once a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WIDE = 100  # rows and columns of a layer's matrix; with fewer oneDNN's overhead is more than it saves

Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: tuple[Product, ...] = (
    torch.matmul,
    lambda a, b: a.T.contiguous().T @ b,
    lambda a, b: F.linear(a, b.T.contiguous(), a.new_zeros(b.shape[1])),
    lambda a, b: torch.addmm(a.new_zeros(b.shape[1]), a, b),
    lambda a, b: torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[1],
    lambda a, b: torch.baddbmm(a.new_zeros(2, 1, 1), a.expand(2, -1, -1), b.T.contiguous().T.expand(2, -1, -1))[1],
)


@contextmanager
def wide_products(device: torch.device, shapes: Iterable[Sequence[int]]) -> Iterator[bool]:
    """Multiplies by the faster library within it, and tells whether that is oneDNN.

    Args:
        device: of the network; on a GPU nothing is done.
        shapes: of its parameters; nothing is done unless one is a matrix of `WIDE` rows and columns or more.
    """
    wide = device.type == "cpu" and any(len(shape) == 2 and min(shape) >= WIDE for shape in shapes)
    if not (wide and by_onednn()):
        yield False
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # its stubs lack what it makes by name
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield True
    finally:
        matmul.fp32_precision = before


@cache
def by_onednn() -> bool:
    """Tells whether oneDNN is the faster one here, and as exact."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and _amd() and exact()


def _amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def exact(products: Sequence[Product] = PRODUCTS) -> bool:
    """Tells whether products by oneDNN are those of float32, of numbers that bfloat16 and TF32 would round.

    Whole numbers of 13 bits times -1, 0 and 1: every sum of them is exact in float32, in any order.
    """
    generator = torch.Generator().manual_seed(0)
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        for rows, inner, columns in ((50, 784, 256), (256, 100, 128), (1000, 128, 10)):
            numbers = 4097 + 2 * torch.randint(0, 2000, (rows, inner), generator=generator)
            signs = torch.randint(-1, 2, (inner, columns), generator=generator)
            for a, b in ((numbers, signs), (signs.T, numbers.T)):
                truth = a.double() @ b.double()
                if not all(torch.equal(product(a.float(), b.float()).double(), truth) for product in products):
                    return False
    finally:
        matmul.fp32_precision = before
    return True
