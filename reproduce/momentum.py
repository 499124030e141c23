"""Appendix E, corrected. Momentum beta acts as the noise n/(1 - beta), and not only as a rate.

SGD with momentum on an anharmonic loss, against Gibbs at n and at n/(1 - beta), and on a quadratic against the exact
variance. Claims: the mean of θ² is Gibbs' at n/(1 - beta) as eta gets small, and not Gibbs' at n.

    python reproduce/momentum.py
    python reproduce/momentum.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from reproduce.engine.simulated import Theory, main
from reproduce.theory import gibbs
from reproduce.theory.potentials import Quadratic, Quartic
from reproduce.theory.simulate import Gaussian, Simulation

ANHARMONIC, H, SIGMA = Quartic(stiffness=1.0, quartic=1.0), 1.0, 45.0
BETAS, LR, S = (0.5, 0.9, 0.97), 0.002, 4  # eta so small that its own bias is below a percent
CHAINS = {"smoke": 200, "quick": 10_000, "paper": 100_000}
BURN_IN, APART, RECORDS = 8.0, 3.0, 6  # in relaxation times


def name(kind, beta):
    return f"{kind}, beta {beta:g}"


def simulations(scale):
    found = {}
    for beta in BETAS:
        size = round(S / (1 - beta))  # n/(1 - beta) is the same for every beta
        relaxation = max((1 - beta) / LR, 2 / (1 - beta))  # steps: of θ, or where that swings, of the velocity
        record = tuple(round((BURN_IN + APART * i) * relaxation) for i in range(RECORDS if scale != "smoke" else 2))
        for kind, potential in (("anharmonic", ANHARMONIC), ("quadratic", Quadratic(((H,),)))):
            found[name(kind, beta)] = Simulation(
                potential, LR, size, Gaussian(SIGMA), record[-1], record, "gibbs", CHAINS[scale], momentum=beta
            )
    return found


def check(chains):
    import numpy as np

    from reproduce.engine import chainwise

    found = []
    for beta in BETAS:
        spec = chains.specs[name("quadratic", beta)]
        squares = np.square(chains.samples[name("quadratic", beta)][:, :, 0]).mean(axis=0)
        found.append(
            chainwise.equal(
                squares, gibbs.sgd_variance(H, LR, spec.batch_size, SIGMA, beta), 0.01, statistic="<θ²>",
                claim=f"the exact variance on a quadratic, beta = {beta:g}",
            )
        )  # fmt: skip
        squares = np.square(chains.samples[name("anharmonic", beta)][:, :, 0]).mean(axis=0)
        right = gibbs.mean_of(ANHARMONIC, spec.temperature, np.square)
        wrong = gibbs.mean_of(ANHARMONIC, gibbs.temperature(LR, spec.batch_size, SIGMA), np.square)
        found += [
            chainwise.equal(
                squares, right, 0.01, statistic="<θ²>",
                claim=f"Gibbs at n/(1 - beta) on the anharmonic loss, beta = {beta:g}",
            ),
            chainwise.above(
                float(squares.mean() / wrong), float(squares.std(ddof=1) / wrong / len(squares) ** 0.5), 1.2,
                len(squares), smallest=0.1, claim=f"not Gibbs at n, beta = {beta:g}",
                statistic="<θ²> over that of Gibbs at n",
            ),
        ]  # fmt: skip
    return found


def draw(chains, axes):
    import numpy as np

    from reproduce.engine import plots

    for panel, beta in zip(axes(1, len(BETAS), sharey=True), BETAS):
        label = name("anharmonic", beta)
        spec = chains.specs[label]
        values, style = chains.samples[label].ravel(), {"color": plots.BLUE, "alpha": 0.35}
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
