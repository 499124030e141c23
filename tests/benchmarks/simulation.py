"""Cost of the simulator a step of a chain, as ratios to a bare loop, measured interleaved in one run.

    python tests/benchmarks/simulation.py [--json FILE] [--rounds 7]

Rows: a potential with and without momentum, by `simulate` and by a loop of a few numpy lines with the same arithmetic,
the same generator and the same number of values advanced together; for information also the loop over all chains at
once, whose arrays leave the processor's cache. Then Theorem 2's thousand chains, fewer than fill a chunk, and the
minibatches of a softmax regression. Each round times every candidate once, in turn; the ratio is the median over rounds
of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from reproduce.theory.classifier import SoftmaxRegression
from reproduce.theory.potentials import SWITCH, DoubleWell, Quadratic, Quartic
from reproduce.theory.simulate import CHUNK, Gaussian, Minibatches, Simulation, simulate

SIGMA, BATCH, LR = 2.0, 4, 0.01
STEPS, CHUNKS = 200, 20  # of SGD; chunks that the loop over all chains at once takes together, for STEPS/CHUNKS steps
BOUND = 1.5
Gradient = Callable[[np.ndarray], np.ndarray]
TEN = Quadratic(tuple(tuple(2.0 * (i == j) + 0.1 for j in range(10)) for i in range(10)))
WELL, WELL_10 = DoubleWell(0.45, -0.1), DoubleWell(0.45, -0.1, (0.8,) * 9, (1.2,) * 9)


def quartic(theta: np.ndarray) -> np.ndarray:
    return theta * (1.0 + theta * theta)


def well(theta: np.ndarray) -> np.ndarray:
    return 1.8 * theta * (theta * theta - 1) - 0.1


def quadratic(theta: np.ndarray, h: np.ndarray = TEN.matrix) -> np.ndarray:
    return theta @ h


def well_10(theta: np.ndarray) -> np.ndarray:
    a, b = np.full(9, 0.8), np.full(9, 1.2)
    x, y = theta[:, 0], theta[:, 1:]
    share = 1 / (1 + np.exp(-x / SWITCH))
    along = 1.8 * x * (x * x - 1) - 0.1 + (y * y) @ (b - a) / 2 * share * (1 - share) / SWITCH
    return np.concatenate([along[:, None], (a + (b - a) * share[:, None]) * y], axis=1)


def well_2(theta: np.ndarray) -> np.ndarray:
    x, y = theta[:, 0], theta[:, 1]
    share = 1 / (1 + np.exp(-x / SWITCH))
    along = 1.8 * x * (x * x - 1) - 0.1 + 0.2 * y * y * share * (1 - share) / SWITCH
    return np.stack([along, (0.8 + 0.4 * share) * y], axis=1)


# gradient by hand, and how many chains there are: None for as many as are advanced together
CASES: dict[str, tuple[Quadratic | Quartic | DoubleWell, Gradient, int | None]] = {
    "quartic, q = 1": (Quartic(), quartic, None),
    "double well, q = 1": (WELL, well, None),
    "quadratic, q = 10": (TEN, quadratic, None),
    "double well, q = 10": (WELL_10, well_10, None),
    "double well, q = 2, 1000": (DoubleWell(0.45, -0.1, (0.8,), (1.2,)), well_2, 1_000),
}
IMAGES, PIXELS, CLASSES = 256, 16, 3
FEATURES = 10


def interleaved(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds a step of a chain of every candidate in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            seconds = run()
            if number:
                times[name].append(seconds)
    return times


def by_hand(gradient: Gradient, chains: int, dim: int, steps: int, momentum: float) -> np.ndarray:
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


def candidates(
    potential: Quadratic | Quartic | DoubleWell, gradient: Gradient, momentum: float, chains: int | None
) -> dict[str, Callable[[], float]]:
    dim = potential.dim
    chains = chains or CHUNK // dim
    spec = Simulation(potential, LR, BATCH, Gaussian(SIGMA), STEPS, (STEPS,), (0.0,) * dim, chains, momentum=momentum)

    return {
        "simulate": lambda: clocked(lambda: simulate(spec), chains),
        "loop": lambda: clocked(lambda: by_hand(gradient, chains, dim, STEPS, momentum), chains),
        "loop, all at once": lambda: clocked(
            lambda: by_hand(gradient, chains * CHUNKS, dim, STEPS // CHUNKS, momentum), chains
        ),
    }


def clocked(run: Callable[[], object], chains: int) -> float:
    """Seconds a step of a chain."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / (chains * STEPS)


