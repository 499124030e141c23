"""Section 3, equations 15 and 16. At equal eta/S, trajectories coincide in t·eta, not in the number of steps.

SGD from one starting point on an anharmonic loss at several eta and the same n = eta/S. Claims: mean and spread of the
chains follow one curve of t_eta as eta gets small, and different curves of the step.

    python reproduce/time_rescaling.py
    python reproduce/time_rescaling.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from itertools import pairwise
from typing import Any

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.theory.potentials import Quartic
from three_factors.reproduce.theory.simulation import Gaussian, Simulation

POTENTIAL, N, SIGMA, START = Quartic(stiffness=1.0, quartic=0.2), 0.01, 4.0, 2.0
BATCH_SIZES = {"smoke": (1, 8), "quick": (1, 2, 4, 8), "paper": (1, 2, 4, 8, 16)}
CHAINS = {"smoke": 200, "quick": 10_000, "paper": 100_000}
POINTS, LENGTH = 25, 4.0  # records, to a t_eta of 4
# Of the largest gap of means and spreads, in θ. The exact law of SGD (its transition density iterated on a grid, no
# chains) has at equal t_eta 0.007, 0.014 and 0.031 between eta and 2 eta, eta from 0.01 on, and 1.2 at equal steps: an
# eta of 0.01 is small enough for the first bound. Chance moves the smallest by 0.003 at 40 000 chains.
TOGETHER, APART, SMALLEST = 0.02, 0.2, 0.1


def simulations(scale: Scale) -> dict[str, Simulation]:
    found = {}
    for size in BATCH_SIZES[scale]:
        lr = N * size
        record = tuple(sorted({round(LENGTH * i / POINTS / lr) for i in range(POINTS + 1)}))
        found[f"eta {lr:g}, S {size}"] = Simulation(
            POTENTIAL, lr, size, Gaussian(SIGMA), record[-1], record, (START,), CHAINS[scale]
        )
    return found


Curves = dict[str, tuple[np.ndarray, ...]]
EVERYONE = slice(None)


def curves(chains: Chains, used: np.ndarray | slice = EVERYONE) -> Curves:
    """Returns label -> (steps, t_eta, mean and standard deviation of θ), each (records,)."""
    found: Curves = {}
    for label, samples in chains.samples.items():
        spec, theta = chains.specs[label], samples[:, used, 0]
        steps = np.array(spec.record, dtype=float)
        found[label] = (steps, steps * spec.lr, theta.mean(axis=1), theta.std(axis=1))
    return found


def halves(chains: Chains, used: np.ndarray) -> list[Curves]:
    """Returns `curves` of every other chain, and of the rest."""
    odd = np.arange(len(used)) % 2 == 1
    return [curves(chains, used & half) for half in (odd, ~odd)]


def sup_distance(both: list[Curves], one: str, other: str, *, against: int) -> float:
    """Returns the largest gap of means and of deviations between two labels, in θ, where both are known; of `halves`.

    Where it lies is looked up in one half of the chains, and how large it is there in the other: the largest of many
    noisy gaps of the same chains would be too large.
    """
    gaps = []
    for found in both:
        x, y = found[one][against], found[other][against]
        at = np.linspace(0, min(x[-1], y[-1]), 4 * POINTS)
        pair = zip(found[one][2:], found[other][2:])
        gaps.append(np.concatenate([np.interp(at, x, a) - np.interp(at, y, b) for a, b in pair]))
    largest = [int(np.abs(gap).argmax()) for gap in gaps]
    return float(np.mean([np.sign(gap[i]) * rest[i] for gap, rest, i in zip(gaps, gaps[::-1], largest)]))


STEP, TIME = 0, 1


def check(chains: Chains) -> list[claims.Finding]:
    labels = chains.labels
    count = chains.samples[labels[0]].shape[1]

    def estimate(a: int, b: int, against: int) -> chainwise.OverChains:
        """Returns the sup distance with its jackknife standard error."""

        def distance(used: np.ndarray) -> float:
            return sup_distance(halves(chains, used), labels[a], labels[b], against=against)

        return chainwise.jackknife(distance, count)

    def pairs(used: np.ndarray) -> np.ndarray:
        both = halves(chains, used)
        return np.array([sup_distance(both, *pair, against=TIME) for pair in pairwise(labels)])

    etas = [chains.specs[label].lr for label in labels[:-1]]
    coincide = claims.Statement(
        "together",
        "the trajectories of the two smallest eta coincide in t_eta",
        "largest gap of means and spreads of θ at equal t_eta",
    )
    differ = claims.Statement(
        "apart", "the smallest and the largest eta differ at equal steps", "the same gap at equal steps"
    )
    vanishes = claims.Statement("slope", "the gap at equal t_eta, of eta and 2 eta, vanishes as eta", "the gap on eta")
    far = chainwise.Direction(1, smallest=SMALLEST, null=APART)
    found = [
        claims.Finding(coincide, chainwise.Range(-1.0, TOGETHER), estimate(0, 1, TIME)),
        claims.Finding(differ, far, estimate(0, -1, STEP)),
    ]
    if len(etas) > 1:
        found.append(chainwise.exponent(vanishes, etas, pairs, count))
    return found


def draw(chains: Chains, axes: Any) -> None:
    panels = axes(1, 2, sharey=True)
    for (label, curve), colour in zip(curves(chains).items(), plots.shades(chains.labels).values()):
        mean, spread = curve[2], curve[3]
        for panel, against in zip(panels, (TIME, STEP)):
            panel.plot(curve[against], mean, color=colour, label=label)
            panel.fill_between(curve[against], mean - spread, mean + spread, color=colour, alpha=0.08, linewidth=0)
    panels[0].set(xlabel="t·η (sum of η over the steps)", ylabel="θ: mean ± spread of the chains", title="equal t_eta")
    panels[1].set(xlabel="steps", title="equal steps", xlim=(0, LENGTH / N / 4))
    for panel in panels:
        plots.legend_below(panel, columns=2)


THEORY = Theory(
    name="time_rescaling",
    title="At equal eta/S, trajectories coincide in t·eta",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 10, "paper": 16},
    check=check,
    draw=draw,
    formulas=(r"\mathrm{d}\theta = -\nabla L\,\mathrm{d}t + \sqrt{n}\,\sigma\,\mathrm{d}W, \quad t = \sum_k \eta_k",),
)

if __name__ == "__main__":
    main(THEORY)
