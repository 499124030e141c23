"""Appendix E, corrected. Momentum beta acts as the noise n/(1 - beta), and not only as a rate.

SGD with momentum on an anharmonic loss, against Gibbs at n and at n/(1 - beta), and on a quadratic against the exact
variance. Claims: the mean of θ² is Gibbs' at n/(1 - beta) as eta gets small, and not Gibbs' at n. Chains start from
Gibbs and from the minimum, and must agree.

    python reproduce/momentum.py
    python reproduce/momentum.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from typing import Any, Literal

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.potentials import Quadratic, Quartic
from three_factors.reproduce.theory.simulation import Gaussian, Simulation

ANHARMONIC, H, SIGMA = Quartic(stiffness=1.0, quartic=1.0), 1.0, 45.0
BETAS, LR, S = (0.5, 0.9, 0.97), 0.002, 4  # eta so small that its own bias is below a percent
STARTS: dict[str, Literal["gibbs"] | tuple[float, ...]] = {"Gibbs": "gibbs", "the minimum": (0.0,)}
MARGIN = 0.01  # of <θ²> over theory, for the claims and for the agreement of the starts
# From each start: so many that starts which agree are seen to; their difference is known to 0.002.
CHAINS = {"smoke": 100, "quick": 20_000, "paper": 50_000}
BURN_IN, APART, RECORDS = 8.0, 1.5, 12  # in relaxation times of θ; those of θ² are half as long


def name(kind: str, beta: float, start: str) -> str:
    return f"{kind}, beta {beta:g}, from {start}"


def simulations(scale: Scale) -> dict[str, Simulation]:
    found = {}
    for beta in BETAS:
        size = round(S / (1 - beta))  # n/(1 - beta) is the same for every beta
        relaxation = max((1 - beta) / LR, 2 / (1 - beta))  # steps: of θ, or where that swings, of the velocity
        record = tuple(round((BURN_IN + APART * i) * relaxation) for i in range(RECORDS if scale != "smoke" else 2))
        potentials: dict[str, Quartic | Quadratic] = {"anharmonic": ANHARMONIC, "quadratic": Quadratic(((H,),))}
        for kind, potential in potentials.items():
            for words, start in STARTS.items():
                found[name(kind, beta, words)] = Simulation(
                    potential, LR, size, Gaussian(SIGMA), record[-1], record, start, CHAINS[scale], momentum=beta
                )
    return found


def squares(chains: Chains, kind: str, beta: float, theory: float) -> dict[str, np.ndarray]:
    """Returns start -> θ^2 of every chain over its theory, mean over the records, (chains,)."""
    return {
        start: np.square(chains.samples[name(kind, beta, start)][:, :, 0]).mean(axis=0) / theory for start in STARTS
    }


def check(chains: Chains) -> list[claims.Finding]:
    found: list[claims.Finding] = []
    for beta in BETAS:
        spec = chains.specs[name("quadratic", beta, "Gibbs")]
        of_start = squares(chains, "quadratic", beta, gibbs.sgd_variance(H, LR, spec.batch_size, SIGMA, beta))
        key = f"beta_{claims.key(beta)}"
        exact = claims.Statement(f"quadratic.{key}", f"the exact variance on a quadratic, beta = {beta:g}", "<θ²>")
        judged = [chainwise.equal(exact, np.concatenate([*of_start.values()]), 1.0, MARGIN)]
        found += chainwise.unless_mixed(judged, of_start, MARGIN)

        right = gibbs.mean_of(ANHARMONIC, spec.temperature, np.square)
        wrong = gibbs.mean_of(ANHARMONIC, gibbs.temperature(LR, spec.batch_size, SIGMA), np.square)
        of_start = squares(chains, "anharmonic", beta, right)
        everyone = np.concatenate([*of_start.values()])
        error = float(everyone.std(ddof=1)) / len(everyone) ** 0.5
        at_effective = claims.Statement(
            f"effective.{key}", f"Gibbs at n/(1 - beta) on the anharmonic loss, beta = {beta:g}", "<θ²>"
        )
        not_at_n = claims.Statement(
            f"not_at_n.{key}", f"not Gibbs at n, beta = {beta:g}", "<θ²> over that of Gibbs at n"
        )
        ratio, beyond = right / wrong, chainwise.Direction(1, smallest=0.1, null=1.2)
        judged = [
            chainwise.equal(at_effective, everyone, 1.0, MARGIN),
            chainwise.over_chains(not_at_n, float(everyone.mean()) * ratio, error * ratio, beyond, len(everyone)),
        ]
        found += chainwise.unless_mixed(judged, of_start, MARGIN)
    return found


def draw(chains: Chains, axes: Any) -> None:
    for panel, beta in zip(axes(1, len(BETAS), sharey=True), BETAS):
        labels = [name("anharmonic", beta, start) for start in STARTS]
        spec = chains.specs[labels[0]]
        values = np.concatenate([chains.samples[label].ravel() for label in labels])
        style: dict[str, Any] = {"color": plots.BLUE, "alpha": 0.35}
        panel.hist(values, bins=80, range=(-2.5, 2.5), density=True, label="SGD with momentum", **style)
        for t, colour, words in (
            (spec.temperature, plots.RED, "Gibbs at n/(1-β)"),
            (gibbs.temperature(LR, spec.batch_size, SIGMA), plots.GREY, "Gibbs at n"),
        ):
            x, p = gibbs.density(ANHARMONIC, t)
            near = np.abs(x) < 2.5
            panel.plot(x[near], p[near], color=colour, label=words)
        panel.set(xlabel="θ", ylabel="density", title=f"β = {beta:g}")
        panel.label_outer()
        plots.legend_below(panel, columns=3)


THEORY = Theory(
    name="momentum",
    title="Momentum acts as the noise n/(1 - beta)",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 4, "paper": 16},
    check=check,
    draw=draw,
    formulas=(
        r"P(\theta, v) \propto \exp\left(-\frac{2\mu S}{\eta^2\sigma^2}\left(\frac{|v|^2}{2} + \eta L\right)\right)",
        r"P(\theta) \propto \exp\left(-\frac{2\mu L}{n\sigma^2}\right), \quad \mu = 1-\beta",
    ),
)

if __name__ == "__main__":
    main(THEORY)
