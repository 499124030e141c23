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

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.experiments import ruler
from three_factors.reproduce.experiments.bridging import (
    FAR,
    NOISES,
    RECORDS,
    THEORETICAL,
    TRAJECTORY,
    WORDS,
    Pooled,
    error,
    lr_of,
    moments,
    name,
    pooled,
    simulations,
    sizes,
    slope_at_stationarity,
    slope_on_the_way,
    stationary,
    theory,
    variance_ratio,
    where,
)
from three_factors.reproduce.experiments.classified import losses, traces

if TYPE_CHECKING:
    import pandas as pd

# Of the mean loss and of its variance, fixed beforehand. The latter goes as the square: what moves the one by 10 %
# (anharmonicity, C that changes with θ, a finite step) moves the other by 20 %, and is outside.
MARGIN = 0.1
MIXED = (0.05, 0.1)  # within which the starts agree in either
SMALLEST = 0.1  # effect of interest, of the noise's shape and of shuffling: what an equivalence here would let pass
CONSTANT = 0.1  # of |d log tr C/d log L|


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
        text = f"sigma² does not change with the loss; {words}"
        about = claims.Statement(f"constant.{key}", text, "d log tr C/d log L", paper="0 (assumed)")
        within = chainwise.Range(-CONSTANT, CONSTANT)
        found.append(claims.Finding(about, within, chainwise.jackknife(partial(exponent, chains), each)))
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
