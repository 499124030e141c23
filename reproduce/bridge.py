"""The theory on a real loss. SGD on a small classifier of real images, its noise as it is and made isotropic.

Softmax regression with L2 on images of three classes, thousands of chains of SGD at stationarity, with the noise of
minibatches and with isotropic Gaussian noise of the same trace. Claims: the mean loss lies n tr(C)/4 above its minimum
whatever the noise's shape; the variance of the loss does know the shape, and is Lyapunov's for minibatches and Gibbs',
q T^2/2, for isotropic noise; and sigma^2 = tr(C)/q is constant, as Theorem 1 takes it to be. Shuffled epochs are the
control: the theory is of batches that are drawn with replacement. Two cases calibrate the ruler of rivals.py: SGD's
excess loss goes as eta/S, AdamW's as eta/√S.

    python reproduce/bridge.py
    python reproduce/bridge.py --data-dir /path/to/data --seeds 4
    python reproduce/bridge.py --data digits28
"""

from __future__ import annotations

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from collections.abc import Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import ruler
from three_factors.reproduce.experiments.classified import loss_of, losses, spectrum, traces
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.simulation import Isotropic, Minibatches, Simulation

if TYPE_CHECKING:
    import pandas as pd

# The settings are chosen by time and by what the theory supposes, before any chain was run. The classes are the first
# three. With 256 examples of 11 numbers a full gradient, which the isotropic noise needs, costs 5 µs a chain. With this
# l2 the slowest direction is 6 to 7 times slower than the fastest, so that a run takes 700 steps.
CLASSES, EXAMPLES, FEATURES, L2 = (0, 1, 2), 256, 10, 0.1
# eta h_max = 0.1: a finite step then raises a parameter's variance by 5 % at most. At the smallest batches the excess
# loss is below 4 % of the loss, and a parameter's spread 0.1 of an inverse feature: the loss is nearly quadratic there.
STEP = 0.1
BATCH_SIZES = {"smoke": (8, 32), "quick": (2, 8, 32), "paper": (2, 8, 32)}
# From each start. The loss varies most with minibatches: its variance has to be known to 2 %, or starts which agree are
# not seen to. Isotropic noise takes a full gradient and needs fewer, shuffling is a control.
CHAINS = {
    "smoke": {"replacement": 60, "shuffle": 60, "isotropic": 60},
    "quick": {"replacement": 8_000, "shuffle": 4_000, "isotropic": 4_000},
    "paper": {"replacement": 40_000, "shuffle": 20_000, "isotropic": 20_000},
}
# In relaxation times of the slowest direction, 1/(eta h_min): exp(-12) of zero weights' loss is left, half a percent of
# the smallest excess loss.
BURN_IN, APART, RECORDS = 6.0, 0.5, 8
NOISES: dict[str, Minibatches | Isotropic] = {
    "replacement": Minibatches("replacement"),
    "shuffle": Minibatches("shuffle"),
    "isotropic": Isotropic(),
}
WORDS = {
    "replacement": "minibatches with replacement",
    "shuffle": "minibatches, shuffled epochs",
    "isotropic": "isotropic noise, equal trace",
}
THEORETICAL = ("replacement", "isotropic")  # what the theory is about
FAR = "zero weights"
STARTS = ("the minimum", FAR)
TRAJECTORY = 8  # the batch size whose way from zero weights to the minimum is followed
# Of the mean loss and of its variance, fixed beforehand. The latter goes as the square: what moves the one by 10 %
# (anharmonicity, C that changes with θ, a finite step) moves the other by 20 %, and is outside.
MARGIN = 0.1
MIXED = (0.05, 0.1)  # within which the starts agree in either
SMALLEST = 0.1  # effect of interest, of the noise's shape and of shuffling: what an equivalence here would let pass
CONSTANT = 0.1  # of |d log tr C/d log L|


def name(noise: str, size: int, start: str) -> str:
    return f"{noise}, S {size}, from {start}"


