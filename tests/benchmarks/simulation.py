"""Cost of the simulator a step of a chain, as ratios to a bare loop, measured interleaved in one run.

    python tests/benchmarks/simulation.py [--json FILE] [--rounds 7]

Rows: a potential with and without momentum, and minibatches of a softmax regression, by `simulate` and by a loop of a
few numpy lines with the same arithmetic, the same generator and the same number of chains advanced together: a whole
chunk, or as few as theorem2 has; for information also the loop over many times as many at once, whose arrays leave the
processor's cache. Each round times every candidate once, in turn; the ratio is the median over rounds of the ratios
within a round, and `within` says whether it is within the bound.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import _code  # noqa: F401
import numpy as np
from _timing import clocked, command_line, interleaved, parsed

from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.potentials import SWITCH, DoubleWell, Quadratic, Quartic
from three_factors.reproduce.theory.simulate import CHUNK, simulate
from three_factors.reproduce.theory.simulation import Gaussian, Minibatches, Simulation

SIGMA, BATCH, LR = 2.0, 4, 0.01
STEPS, CHUNKS = 200, 20  # of SGD; chunks that the loop over all chains at once takes together, for STEPS/CHUNKS steps
BOUND = 1.5
Gradient = Callable[[np.ndarray], np.ndarray]
TEN = Quadratic(tuple(tuple(2.0 * (i == j) + 0.1 for j in range(10)) for i in range(10)))
WELL, WELL_2, WELL_10 = (DoubleWell(0.45, -0.1, (0.8,) * (q - 1), (1.2,) * (q - 1)) for q in (1, 2, 10))
CLASSES, EXAMPLES, FEATURES, L2 = (0, 1, 2), 256, 10, 0.1  # as bridge has them
REGRESSION = SoftmaxRegression("synthetic", CLASSES, EXAMPLES, FEATURES, L2)


def quartic(theta: np.ndarray) -> np.ndarray:
    return theta * (1.0 + theta * theta)


def well(theta: np.ndarray) -> np.ndarray:
    return 1.8 * theta * (theta * theta - 1) - 0.1


def quadratic(theta: np.ndarray, h: np.ndarray = TEN.matrix) -> np.ndarray:
    return theta @ h


def wells(theta: np.ndarray) -> np.ndarray:
    others = theta.shape[1] - 1
    a, b = np.full(others, 0.8), np.full(others, 1.2)
    x, y = theta[:, 0], theta[:, 1:]
    share = 1 / (1 + np.exp(-x / SWITCH))
    along = 1.8 * x * (x * x - 1) - 0.1 + (y * y) @ (b - a) / 2 * share * (1 - share) / SWITCH
    return np.concatenate([along[:, None], (a + (b - a) * share[:, None]) * y], axis=1)


def on_batches(theta: np.ndarray, batches: np.ndarray, x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of softmax regression, θ (chains, classes - 1, d), on batches (chains, S) of x (N, d), truth (N, classes - 1)."""
    inputs = x[batches]
    p = np.exp(inputs @ theta.transpose(0, 2, 1))
    p /= 1 + p.sum(axis=2, keepdims=True)
    return (p - truth[batches]).transpose(0, 2, 1) @ inputs / batches.shape[1] + L2 * theta


