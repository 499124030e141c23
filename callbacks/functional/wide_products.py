"""Products of wide float32 matrices on AMD's processors, by the faster of torch's two libraries for them.

MKL, which torch takes, keeps to AVX2 on processors that are not Intel's. oneDNN uses AVX-512 there, in the same
float32: it trains wide MLPs 1.1 to 2.1 times as fast, and is slower with narrow ones and with a single vector
(tests/benchmarks/README.md). torch takes it for float32 only where it may round to bfloat16 as well, as it does on
processors with AMX, which are Intel's; that nothing is rounded here is tried out, once a process.

For networks of our own alone: with that setting torch's `baddbmm` and `addmv` are wrong with alpha=0, and to ask for
its older setting (`torch.get_float32_matmul_precision`) is an error.
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

WIDE = 200  # rows and columns of a layer's matrix: with fewer oneDNN's overhead is more than it saves in small batches
WIDE_IN_STACK = 100  # where it is one overhead for all members

Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: tuple[Product, ...] = (
    torch.matmul,
    lambda a, b: a.T.contiguous().T @ b,
    lambda a, b: F.linear(a, b.T.contiguous(), a.new_zeros(b.shape[1])),
    lambda a, b: torch.addmm(a.new_zeros(b.shape[1]), a, b),
    lambda a, b: torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[1],
    lambda a, b: torch.baddbmm(a.new_zeros(2, 1, 1), a.expand(2, -1, -1), b.T.contiguous().T.expand(2, -1, -1))[1],
    lambda a, b: torch.stack([torch.mv(a, column) for column in b.T[:3]], 1),
    lambda a, b: torch.stack([torch.stack([row @ column for column in b.T[:3].contiguous()]) for row in a[:3]]),
)


@contextmanager
def wide_products(device: torch.device, shapes: Iterable[Sequence[int]], *, stack: bool = False) -> Iterator[bool]:
    """Multiplies by the faster library within it, and tells whether that is oneDNN.

    Args:
        device: of the network; on a GPU nothing is done.
        shapes: of the parameters of one network; nothing is done unless one is a matrix of so many rows and columns.
        stack: whether several networks are multiplied at once.
    """
    least = WIDE_IN_STACK if stack else WIDE
    wide = device.type == "cpu" and any(len(shape) == 2 and min(shape) >= least for shape in shapes)
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
    """Tells whether products by oneDNN are those of float32, of numbers that two or three of bfloat16 would not hold.

    Whole numbers of 13 bits times -1, 0 and 1, and of 24 bits times a one in every column: every sum is exact in
    float32, in any order.
    """
    generator = torch.Generator().manual_seed(0)
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        for rows, inner, columns in ((50, 784, 256), (256, 100, 128), (1000, 128, 10)):
            numbers = 4097 + 2 * torch.randint(0, 2000, (rows, inner), generator=generator)
            signs = torch.randint(-1, 2, (inner, columns), generator=generator)
            full = 2**23 + 1 + 2 * torch.randint(0, 2**22, (rows, inner), generator=generator)
            chosen = F.one_hot(torch.randint(0, inner, (columns,), generator=generator), inner).T
            for a, b in ((numbers, signs), (full, chosen)):
                for left, right in ((a, b), (b.T, a.T)):
                    truth = left.double() @ right.double()
                    made = (product(left.float(), right.float()).double() for product in products)
                    if not all(torch.equal(one, truth[: one.shape[0], : one.shape[1]]) for one in made):
                        return False
    finally:
        matmul.fp32_precision = before
    return True
