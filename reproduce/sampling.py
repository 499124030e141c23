"""Finite data. Shuffled epochs make less noise than the theory's independent batches, by far where epochs are short.

SGD on a quadratic with a finite training set of K batches, shuffled every epoch or drawn with replacement. Claims: with
replacement the variance is the theory's; shuffled it falls far below it as eta h K falls below 1, because the gradients
of an epoch are anticorrelated, and comes back to it at large eta h K.
One start will do: on a quadratic it is forgotten at a known rate, and chains are read two relaxation times later.

    python reproduce/sampling.py
    python reproduce/sampling.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from itertools import pairwise
from typing import Any

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulation import Examples, Sampling, Simulation

H, SIGMA, K = 1.0, 1.0, 32  # batches of one example an epoch
LRS = {"smoke": (0.01, 0.3), "quick": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "paper": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)}
CHAINS = {"smoke": 200, "quick": 4_000, "paper": 40_000}
KINDS: tuple[Sampling, ...] = ("replacement", "shuffle")
RISE = 0.02  # of the share of the theory's variance, from one eta to the next: the smallest of interest


def name(kind: str, lr: float) -> str:
    return f"{kind}, eta h K {lr * H * K:g}"


def simulations(scale: Scale) -> dict[str, Simulation]:
    found = {}
    for lr in LRS[scale]:
        epochs = max(2, round(4 / (lr * H * K)))  # of burn-in: two relaxation times of the variance at least
        # Every second position of one epoch: the variance of shuffled SGD depends on where in the epoch it is.
        record = tuple(range(epochs * K + 1, (epochs + 1) * K + 1, 2))
        for kind in KINDS:
            found[name(kind, lr)] = Simulation(
                Quadratic(((H,),)), lr, 1, Examples(K, kind, SIGMA), record[-1], record, (0.0,), CHAINS[scale]
            )
    return found


def ratios(chains: Chains, kind: str, lr: float) -> np.ndarray:
    """Returns θ^2 over the theory's variance, mean over an epoch's positions, of every chain."""
    samples, spec = chains.samples[name(kind, lr)][:, :, 0], chains.specs[name(kind, lr)]
    theory = gibbs.sgd_variance(H, lr, 1, SIGMA) * (1 - (1 - lr * H) ** (2 * spec.record[0]))  # as far as it has come
    return (samples**2).mean(axis=0) / theory


def lrs(chains: Chains) -> list[float]:
    return sorted({spec.lr for spec in chains.specs.values()})


def rises(chains: Chains) -> list[tuple[float, float, int]]:
    """Returns (rise of the shuffled ratio, its standard error, chains) from every eta to the next."""
    values = [ratios(chains, "shuffle", lr) for lr in lrs(chains)]
    return [
        (float(b.mean() - a.mean()), float(a.var() / len(a) + b.var() / len(b)) ** 0.5, len(a))
        for a, b in pairwise(values)
    ]


def check(chains: Chains) -> list[claims.Finding]:
    found = []
    for lr in lrs(chains):
        drawn = ratios(chains, "replacement", lr)
        about = claims.Statement(
            f"replacement.{claims.key(lr * H * K)}",
            f"with replacement the variance is the theory's, eta h K = {lr * H * K:g}",
            "<θ²>",
        )
        found.append(chainwise.equal(about, drawn, 1.0, 0.1))
    for lr, low, high in ((0.01, 0.0, 0.2), (1.0, 0.8, 1.25)):
        if lr in lrs(chains):
            values = ratios(chains, "shuffle", lr)
            words = "a fraction of it" if high < 1 else "nearly the same"
            text = f"shuffled, {words} at eta h K = {lr * K:g}"
            about = claims.Statement(f"shuffle.{claims.key(lr * K)}", text, "<θ²> over theory")
            mean, spread = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
            found.append(chainwise.over_chains(about, mean, spread, chainwise.Range(low, high), len(values)))
    # It rises at every step if every rise is shown alone: the one that is least sure decides (intersection-union).
    value, error, count = min(rises(chains), key=lambda rise: rise[0] / rise[1])
    about = claims.Statement(
        "rises",
        "shuffled, the share of the theory's variance rises with eta h K at every step",
        "rise of <θ²> over theory between neighbouring eta, the smallest in standard errors",
    )
    return [*found, chainwise.over_chains(about, value, error, chainwise.Direction(1, smallest=RISE), count)]


def draw(chains: Chains, axes: Any) -> None:
    (panel,) = axes(1, 1)
    for kind, colour in zip(KINDS, (plots.BLUE, plots.RED)):
        values = [ratios(chains, kind, lr) for lr in lrs(chains)]
        spread = [v.std(ddof=1) / len(v) ** 0.5 for v in values]
        x = [lr * H * K for lr in lrs(chains)]
        words = {"replacement": "with replacement", "shuffle": "shuffled epochs"}[kind]
        panel.errorbar(x, [v.mean() for v in values], spread, marker="o", markersize=4, color=colour, label=words)
    panel.axhline(1, color=plots.GREY, linewidth=0.8)
    panel.set(xlabel="η h K (K steps an epoch)", ylabel="stationary variance over the theory's")
    plots.log_scale(panel.xaxis)
    plots.log_scale(panel.yaxis)
    plots.legend_below(panel, columns=2)


THEORY = Theory(
    name="sampling",
    title="Shuffled epochs make less noise than independent batches",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 4, "paper": 16},
    check=check,
    draw=draw,
    formulas=(r"\langle\theta^2\rangle = \frac{n\sigma^2}{h\,(2-\eta h)}",),
)

if __name__ == "__main__":
    main(THEORY)
