"""Section 3, equations 15 and 16. At equal eta/S, trajectories coincide in t·eta, not in the number of steps.

SGD from one starting point on an anharmonic loss at several eta and the same n = eta/S. Claims: mean and spread of the
chains follow one curve of t_eta as eta gets small, and different curves of the step.

    python reproduce/time_rescaling.py
    python reproduce/time_rescaling.py --seeds 16
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from reproduce.engine.simulated import Theory, main
from reproduce.theory.potentials import Quartic
from reproduce.theory.simulate import Gaussian, Simulation

POTENTIAL, N, SIGMA, START = Quartic(stiffness=1.0, quartic=0.2), 0.01, 4.0, 2.0
BATCH_SIZES = {"smoke": (1, 8), "quick": (1, 2, 4, 8), "paper": (1, 2, 4, 8, 16)}
CHAINS = {"smoke": 200, "quick": 10_000, "paper": 100_000}
POINTS, LENGTH = 25, 4.0  # records, to a t_eta of 4


def simulations(scale):
    found = {}
    for size in BATCH_SIZES[scale]:
        lr = N * size
        record = tuple(sorted({round(LENGTH * i / POINTS / lr) for i in range(POINTS + 1)}))
        found[f"eta {lr:g}, S {size}"] = Simulation(
            POTENTIAL, lr, size, Gaussian(SIGMA), record[-1], record, (START,), CHAINS[scale]
        )
    return found


def curves(chains, used=slice(None)):
    """label -> (steps, t_eta, mean of θ, standard deviation of θ), each (records,)."""
    import numpy as np

    found = {}
    for label, samples in chains.samples.items():
        spec, theta = chains.specs[label], samples[:, used, 0]
        steps = np.array(spec.record, dtype=float)
        found[label] = (steps, steps * spec.lr, theta.mean(axis=1), theta.std(axis=1))
    return found


def sup_distance(one, other, *, against):
    """The largest gap of the means of θ and of its deviations, where both are known."""
    import numpy as np

    x, y = one[against], other[against]
    at = np.linspace(0, min(x[-1], y[-1]), 4 * POINTS)
    gaps = [np.abs(np.interp(at, x, one[i]) - np.interp(at, y, other[i])).max() for i in (2, 3)]
    return max(gaps)


STEP, TIME = 0, 1


def check(chains):
    import numpy as np

    from reproduce.engine import chainwise

    labels = chains.labels
    count = chains.samples[labels[0]].shape[1]

    def estimate(a, b, against):
        """Sup distance and its jackknife standard error."""

        def distance(used):
            found = curves(chains, used)
            return sup_distance(found[labels[a]], found[labels[b]], against=against)

        return chainwise.jackknife(distance, count)

    def pairs(used):
        found = curves(chains, used)
        return np.array([
            sup_distance(found[labels[i]], found[labels[i + 1]], against=TIME) for i in range(len(labels) - 1)
        ])  # fmt: skip

    together, error = estimate(0, 1, TIME)
    apart, error_apart = estimate(0, -1, STEP)
    etas = [chains.specs[label].lr for label in labels[:-1]]
    found = [
        chainwise.between(
            together, error, -1.0, 0.02, count, claim="the trajectories of the two smallest eta coincide in t_eta",
            statistic="largest gap of means and spreads at equal t_eta",
        ),
        chainwise.above(
            apart, error_apart, 0.2, count, smallest=0, claim="the smallest and the largest eta differ at equal steps",
            statistic="the same gap at equal steps",
        ),
    ]  # fmt: skip
    if len(etas) > 1:
        found.append(
            chainwise.exponent(
                etas, pairs, count, 1.0, claim="the gap at equal t_eta, of eta and 2 eta, vanishes as eta",
                statistic="the gap on eta",
            )
        )  # fmt: skip
    return found


def draw(chains, axes):
    from reproduce.engine import plots

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
    seeds={"smoke": 1, "quick": 4, "paper": 16},
    check=check,
    draw=draw,
    formulas=(r"\mathrm{d}\theta = -\nabla L\,\mathrm{d}t + \sqrt{n}\,\sigma\,\mathrm{d}W, \quad t = \sum_k \eta_k",),
)

if __name__ == "__main__":
    main(THEORY)
