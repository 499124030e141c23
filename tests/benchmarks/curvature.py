"""Curvature side by side with PyHessian 0.1 and curvlinops 3, as ratios measured interleaved in one run.

    python tests/benchmarks/curvature.py [--json FILE] [--rounds 5] [--device cuda]

Networks: an MLP 784-384-96-10 (0.34 M parameters) and a batch-norm CNN (0.24 M), briefly trained on the embedded
digits; the Hessian of the cross-entropy on 128 examples in two batches, eval mode. Rows:
- a product, in a block of four vectors; and with a single batch, whose graph is kept;
- five eigenvalues to a true relative error of 1e-3: ours and PyHessian's each at the loosest tolerance (of powers of
  10) that gets there; curvlinops by scipy's eigsh, whose default is tighter;
- the trace: each of 20 seeds' products recorded once, both stopping rules replayed on them (ours on what 16 Lanczos
  steps leave of each sample, which costs no product more): products until the true error is at most 3 % in 19 of 20
  seeds, and how often PyHessian's default fails;
- peak memory of a block of products, in a process each.

Measured on 2 cores of an AMD EPYC, no GPU (PyTorch 2.15, PyHessian 0.1, curvlinops 3.0.1), in 3.5 minutes:

                                           MLP     CNN
    product in a block of 4 / PyHessian   0.67    0.73
    ... / curvlinops                      0.77    0.88
    five eigenvalues, time / PyHessian    0.36    0.20    13 and 15 products
    ... / curvlinops                      0.11    0.21
    trace: products for 3 % in 19 of 20     62      78    tol = 2.5 %
    ... by PyHessian's rule                  -       -    never within its 100 vectors; its default fails 17, 15 of 20
    peak MB: ours                           18      30
    ... PyHessian, curvlinops           13, 38  23, 66

At tol = 3 % our trace errs by more in 4 and 3 of these 20 seeds; resampled 2 000 times from the same products in 0.9
and 1.1 of 20, as a 95 % interval should.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import _code  # noqa: F401
import torch
from _timing import clocked, command_line, interleaved, parsed, ratio
from curvlinops import HessianLinearOperator
from pyhessian import hessian as PyHessian
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from three_factors.callbacks.functional import HessianOperator, top_eigenvalues
from three_factors.callbacks.functional.estimates import two_stage
from three_factors.callbacks.functional.hutchinson import PILOT
from three_factors.callbacks.functional.lanczos import Lanczos
from three_factors.datamodules.prepared import prepare

SEEDS, RECORDED, DEFLATED, LIMIT = 20, 128, 16, 0.03
PAUSE = 0.05  # seconds, in which the threads of the last one's linear algebra spin on


@dataclass(frozen=True)
class Sizes:
    """How large the networks are, and how much is done with them."""

    mlp: tuple[int, int] = (384, 96)
    cnn: tuple[int, ...] = (32, 64, 128, 128)
    steps: int = 800
    examples: int = 128
    batch: int = 64
    seeds: int = SEEDS
    resampled: int = 2_000
    power_iterations: int = 1_000
    power_tolerances: int = 7


SMALLEST = Sizes(
    (8, 8), (8, 8), steps=20, examples=8, batch=4, seeds=2, resampled=2, power_iterations=5, power_tolerances=2
)


def network(name: str, sizes: Sizes) -> nn.Module:
    torch.manual_seed(0)
    if name == "MLP":
        first, second = sizes.mlp
        hidden = nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(second, 10))
    layers: list[nn.Module] = [nn.AvgPool2d(2)]  # 5 000 products in minutes: the images are made smaller
    for last, out in zip((1, *sizes.cnn), sizes.cnn):
        layers += [nn.Conv2d(last, out, 3, 2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes.cnn[-1], 10))


def trained(name: str, device: str, sizes: Sizes) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The network after its steps, and the examples to measure on."""
    arrays = prepare("digits28").arrays()
    images = torch.from_numpy(arrays["train_images"][:4096]).float().div_(255).sub_(0.5).div_(0.25).to(device)
    labels = torch.from_numpy(arrays["train_labels"][:4096].astype("int64")).to(device)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    module = network(name, sizes).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for step in range(sizes.steps):
        chosen = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        optimizer.zero_grad()
        F.cross_entropy(module(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
    measured = (whole[: sizes.examples].split(sizes.batch) for whole in (images, labels))
    return module.eval(), list(zip(*measured))


def theirs(module: nn.Module, batches: list[Any], device: str) -> Any:
    for p in module.parameters():
        p.grad = None
    return PyHessian(module, F.cross_entropy, dataloader=batches, cuda=device == "cuda")


def linear(module: nn.Module, batches: list[Any]) -> Any:
    return HessianLinearOperator(
        module, nn.CrossEntropyLoss(), list(module.parameters()), batches, check_deterministic=False
    )


def timed(candidates: dict[str, Any], rounds: int, device: str) -> dict[str, list[float]]:
    def seconds(run: Any) -> float:
        return clocked(lambda: (run(), torch.cuda.synchronize() if device == "cuda" else None))

    return interleaved({name: partial(seconds, run) for name, run in candidates.items()}, rounds, pause=PAUSE)


def products(module: nn.Module, batches: list[Any], rounds: int, device: str, sizes: Sizes) -> dict[str, float]:
    operator, pyhessian, curvlinops = (
        HessianOperator(module, F.cross_entropy, batches),
        theirs(module, batches, device),
        linear(module, batches),
    )
    block = torch.randn(operator.num_params, 4, device=device)
    split = [[p.view(s) for p, s in zip(v.split(operator.lengths), operator.shapes)] for v in block.T]
    first = HessianOperator(module, F.cross_entropy, batches[:1])
    whole = PyHessian(module, F.cross_entropy, data=batches[0], cuda=device == "cuda")
    times = timed(
        {
            "ours": lambda: operator.matmat(block),
            "PyHessian": lambda: [pyhessian.dataloader_hv_product(v) for v in split],
            "curvlinops": lambda: curvlinops @ block,
            "ours, kept": lambda: [first.matvec(v) for v in block.T],
            "PyHessian, kept": lambda: [
                torch.autograd.grad(whole.gradsH, whole.params, v, retain_graph=True) for v in split
            ],
        },
        rounds,
        device,
    )
    return {
        "ms a product": 250 * statistics.median(times["ours"]),
        "product / PyHessian": ratio(times, "ours", "PyHessian"),
        "product / curvlinops": ratio(times, "ours", "curvlinops"),
        "product, one batch / PyHessian": ratio(times, "ours, kept", "PyHessian, kept"),
    }


def eigenvalues(module: nn.Module, batches: list[Any], rounds: int, device: str, sizes: Sizes) -> dict[str, Any]:
    operator = HessianOperator(module, F.cross_entropy, batches)
    truth = top_eigenvalues(operator, k=5, tol=1e-6, which="magnitude").values

    def error(values: Any) -> float:
        found = torch.as_tensor(values, dtype=torch.float64).sort(descending=True).values
        return float(((found - truth.sort(descending=True).values) / truth.sort(descending=True).values).abs().max())

    def ours(tol: float) -> Any:
        return top_eigenvalues(operator, k=5, tol=tol, which="magnitude")

    def power(tol: float) -> list[float]:
        torch.manual_seed(1)
        return theirs(module, batches, device).eigenvalues(maxIter=sizes.power_iterations, tol=tol, top_n=5)[0]

    found: dict[str, Any] = {}
    tolerances = [10.0**-k for k in range(1, 8)]
    tried = tolerances[: sizes.power_tolerances]
    enough = next((tol for tol in tried if error(power(tol)) <= 1e-3), tried[-1])
    own = next(tol for tol in tolerances if error(ours(tol).values) <= 1e-3)
    scipy_form = linear(module, batches).to_scipy()
    times = timed(
        {
            "ours": lambda: found.update(ours=ours(own)),
            "ours, 1e-3": lambda: found.update(default=ours(1e-3)),
            "PyHessian": lambda: power(enough),
            "curvlinops": lambda: found.update(scipy=eigsh(scipy_form, k=5, tol=1e-3)[0]),
        },
        min(rounds, max(3, rounds // 2)),
        device,
    )
    return {
        "five eigenvalues: our true error": error(found["ours"].values),
        "our tolerance needed": own,
        "our products": found["ours"].products,
        "PyHessian's tolerance needed": enough,
        "curvlinops' true error": error(found["scipy"]),
        "time / PyHessian": ratio(times, "ours", "PyHessian"),
        "time / curvlinops": ratio(times, "ours", "curvlinops"),
        "at our default 1e-3: true error": error(found["default"].values),
        "its products": found["default"].products,
        "its time / PyHessian": ratio(times, "ours, 1e-3", "PyHessian"),
    }


def traces(module: nn.Module, batches: list[Any], rounds: int, device: str, sizes: Sizes) -> dict[str, Any]:
    operator = HessianOperator(module, F.cross_entropy, batches)
    plain, deflated = [], []
    for seed in range(sizes.seeds):
        generator = torch.Generator().manual_seed(seed)
        lanczos = Lanczos(operator, generator)
        while lanczos.size < DEFLATED:
            lanczos.step()
        basis, inside = lanczos.basis[:DEFLATED].T, sum(lanczos.alphas)
        known = operator.matmat(basis)
        rows: tuple[list[Tensor], list[Tensor]] = [], []
        for _ in range(RECORDED // 16):
            v = torch.randint(0, 2, (operator.num_params, 16), generator=generator).float().mul_(2).sub_(1)
            v = v.to(operator.device)
            hv = operator.matmat(v)
            rows[0].append((v * hv).sum(0).double().cpu())
            part = basis.T @ v
            left = v - basis @ part
            rows[1].append(inside + (left * (hv - known @ part)).sum(0).double().cpu())
        plain.append(torch.cat(rows[0]))
        deflated.append(torch.cat(rows[1]))
    samples, rest = torch.stack(plain), torch.stack(deflated)
    truth = float(rest.mean())

    def ours(row: Tensor, tol: float) -> tuple[float, int]:
        taken = iter(row.split(1))
        estimate = two_stage(
            lambda n: torch.cat([next(taken) for _ in range(n)]), lambda m: tol * abs(m), pilot=PILOT, limit=RECORDED
        )
        return estimate.value, DEFLATED + estimate.products

    def agreement(row: Tensor, tol: float) -> tuple[float, int]:
        """Two successive means agree to tol: PyHessian's rule, at most 100 vectors."""
        previous = 0.0
        for n in range(1, 101):
            mean = float(row[:n].mean())
            if abs(mean - previous) / (abs(previous) + 1e-6) < tol:
                return mean, n
            previous = mean
        return previous, 100

    def replay(rule: Any, tol: float) -> tuple[int, float]:
        results = [rule(row, tol) for row in (rest if rule is ours else samples)]
        failed = sum(abs(value - truth) > LIMIT * abs(truth) for value, _ in results)
        return failed, statistics.mean(n for _, n in results)

    def cheapest(rule: Any, tolerances: list[float]) -> tuple[float | None, float]:
        options = [(replay(rule, tol), tol) for tol in tolerances]
        good = [(cost, tol) for (failed, cost), tol in options if failed <= 1]
        return (min(good)[1], min(good)[0]) if good else (None, math.inf)

    failed, cost = replay(ours, LIMIT)
    own_tol, own_enough = cheapest(ours, [0.005 * k for k in range(1, 13)])
    pool, shuffled = rest.flatten(), torch.Generator().manual_seed(1)
    drawn = (pool[torch.randint(len(pool), (RECORDED,), generator=shuffled)] for _ in range(sizes.resampled))
    draws = [ours(row, LIMIT)[0] for row in drawn]
    default_failed, default_cost = replay(agreement, 1e-3)
    tol, enough = cheapest(agreement, [10 ** (-k / 4) for k in range(8, 25)])
    return {
        "relative sd of v·Hv": float(samples.std() / abs(truth)),
        "the same, deflated": float(rest.std() / abs(truth)),
        "trace: our failures of 20 at tol 3 %": failed,
        "our mean products": cost,
        "our failures of 20, over 2000 resampled": 20 * statistics.mean(abs(v - truth) > LIMIT * truth for v in draws),
        "our products for 19 of 20": own_enough,
        "our tolerance for that": own_tol,
        "PyHessian's default: failures of 20": default_failed,
        "its mean products": default_cost,
        "its products for 19 of 20": enough,
        "its tolerance for that": tol,
    }


def peak_memory(tool: str, name: str, sizes: Sizes) -> float:
    """MB above what was there before, of a block of four products; to be run in a process of its own."""
    module, batches = trained(name, "cpu", replace(sizes, steps=1))
    operator = HessianOperator(module, F.cross_entropy, batches)
    block = torch.randn(operator.num_params, 4)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    if tool == "ours":
        operator.matmat(block)
    elif tool == "curvlinops":
        linear(module, batches) @ block
    else:
        pyhessian = theirs(module, batches, "cpu")
        for v in block.T:
            pyhessian.dataloader_hv_product([p.view(s) for p, s in zip(v.split(operator.lengths), operator.shapes)])
    return resident("VmHWM") - before


def memory_of(tool: str, name: str, sizes: Sizes) -> float:
    """Returns `peak_memory`; at the smallest setting of this process, whose start would be most of its time."""
    if sizes == SMALLEST:
        return peak_memory(tool, name, sizes)
    command = [sys.executable, __file__, "--memory", tool, name]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def resident(field: str) -> float:
    """MB, by Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = command_line(__doc__, smallest="networks of width 8, two seeds", rounds=5, json=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--memory", nargs=2, metavar=("TOOL", "NETWORK"), help=argparse.SUPPRESS)
    options = parsed(parser)
    sizes = SMALLEST if options.smallest else Sizes()
    if options.memory:
        print(peak_memory(*options.memory, sizes))
        return
    table: dict[str, dict[str, Any]] = {}
    for name in ("MLP", "CNN"):
        module, batches = trained(name, options.device, sizes)
        row: dict[str, Any] = {"parameters": sum(p.numel() for p in module.parameters())}
        for part in (products, eigenvalues, traces):
            start = time.perf_counter()
            row |= part(module, batches, options.rounds, options.device, sizes)
            print(f"{name}: {part.__name__} done in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if options.device == "cpu":
            row |= {f"peak MB, {tool}": memory_of(tool, name, sizes) for tool in ("ours", "PyHessian", "curvlinops")}
        table[name] = row
    width = max(map(len, table["MLP"]))
    print(f"{'':<{width}} {'MLP':>12} {'CNN':>12}")
    for key in table["MLP"]:
        print(f"{key:<{width}} " + " ".join(f"{_shown(table[name][key]):>12}" for name in table))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