def simulations(scale: Scale, source: Prepared) -> dict[str, Simulation]:
    potential = SoftmaxRegression(source.fingerprint, CLASSES, EXAMPLES, FEATURES, L2)
    loss = potential.on(source.arrays())
    slowest, fastest = spectrum(loss)
    lr = float(f"{STEP / fastest:.2g}")
    relaxation = 1 / (lr * slowest)
    found = {}
    for size in BATCH_SIZES[scale]:
        # The records lie at places that are spread evenly over an epoch: shuffled SGD depends on where in it one is.
        eighth = max(1, EXAMPLES // size // RECORDS)
        apart = next(odd * eighth for odd in range(1, 10**6, 2) if odd * eighth >= APART * relaxation)
        first = round(BURN_IN * relaxation)
        stationary = tuple(first + apart * i for i in range(RECORDS))
        on_the_way = (0, *(2**k for k in range(30) if 2**k < first))
        for kind, noise in NOISES.items():
            for start in STARTS:
                followed = (kind, size, start) == ("replacement", TRAJECTORY, FAR)
                record = (*on_the_way, *stationary) if followed else stationary
                first_point: tuple[float, ...] | Literal["minimum"] = "minimum"
                if start == FAR:
                    first_point = (0.0,) * potential.dim
                found[name(kind, size, start)] = Simulation(
                    potential, lr, size, noise, record[-1], record, first_point, CHAINS[scale][kind]
                )
    return found | ruler.simulations(scale, potential, loss, lr)


def stationary(values: np.ndarray) -> np.ndarray:
    """Returns the last records (RECORDS, chains)."""
    return values[-RECORDS:]


def sizes(chains: Chains) -> list[int]:
    return sorted({spec.batch_size for spec in ruler.others(chains)})


def lr_of(chains: Chains) -> float:
    return ruler.others(chains)[0].lr


@cache
def theory(chains: Chains, noise: str, size: int) -> tuple[float, float, float]:
    """Returns (tr C at the minimum, the excess loss, Var L) by theory; the latter q T^2/2 for isotropic noise."""
    loss, lr = loss_of(chains), lr_of(chains)
    h, c = loss.hessian(loss.minimum), loss.covariance(loss.minimum)
    trace, q = float(np.trace(c)), loss.dim
    if noise == "isotropic":
        sigma = gibbs.discrete_lyapunov(h, trace / q * np.eye(q), lr, size)
        t = gibbs.temperature(lr, size, (trace / q) ** 0.5)
        return trace, gibbs.excess_loss(h, sigma), q * t**2 / 2
    sigma = gibbs.discrete_lyapunov(h, c, lr, size)
    return trace, gibbs.excess_loss(h, sigma), gibbs.loss_variance(h, sigma)


def moments(chains: Chains, noise: str, size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns start -> (excess loss, squared deviation of the loss) of every chain, (chains,): means over the records.

    Deviations are from the mean over both starts. Both are over their theory.
    """
    loss, (_, excess, variance) = loss_of(chains), theory(chains, noise, size)
    lowest = loss.loss(loss.minimum[None])[0]
    found = {start: stationary(losses(chains, name(noise, size, start))) for start in STARTS}
    middle = np.mean([values.mean() for values in found.values()])
    return {
        start: ((values.mean(axis=0) - lowest) / excess, np.square(values - middle).mean(axis=0) / variance)
        for start, values in found.items()
    }


def pooled(chains: Chains, noise: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of all chains."""
    excess, squares = (np.concatenate(parts) for parts in zip(*moments(chains, noise, size).values()))
    return excess, squares


Pooled = dict[str, tuple[np.ndarray, np.ndarray]]  # noise -> `pooled`


def error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5


def slope_at_stationarity(chains: Chains, used: np.ndarray) -> float:
    """Returns d log <tr C>/d log <L> over n."""
    return slope(
        [
            [stationary(of(chains, name("replacement", size, start)))[:, used].mean() for start in STARTS]
            for size in sizes(chains)
        ]
        for of in (losses, traces)
    )


def slope_on_the_way(chains: Chains, used: np.ndarray) -> float:
    """Returns the same along the way from zero weights to the minimum, over steps 0, 1, 2, 4, ..."""
    label = name("replacement", TRAJECTORY, FAR)
    return slope([[row[used].mean()] for row in of(chains, label)[:-RECORDS]] for of in (losses, traces))


def slope(both: Iterable[Any]) -> float:
    """Returns the slope of log mean tr C on log mean L; a row a point, its members averaged."""
    x, y = (np.log(np.mean(rows, axis=1)) for rows in both)
    return float(np.polyfit(x, y, 1)[0])


def check(chains: Chains) -> list[claims.Finding]:
    found: list[claims.Finding] = []
    for size in sizes(chains):
        n, of = f"n {lr_of(chains) / size:.2g} (S = {size})", {}
        for noise in THEORETICAL:
            excess, squares = of[noise] = pooled(chains, noise, size)
            law = "Lyapunov's" if noise == "replacement" else "q T²/2"
            of_mean = claims.Statement(
                f"mean.{noise}.s{size}",
                f"the mean loss lies n tr(C)/4 above the minimum; {WORDS[noise]}, {n}",
                "<L> - L* with the step's correction",
            )
            of_variance = claims.Statement(
                f"variance.{noise}.s{size}", f"the variance of L is {law}; {WORDS[noise]}, {n}", "Var L"
            )
            for i, (about, values) in enumerate(((of_mean, excess), (of_variance, squares))):
                found += if_mixed([chainwise.equal(about, values, 1.0, MARGIN)], chains, noise, size, i)
        found += [*shape_shows(chains, size, of, n), *shuffling_shows(chains, size, of, n)]
    each = chains.samples[name("replacement", TRAJECTORY, FAR)].shape[1]
    for key, words, exponent in (
        ("stationary", "at stationarity, over n", slope_at_stationarity),
        ("on_the_way", "from zero weights to the minimum", slope_on_the_way),
    ):
        value, spread = chainwise.jackknife(partial(exponent, chains), each)
        text = f"sigma² does not change with the loss; {words}"
        about = claims.Statement(f"constant.{key}", text, "d log tr C/d log L", paper="0 (assumed)")
        found.append(chainwise.over_chains(about, value, spread, chainwise.Range(-CONSTANT, CONSTANT), each))
    return [*found, *ruler.check(chains)]


def shape_shows(chains: Chains, size: int, of: Pooled, n: str) -> list[claims.Finding]:
    ratio, spread = variance_ratio(chains, size, of)
    about = claims.Statement(
        f"shape.s{size}",
        f"the shape of the noise shows in the variance of L; {n}",
        "Var L, minibatches over isotropic",
    )
    larger = chainwise.Direction(1, smallest=SMALLEST, null=1.0)
    found = [chainwise.over_chains(about, ratio, spread, larger, len(of["isotropic"][0]))]
    for noise in THEORETICAL:
        found = if_mixed(found, chains, noise, size, 1)
    return found


def shuffling_shows(chains: Chains, size: int, of: Pooled, n: str) -> list[claims.Finding]:
    drawn, shuffled = of["replacement"][0], pooled(chains, "shuffle", size)[0]
    about = claims.Statement(
        f"shuffling.s{size}",
        f"shuffled epochs leave less excess loss than batches with replacement; {n}",
        "<L> - L* over theory, replacement less shuffled",
        control_of="mean",
    )
    less, spread = float(drawn.mean() - shuffled.mean()), (error(drawn) ** 2 + error(shuffled) ** 2) ** 0.5
    rule = chainwise.Direction(1, smallest=SMALLEST)
    found = [chainwise.over_chains(about, less, spread, rule, len(shuffled))]
    for noise in ("replacement", "shuffle"):
        found = if_mixed(found, chains, noise, size, 0)
    return found


def if_mixed(judged: list[claims.Finding], chains: Chains, noise: str, size: int, i: int) -> list[claims.Finding]:
    """Returns the claims, not judged unless chains from both starts agree in the i-th of `moments`."""
    starts = {start: values[i] for start, values in moments(chains, noise, size).items()}
    return chainwise.unless_mixed(judged, starts, MIXED[i])


def variance_ratio(chains: Chains, size: int, of: Pooled) -> tuple[float, float]:
    """Returns Var L with minibatches over Var L with isotropic noise, and its standard error."""
    a, b = (of[noise][1] * theory(chains, noise, size)[2] for noise in THEORETICAL)
    ratio = float(a.mean() / b.mean())
    return ratio, ratio * ((error(a) / a.mean()) ** 2 + (error(b) / b.mean()) ** 2) ** 0.5


def table(chains: Chains) -> pd.DataFrame:
    """Returns a row a noise, S and start: what was measured beside its theory."""
    import pandas as pd

    rows = []
    for size in sizes(chains):
        for noise in NOISES:
            trace, excess, variance = theory(chains, noise, size)
            for start, (a, b) in moments(chains, noise, size).items():
                spec = chains.specs[name(noise, size, start)]
                rows.append(
                    {
                        "noise": noise,
                        "start": start,
                        "eta": spec.lr,
                        "S": size,
                        "n": spec.n,
                        "chains": len(a),
                        "n tr(C)/4": spec.n * trace / 4,
                        "n <tr C>/4": spec.n * where(chains, noise, size, start) / 4,
                        "excess loss, theory": excess,
                        "excess loss": a.mean() * excess,
                        "excess loss, se": error(a) * excess,
                        "Var L, theory": variance,
                        "Var L": b.mean() * variance,
                        "Var L, se": error(b) * variance,
                    }
                )
    return pd.DataFrame(rows)


def where(chains: Chains, noise: str, size: int, start: str) -> float:
    """Returns <tr C> of where the chains are; of isotropic noise the one it was given."""
    if noise == "isotropic":
        return theory(chains, noise, size)[0]
    return float(stationary(traces(chains, name(noise, size, start))).mean())


def draw(chains: Chains, axes: Any) -> None:
    a, b, c = axes(1, 3)
    styles = {"replacement": (plots.BLUE, "o"), "isotropic": (plots.RED, "s"), "shuffle": (plots.GREY, "^")}
    n = np.array([lr_of(chains) / size for size in sizes(chains)])
    gibbs_variance = np.array([theory(chains, "isotropic", size)[2] for size in sizes(chains)])
    for noise, (colour, marker) in styles.items():
        law = [theory(chains, noise, size) for size in sizes(chains)]
        trace, excess, variance = (np.array(values) for values in zip(*law))
        both = [pooled(chains, noise, size) for size in sizes(chains)]
        for panel, i, expected, unit in ((a, 0, excess, n * trace / 4), (b, 1, variance, gibbs_variance)):
            values, spread = (np.array([f(pair[i]) for pair in both]) for f in (np.mean, error))
            scale = expected / unit
            if noise in THEORETICAL:
                words = "with the finite step" if i == 0 else "Lyapunov" if noise == "replacement" else "q T²/2"
                panel.plot(n, scale, color=colour, linewidth=1, linestyle=(0, (4, 2)), label=f"theory, {words}")
            panel.errorbar(
                n, values * scale, 1.645 * spread * scale, fmt=marker, markersize=5, color=colour, label=WORDS[noise]
            )
    a.axhline(1, color=plots.GREY, linewidth=0.8)
    a.set(xlabel="n = η/S", ylabel="(⟨L⟩ - L*) / (n tr C/4)", title="mean loss above its minimum", ylim=(0, None))
    b.set(xlabel="n = η/S", ylabel="Var L / (q T²/2)", title="variance of the loss")
    for panel in (a, b):
        plots.log_scale(panel.xaxis)
        plots.legend_below(panel, columns=2)
    plots.log_scale(b.yaxis)
    b.set_yticks([y for y in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if y > b.get_ylim()[0]])
    b.yaxis.set_major_formatter("{x:g}")

    everyone = np.ones(chains.samples[name("replacement", TRAJECTORY, FAR)].shape[1], dtype=bool)
    label = name("replacement", TRAJECTORY, FAR)
    way = [of(chains, label)[:-RECORDS].mean(axis=1) for of in (losses, traces)]
    rest = [
        [stationary(of(chains, name("replacement", size, FAR))).mean() for size in sizes(chains)]
        for of in (losses, traces)
    ]
    c.plot(
        *way,
        marker="o",
        markersize=4,
        color=plots.BLUE,
        label=f"from zero weights, steps 0, 1, 2, 4, …: slope {slope_on_the_way(chains, everyone):.2f}",
    )
    c.plot(
        *rest,
        marker="s",
        markersize=5,
        color=plots.ORANGE,
        linestyle="none",
        label=f"at stationarity, S = {', '.join(map(str, sizes(chains)))}: "
        f"slope {slope_at_stationarity(chains, everyone):.2f}",
    )
    c.axhline(
        theory(chains, "replacement", TRAJECTORY)[0],
        color=plots.GREY,
        linewidth=1,
        linestyle=(0, (1, 1.5)),
        label="constant σ² (Theorem 1): tr C at the minimum",
    )
    c.set(xlabel="L", ylabel="tr C", title="variance of the gradients")
    for axis in (c.xaxis, c.yaxis):
        plots.log_scale(axis)
    plots.legend_below(c, columns=1)


THEORY = Theory(
    name="bridge",
    title="Theory's moments of the loss on a classifier of real images",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 1, "paper": 4},
    check=check,
    draw=draw,
    formulas=(
        r"\langle L\rangle - L^* = \frac{n}{4}\,\mathrm{tr}\,C, \quad "
        r"2\,\mathrm{tr}(H\Sigma) - \eta\,\mathrm{tr}(H\Sigma H) = n\,\mathrm{tr}\,C",
        r"\mathrm{Var}\,L = \frac{1}{2}\,\mathrm{tr}\,(H\Sigma)^2 \geq \frac{q\,T^2}{2}, \quad T = \frac{n\sigma^2}{2}",
    ),
    data=("fashionmnist",),
    substitute="digits28",
    table=table,
)

if __name__ == "__main__":
    main(THEORY)
