"""Theorem 1. With isotropic noise SGD ends in the Gibbs distribution, at a temperature set by eta/S and the variance.

SGD on a loss with one anharmonic minimum, at several eta and the same n = eta/S, against exact quadrature. Claim: the
distance from Gibbs vanishes as eta, so that in the limit only n sigma^2 is left. Chains start from Gibbs and from the
minimum, and must agree.

    python reproduce/theorem1.py
    python reproduce/theorem1.py --seeds 16
"""

from functools import cache
from typing import Any

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from reproduce.engine.simulated import Theory, main
from reproduce.theory import gibbs
from reproduce.theory.potentials import Quartic
from reproduce.theory.simulate import Gaussian, Simulation

# T = n sigma^2/2 = 0.5; the largest eta is stable as far out as chains come in 34 T of loss.
POTENTIAL, N, SIGMA = Quartic(stiffness=1.0, quartic=0.3), 0.01, 10.0
BATCH_SIZES = {"smoke": (4, 8), "quick": (1, 2, 4, 8, 16), "paper": (1, 2, 4, 8, 16)}
STARTS: dict[str, Any] = {"Gibbs": "gibbs", "the minimum": (0.0,)}
CHAINS = {"smoke": 200, "quick": 30_000, "paper": 150_000}  # from each start: so many that the slopes are known to 0.2
MIXED = 0.005  # of <θ²> over theory, by which starts may differ: the bias at the smallest eta is as large
BURN_IN, APART, RECORDS = 8.0, 3.0, 16  # in t_eta; the slowest relaxation takes 1
# The exact stationary law (iterating the transition density on a grid) has slopes of 1.02 to 1.03 over eta up to 0.08
# and 1.05 to 1.06 from 0.02 to 0.16: what is linear in eta is seen below 0.1. The gap of the distribution functions is
# known to 0.0004 from a million samples, half of what it is at eta = 0.02: it is followed from 0.04 on.
LARGEST_FOR_MOMENTS, SMALLEST_FOR_GAP = 0.1, 0.03
NAMES = ("<θ²>", "<L>", "gap")
BINS = 4000  # of θ, where the gap is looked for


def simulations(scale):
    found = {}
    for size in BATCH_SIZES[scale]:
        lr = N * size
        record = tuple(round((BURN_IN + APART * i) / lr) for i in range(RECORDS if scale != "smoke" else 2))
        for words, start in STARTS.items():
            found[name(lr, words)] = Simulation(
                POTENTIAL, lr, size, Gaussian(SIGMA), record[-1], record, start, CHAINS[scale]
            )
    return found


def name(lr, start):
    return f"eta {lr:g}, from {start}"


def etas(chains):
    return sorted({spec.lr for spec in chains.specs.values()})


@cache
def pooled(chains, lr):
    """θ of the chains from both starts, (records, chains)."""
    import numpy as np

    return np.concatenate([chains.samples[name(lr, start)][:, :, 0] for start in STARTS], axis=1)


def distances(chains, used, names=NAMES):
    """Of every eta (k,): relative bias of <θ^2> and of <L>, and the largest gap of distribution functions."""
    import numpy as np

    t = N * SIGMA**2 / 2
    squares, loss = gibbs.mean_of(POTENTIAL, t, np.square), gibbs.mean_loss(POTENTIAL, t)
    x, c = gibbs.cumulative(POTENTIAL, t)
    samples = [pooled(chains, lr)[:, used] for lr in etas(chains)]
    edges = np.linspace(x[0], x[-1], BINS + 1)
    expected = np.interp(edges[1:], x, c)
    largest = samples[-1]
    # Chance adds to the largest of many gaps. To first order they are eta times one function of θ, so the place of the
    # largest is found at the largest eta, where chance is a thirtieth of it, and all are taken there.
    place = int(np.abs(np.cumsum(np.histogram(largest, BINS, (x[0], x[-1]))[0]) / largest.size - expected).argmax())

    measures = {
        "<θ²>": lambda theta: abs(np.square(theta).mean() / squares - 1),
        "<L>": lambda theta: abs(POTENTIAL.loss(theta.reshape(-1, 1)).mean() / loss - 1),
        "gap": lambda theta: abs((theta <= edges[place + 1]).mean() - expected[place]),
    }
    return {name: np.array([measures[name](theta) for theta in samples]) for name in names}


def check(chains):
    import numpy as np

    from reproduce.engine import chainwise

    lrs = np.array(etas(chains))
    count = pooled(chains, lrs[0]).shape[1]
    words = {"<θ²>": "bias of <θ²>", "<L>": "bias of the mean loss", "gap": "gap of the distribution functions"}

    found = []
    for kind, text in words.items():
        followed = lrs > SMALLEST_FOR_GAP if kind == "gap" else lrs < LARGEST_FOR_MOMENTS

        def distance(used, kind=kind, followed=followed):
            return distances(chains, used, (kind,))[kind][followed]

        found.append(
            chainwise.exponent(
                lrs[followed], distance, count, 1.0, claim=f"the {text} from Gibbs vanishes as eta",
                statistic=f"{text} on eta",
            )
        )  # fmt: skip
    squares = gibbs.mean_of(POTENTIAL, N * SIGMA**2 / 2, np.square)
    for lr in lrs:
        of_start = {start: np.square(chains.samples[name(lr, start)][:, :, 0]).mean(axis=0) for start in STARTS}
        found = chainwise.unless_mixed(found, {k: v / squares for k, v in of_start.items()}, MIXED)
    return found


def draw(chains, axes):
    import numpy as np

    from reproduce.engine import plots

    a, b = axes(1, 2)
    x, p = gibbs.density(POTENTIAL, N * SIGMA**2 / 2)
    near = np.abs(x) < 3
    for lr, colour in plots.shades(etas(chains)).items():
        style = {"density": True, "histtype": "step", "color": colour}
        a.hist(pooled(chains, lr).ravel(), bins=80, range=(-3, 3), label=f"η {lr:g}", **style)
    a.plot(x[near], p[near], color=plots.RED, linewidth=1.0, label="Gibbs, exp(-2L/nσ²)")
    a.set(xlabel="θ", ylabel="density", title=f"n = η/S = {N:g}, σ = {SIGMA:g}")
    plots.legend_below(a, columns=3)
    lrs = etas(chains)
    everyone = np.ones(pooled(chains, lrs[0]).shape[1], dtype=bool)
    for (kind, values), colour in zip(distances(chains, everyone).items(), (plots.BLUE, plots.ORANGE, plots.GREEN)):
        b.plot(lrs, values, marker="o", markersize=4, color=colour, label=kind)
    b.plot(lrs, np.array(lrs) * 0.5, color=plots.GREY, linewidth=0.8, linestyle=":", label="slope 1")
    b.set(
        xlabel="η, at equal η/S", ylabel="distance from Gibbs", title="bias of moments, gap of distribution functions"
    )
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
