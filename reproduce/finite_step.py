"""Section 4.4. Where the theory ends: at large eta SGD's variance exceeds Gibbs', and at eta h = 2 it has none.

SGD on a quadratic of curvature h, with and without momentum. Claims: the variance is exactly n sigma^2/(h (2 - eta h))
(with momentum its generalisation), and it diverges from eta h = 2 (1 + beta) on.
One start will do: on a quadratic it is forgotten at a known rate, and chains are read several relaxation times later.

    python reproduce/finite_step.py
    python reproduce/finite_step.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulation import Gaussian, Simulation

H, SIGMA, S = 1.0, 1.0, 4
STEPS = {0.0: (0.1, 0.5, 1.0, 1.5, 1.9), 0.9: (0.1, 1.0, 2.0, 3.0, 3.6)}  # beta -> eta h
BEYOND = {0.0: 2.02, 0.9: 3.81}  # so little that no chain is beyond what can be stored at the last record
CHAINS = {"smoke": 500, "quick": 20_000, "paper": 200_000}
BURN_IN, RECORDS = 400, 10
GROWTH = 0.01  # of log |θ| a step, the smallest of interest: half of what the recursion gives at eta h = 2.02


def name(beta: float, lr: float) -> str:
    return f"beta {beta:g}, eta h {lr * H:g}"


def simulations(scale: Scale) -> dict[str, Simulation]:
    found, records = {}, 2 if scale == "smoke" else RECORDS
    for beta, etas in STEPS.items():
        apart = 60 if beta else 30  # steps: several relaxation times of the variance
        for lr in (*etas, BEYOND[beta]):
            record = tuple(BURN_IN + apart * i for i in range(records))
            found[name(beta, lr)] = Simulation(
                Quadratic(((H,),)), lr, S, Gaussian(SIGMA), record[-1], record, (0.0,), CHAINS[scale], momentum=beta
            )
    return found


def check(chains: Chains) -> list[claims.Finding]:
    found = []
    for beta, etas in STEPS.items():
        for lr in etas:
            squares = np.square(chains.samples[name(beta, lr)][:, :, 0]).mean(axis=0)  # of every chain
            exact = claims.Statement(
                f"variance.beta_{claims.key(beta)}.step_{claims.key(lr * H)}",
                f"the exact variance at eta h = {lr * H:g}, beta = {beta:g}",
                "<θ²>",
            )
            found.append(chainwise.equal(exact, squares, gibbs.sgd_variance(H, lr, S, SIGMA, beta), 0.01))
        edge = BEYOND[beta]
        samples, spec = chains.samples[name(beta, edge)][:, :, 0], chains.specs[name(beta, edge)]
        growth = np.log(np.abs(samples[-1]) / np.abs(samples[0])) / (spec.record[-1] - spec.record[0])
        diverges = claims.Statement(
            f"divergence.beta_{claims.key(beta)}",
            f"divergence at eta h = {edge * H:g}, beyond 2 (1 + beta) for beta = {beta:g}",
            "growth of log |θ| a step",
        )
        mean, spread = float(growth.mean()), float(growth.std(ddof=1)) / len(growth) ** 0.5
        rule = chainwise.Direction(1, smallest=GROWTH)
        found.append(chainwise.over_chains(diverges, mean, spread, rule, len(growth)))
    return found


def draw(chains: Chains, axes: Any) -> None:
    for panel, (beta, etas) in zip(axes(1, len(STEPS)), STEPS.items()):
        edge = 2 * (1 + beta)
        eta = np.linspace(0.02, edge * 0.99, 400)
        n = eta / S / (1 - beta)
        panel.plot(eta * H, [gibbs.sgd_variance(H, e, S, SIGMA, beta) for e in eta], color=plots.BLUE, label="exact")
        panel.plot(eta * H, n * SIGMA**2 / (2 * H), color=plots.RED, linestyle=(0, (4, 2)), label="Gibbs, nσ²/2h")
        measured = [np.square(chains.samples[name(beta, lr)]).mean() for lr in etas]
        panel.scatter([lr * H for lr in etas], measured, s=24, color=plots.ORANGE, zorder=3, label="SGD")
        panel.axvline(edge, color=plots.GREY, linewidth=0.9, linestyle=":", label=f"η h = {edge:g}")
        panel.set(xlabel="η h", ylabel="stationary variance of θ", title=f"momentum {beta:g}")
        plots.log_scale(panel.yaxis)
        plots.legend_below(panel, columns=4)


THEORY = Theory(
    name="finite_step",
    title="SGD's variance at finite steps, and where it diverges",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 2, "paper": 8},
    check=check,
    draw=draw,
    formulas=(
        r"\langle\theta^2\rangle = \frac{n\sigma^2}{h\,(2-\eta h)}",
        r"\langle\theta^2\rangle = \frac{\eta\sigma^2}{S}\,\frac{1+\beta}{h\,(1-\beta)\,(2(1+\beta)-\eta h)}",
    ),
)

if __name__ == "__main__":
    main(THEORY)
