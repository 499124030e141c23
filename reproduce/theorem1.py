"""Theorem 1. With isotropic noise SGD ends in the Gibbs distribution, at a temperature set by eta/S and the variance.

SGD on a loss with one anharmonic minimum, at several eta and the same n = eta/S, against exact quadrature. Claim: the
distance from Gibbs vanishes as eta, so that in the limit only n sigma^2 is left.

    python reproduce/theorem1.py
    python reproduce/theorem1.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from reproduce.engine.simulated import Theory, main
from reproduce.theory import gibbs
from reproduce.theory.potentials import Quartic
from reproduce.theory.simulate import Gaussian, Simulation

POTENTIAL, N, SIGMA = Quartic(stiffness=1.0, quartic=1.0), 0.01, 10.0  # T = n sigma^2/2 = 0.5
BATCH_SIZES = {"smoke": (8, 32), "quick": (4, 8, 16, 32), "paper": (2, 4, 8, 16, 32)}
CHAINS = {"smoke": 200, "quick": 10_000, "paper": 100_000}
BURN_IN, APART, RECORDS = 8.0, 3.0, 12  # in t_eta; the slowest relaxation takes 1


def simulations(scale):
    found = {}
    for size in BATCH_SIZES[scale]:
        lr = N * size
        record = tuple(round((BURN_IN + APART * i) / lr) for i in range(RECORDS if scale != "smoke" else 2))
        found[f"eta {lr:g}, S {size}"] = Simulation(
            POTENTIAL, lr, size, Gaussian(SIGMA), record[-1], record, "gibbs", CHAINS[scale]
        )
    return found


def distances(chains, used):
    """Of every eta (k,): relative bias of <θ^2> and of <L>, and the largest gap of distribution functions."""
    import numpy as np

    t = N * SIGMA**2 / 2
    squares, loss = gibbs.mean_of(POTENTIAL, t, np.square), gibbs.mean_loss(POTENTIAL, t)
    x, c = gibbs.cumulative(POTENTIAL, t)
    found: dict[str, list[float]] = {"<θ²>": [], "<L>": [], "KS": []}
    for samples in chains.samples.values():
        theta = samples[:, used].reshape(-1, 1)
        found["<θ²>"].append(abs(np.square(theta).mean() / squares - 1))
        found["<L>"].append(abs(POTENTIAL.loss(theta).mean() / loss - 1))
        ordered = np.sort(theta[:, 0])
        steps = np.arange(len(ordered) + 1) / len(ordered)
        expected = np.interp(ordered, x, c)
        found["KS"].append(max(np.abs(steps[1:] - expected).max(), np.abs(steps[:-1] - expected).max()))
    return {name: np.array(values) for name, values in found.items()}


def check(chains):
    from reproduce.engine import chainwise

    etas = [spec.lr for spec in chains.specs.values()]
    count = next(iter(chains.samples.values())).shape[1]
    words = {"<θ²>": "bias of <θ²>", "<L>": "bias of the mean loss", "KS": "Kolmogorov-Smirnov distance"}

    def of(name):
        return lambda used: distances(chains, used)[name]

    return [
        chainwise.exponent(
            etas, of(name), count, 1.0, claim=f"the {text} from Gibbs vanishes as eta", statistic=f"{text} on eta"
        )
        for name, text in words.items()
    ]


def draw(chains, axes):
    import numpy as np

    from reproduce.engine import plots

    a, b = axes(1, 2)
    x, p = gibbs.density(POTENTIAL, N * SIGMA**2 / 2)
    near = np.abs(x) < 3
    for (label, samples), colour in zip(chains.samples.items(), plots.shades(list(chains.samples)).values()):
        a.hist(samples.ravel(), bins=80, range=(-3, 3), density=True, histtype="step", color=colour, label=label)
    a.plot(x[near], p[near], color=plots.RED, linewidth=1.0, label="Gibbs, exp(-2L/nσ²)")
    a.set(xlabel="θ", ylabel="density", title=f"n = η/S = {N:g}, σ = {SIGMA:g}")
    plots.legend_below(a, columns=3)
    etas = [spec.lr for spec in chains.specs.values()]
    everyone = np.ones(next(iter(chains.samples.values())).shape[1], dtype=bool)
    for (name, values), colour in zip(distances(chains, everyone).items(), (plots.BLUE, plots.ORANGE, plots.GREEN)):
        b.plot(etas, values, marker="o", markersize=4, color=colour, label=name)
    b.plot(etas, np.array(etas) * 0.5, color=plots.GREY, linewidth=0.8, linestyle=":", label="slope 1")
    b.set(xlabel="η, at equal η/S", ylabel="distance from Gibbs", title="bias of moments, KS distance")
    plots.log_scale(b.xaxis)
    plots.log_scale(b.yaxis)
    plots.legend_below(b, columns=4)


THEORY = Theory(
    name="theorem1",
    title="SGD with isotropic noise ends in the Gibbs distribution",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 4, "paper": 16},
    check=check,
    draw=draw,
    formulas=(r"P(\theta) \propto \exp\left(-\frac{2 L(\theta)}{n \sigma^2}\right), \quad n = \frac{\eta}{S}",),
)

if __name__ == "__main__":
    main(THEORY)