# name -> potential, its gradient by hand, chains
CASES: dict[str, tuple[Quadratic | Quartic | DoubleWell, Gradient, int]] = {
    "quartic, q = 1": (Quartic(), quartic, CHUNK),
    "double well, q = 1": (WELL, well, CHUNK),
    "quadratic, q = 10": (TEN, quadratic, CHUNK // 10),
    "double well, q = 10": (WELL_10, wells, CHUNK // 10),
    "double well, q = 2, 1000 chains": (WELL_2, wells, 1000),
}
BATCHES = {2: 454, 8: 181, 32: 53}  # S of the softmax regression -> chains of a chunk
OF_BATCHES = 700  # steps, as many as bridge takes: the data are bound to the loss once
FEW = 4  # chains of the smallest setting


def by_hand(gradient: Gradient, dim: int, momentum: float, chains: int, steps: int) -> np.ndarray:
    """The loop that one would write."""
    random = np.random.Generator(np.random.SFC64(0))
    theta, velocity = np.zeros((chains, dim)), np.zeros((chains, dim))
    scale = SIGMA / BATCH**0.5
    for _ in range(steps):
        noisy = gradient(theta) + scale * random.standard_normal((chains, dim))
        if momentum:
            velocity = momentum * velocity + noisy
            theta = theta - LR * velocity
        else:
            theta = theta - LR * noisy
    return theta


def minibatches_by_hand(x: np.ndarray, truth: np.ndarray, batch_size: int, chains: int, steps: int) -> np.ndarray:
    """The loop that one would write."""
    random = np.random.Generator(np.random.SFC64(0))
    theta = np.zeros((chains, truth.shape[1], x.shape[1]))
    for _ in range(steps):
        theta = theta - LR * on_batches(theta, random.integers(0, len(x), (chains, batch_size)), x, truth)
    return theta


def candidates(
    spec: Simulation, loop: Callable[[int, int], object], arrays: dict[str, np.ndarray] | None = None
) -> dict[str, Callable[[], float]]:
    """Returns calls that give each one's seconds a step of a chain; `loop` takes chains and steps."""
    count = spec.chains * spec.steps
    return {
        "simulate": lambda: clocked(lambda: simulate(spec, arrays=arrays), count),
        "loop": lambda: clocked(lambda: loop(spec.chains, spec.steps), count),
        "loop, all at once": lambda: clocked(lambda: loop(spec.chains * CHUNKS, spec.steps // CHUNKS), count),
    }


def of_potentials(smallest: bool) -> Iterator[tuple[str, Simulation, dict[str, Callable[[], float]]]]:
    steps = CHUNKS if smallest else STEPS
    for name, (potential, gradient, chains) in CASES.items():
        theta = np.random.default_rng(0).standard_normal((100, potential.dim))
        np.testing.assert_allclose(gradient(theta), potential.gradient(theta), rtol=1e-12, atol=1e-12)
        for momentum in (0.0, 0.9):
            sizes = (steps, (steps,), (0.0,) * potential.dim, FEW if smallest else chains)
            spec = Simulation(potential, LR, BATCH, Gaussian(SIGMA), *sizes, momentum=momentum)
            loop = partial(by_hand, gradient, potential.dim, momentum)
            yield name, spec, candidates(spec, loop)


def of_minibatches(smallest: bool) -> Iterator[tuple[str, Simulation, dict[str, Callable[[], float]]]]:
    steps = CHUNKS if smallest else OF_BATCHES
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 255, (EXAMPLES, 8, 8)), np.arange(EXAMPLES) % len(CLASSES)
    arrays = {"train_images": images, "train_labels": labels}
    potential = REGRESSION.on(arrays)
    theta = random.standard_normal((50, REGRESSION.dim))
    for batch_size, chains in BATCHES.items():
        batches = random.integers(0, EXAMPLES, (50, batch_size))
        by_loop = on_batches(theta.reshape(50, len(CLASSES) - 1, -1), batches, potential.x, potential.truth)
        np.testing.assert_allclose(by_loop.reshape(50, -1), potential.batch_gradient(theta, batches), atol=1e-12)
        sizes = (steps, (steps,), (0.0,) * REGRESSION.dim, FEW if smallest else chains)
        spec = Simulation(REGRESSION, LR, batch_size, Minibatches("replacement"), *sizes)
        loop = partial(minibatches_by_hand, potential.x, potential.truth, batch_size)
        yield f"softmax regression, S = {batch_size}", spec, candidates(spec, loop, arrays)


def main() -> None:
    options = parsed(command_line(__doc__, smallest=f"{FEW} chains of {CHUNKS} steps", rounds=7, json=True))
    rows = []
    print(
        f"{'potential':<33}{'beta':>6}{'simulate (ns)':>15}{'loop (ns)':>12}{'ratio':>8}{'bound':>8}{'within':>8}"
        f"{'all at once (ns)':>18}{'ratio':>8}"
    )
    for name, spec, runs in chain(of_potentials(options.smallest), of_minibatches(options.smallest)):
        times = interleaved(runs, options.rounds)
        row = {"potential": name, "momentum": spec.momentum, "chains": spec.chains, "bound": BOUND}
        row |= {f"{key} (ns)": round(1e9 * statistics.median(values), 1) for key, values in times.items()}
        for other in ("loop", "loop, all at once"):
            ratios = [a / b for a, b in zip(times["simulate"], times[other])]
            row[f"over {other}"] = round(statistics.median(ratios), 2)
        row["within"] = row["over loop"] <= BOUND
        rows.append(row)
        print(
            f"{name:<33}{spec.momentum:>6}{row['simulate (ns)']:>15}{row['loop (ns)']:>12}{row['over loop']:>8}"
            f"{BOUND:>8}{'yes' if row['within'] else 'no':>8}{row['loop, all at once (ns)']:>18}"
            f"{row['over loop, all at once']:>8}"
        )
    if options.json:
        options.json.write_text(json.dumps({"numpy": np.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
