"""Cost of the simulator a step of a chain, as ratios to a bare loop, measured interleaved in one run.

    python tests/benchmarks/simulation.py [--json FILE] [--rounds 7]

Rows: a potential with and without momentum, by `simulate` and by a loop of a few numpy lines with the same arithmetic,
the same generator and the same number of values advanced together; for information also the loop over all chains at
once, whose arrays leave the processor's cache. Each round times every candidate once, in turn; the ratio is the median
over rounds of the ratios within a round.
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

from reproduce.theory.potentials import SWITCH, DoubleWell, Quadratic, Quartic
from reproduce.theory.simulate import CHUNK, Gaussian, Simulation, simulate

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


CASES: dict[str, tuple[Quadratic | Quartic | DoubleWell, Gradient]] = {
    "quartic, q = 1": (Quartic(), quartic),
    "double well, q = 1": (WELL, well),
    "quadratic, q = 10": (TEN, quadratic),
    "double well, q = 10": (WELL_10, well_10),
}


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
    potential: Quadratic | Quartic | DoubleWell, gradient: Gradient, momentum: float
) -> dict[str, Callable[[], float]]:
    dim = potential.dim
    chains = CHUNK // dim
    spec = Simulation(potential, LR, BATCH, Gaussian(SIGMA), STEPS, (STEPS,), (0.0,) * dim, chains, momentum=momentum)

    def clocked(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / (chains * STEPS)

    return {
        "simulate": lambda: clocked(lambda: simulate(spec)),
        "loop": lambda: clocked(lambda: by_hand(gradient, chains, dim, STEPS, momentum)),
        "loop, all at once": lambda: clocked(
            lambda: by_hand(gradient, chains * CHUNKS, dim, STEPS // CHUNKS, momentum)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = []
    print(f"{'potential':<22}{'beta':>6}{'simulate (ns)':>15}{'loop (ns)':>12}{'ratio':>8}{'bound':>8}"
          f"{'all at once (ns)':>18}{'ratio':>8}")  # fmt: skip
    for name, (potential, gradient) in CASES.items():
        theta = np.random.default_rng(0).standard_normal((100, potential.dim))
        np.testing.assert_allclose(gradient(theta), potential.gradient(theta), rtol=1e-12, atol=1e-12)
        for momentum in (0.0, 0.9):
            times = interleaved(candidates(potential, gradient, momentum), options.rounds)
            row = {"potential": name, "momentum": momentum, "bound": BOUND}
            row |= {f"{key} (ns)": round(1e9 * statistics.median(values), 1) for key, values in times.items()}
            for other in ("loop", "loop, all at once"):
                ratios = [a / b for a, b in zip(times["simulate"], times[other])]
                row[f"over {other}"] = round(statistics.median(ratios), 2)
            rows.append(row)
            print(f"{name:<22}{momentum:>6}{row['simulate (ns)']:>15}{row['loop (ns)']:>12}{row['over loop']:>8}"
                  f"{BOUND:>8}{row['loop, all at once (ns)']:>18}{row['over loop, all at once']:>8}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"numpy": np.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