def minibatches(batch_size: int) -> dict[str, Callable[[], float]]:
    """SGD itself on a softmax regression, by `simulate` and by hand; as many chains as are advanced together."""
    random = np.random.default_rng(0)
    arrays = {
        "train_images": random.integers(0, 255, (IMAGES, 1, PIXELS, PIXELS)).astype(np.uint8),
        "train_labels": np.arange(IMAGES) % CLASSES,
    }
    potential = SoftmaxRegression("-", tuple(range(CLASSES)), IMAGES, FEATURES, 0.1)
    loss = potential.on(arrays)
    chains = CHUNK // max(IMAGES, batch_size * (FEATURES + 1))
    noise = Minibatches("replacement")
    spec = Simulation(potential, LR, batch_size, noise, STEPS, (STEPS,), (0.0,) * potential.dim, chains)

    def hand(count: int, steps: int) -> np.ndarray:
        draws = np.random.Generator(np.random.SFC64(0))
        theta = np.zeros((count, CLASSES - 1, FEATURES + 1))
        for _ in range(steps):
            batch = draws.integers(0, IMAGES, (count, batch_size))
            x = loss.x[batch]
            p = np.exp(x @ theta.transpose(0, 2, 1))
            p = p / (1 + p.sum(axis=2, keepdims=True)) - loss.truth[batch]
            theta = theta - LR * (p.transpose(0, 2, 1) @ x / batch_size + 0.1 * theta)
        return theta

    return {
        "simulate": lambda: clocked(lambda: simulate(spec, arrays=arrays), chains),
        "loop": lambda: clocked(lambda: hand(chains, STEPS), chains),
        "loop, all at once": lambda: clocked(lambda: hand(chains * CHUNKS, STEPS // CHUNKS), chains),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = []
    print(f"{'potential':<26}{'beta':>6}{'simulate (ns)':>15}{'loop (ns)':>12}{'ratio':>8}{f'<= {BOUND}':>8}"
          f"{'all at once (ns)':>18}{'ratio':>8}")  # fmt: skip
    found: list[tuple[str, float, dict[str, Callable[[], float]]]] = []
    for name, (potential, gradient, chains) in CASES.items():
        theta = np.random.default_rng(0).standard_normal((100, potential.dim))
        np.testing.assert_allclose(gradient(theta), potential.gradient(theta), rtol=1e-12, atol=1e-12)
        found += [(name, momentum, candidates(potential, gradient, momentum, chains)) for momentum in (0.0, 0.9)]
    found += [(f"minibatches, S = {size}", 0.0, minibatches(size)) for size in (2, 8, 32)]
    for name, momentum, runs in found:
        times = interleaved(runs, options.rounds)
        row = {"potential": name, "momentum": momentum, "bound": BOUND}
        row |= {f"{key} (ns)": round(1e9 * statistics.median(values), 1) for key, values in times.items()}
        for other in ("loop", "loop, all at once"):
            ratios = [a / b for a, b in zip(times["simulate"], times[other])]
            row[f"over {other}"] = round(statistics.median(ratios), 2)
        row["within"] = row["over loop"] <= BOUND
        rows.append(row)
        print(f"{name:<26}{momentum:>6}{row['simulate (ns)']:>15}{row['loop (ns)']:>12}{row['over loop']:>8}"
              f"{'yes' if row['within'] else 'NO':>8}{row['loop, all at once (ns)']:>18}"
              f"{row['over loop, all at once']:>8}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"numpy": np.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
