"""Theorem 2. Between two minima, the noise trades depth for width.

SGD on a double well whose shallower minimum is the wider one, in 2 and in 10 dimensions, at several eta/S. Claims: the
shares of the wells, and the whole law along the line between them, are Gibbs' (by quadrature); the shares cross over at
the n* of Theorem 2 as corrected, and not at that of the printed equation 4, which is a quarter of it. Chains start from
Gibbs and from each well, and must agree.

    python reproduce/theorem2.py
    python reproduce/theorem2.py --seeds 8
"""

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from functools import partial
from typing import Any, Literal

import numpy as np

from three_factors.reproduce.engine import Chains, Theory, chainwise, claims, main, plots
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.potentials import DoubleWell
from three_factors.reproduce.theory.simulation import Gaussian, Simulation

BARRIER, TILT, SIGMA, LR = 0.45, -0.1, 14.0, 0.02
RATIO = 16.0  # det H_B/det H_A of the transverse directions, in every number of dimensions


def well(dim: int) -> DoubleWell:
    b = RATIO ** (1 / (dim - 1))
    return DoubleWell(BARRIER, TILT, (b**-0.5,) * (dim - 1), (b**0.5,) * (dim - 1))


WELLS = {2: well(2), 10: well(10)}
BATCH_SIZES = {2: (12, 14, 17, 20), 10: (14,)}  # n from 1.2 to 0.7 of n*, barriers of 3.1 to 4.6 T
STARTS: dict[str, float | None] = {"Gibbs": None, "well A": -1.0, "well B": 1.0}
MARGIN = 0.03  # of p_A and of the distribution function of x, for the claims and for the agreement of the starts
BINS = 2000  # of x, where the gap of the distribution functions is looked for
# From each start: so many that starts which agree are seen to; the difference of two is known to 0.007.
CHAINS = {"smoke": 100, "quick": 2_000, "paper": 10_000}
LENGTH = {"smoke": 0.2, "quick": 10.0, "paper": 30.0}  # in relaxation times between the wells, 1400 to 8600 steps
RECORDS = 16  # in the second half, when exp(-5) of what a start was off is left


def name(dim: int, size: int, start: str) -> str:
    return f"q = {dim}, S {size}, from {start}"


def simulations(scale: Scale) -> dict[str, Simulation]:
    found = {}
    for dim, sizes in BATCH_SIZES.items():
        for size in sizes if scale != "smoke" else sizes[:1]:
            relaxation = gibbs.relaxation_time(WELLS[dim], gibbs.temperature(LR, size, SIGMA)) / LR
            half = round(LENGTH[scale] * relaxation / 2)
            record = tuple(half + half * (i + 1) // RECORDS for i in range(RECORDS))
            for words, start in STARTS.items():
                where: Literal["gibbs"] | tuple[float, ...] = "gibbs"
                if start is not None:
                    where = (start, *([0.0] * (dim - 1)))
                found[name(dim, size, words)] = Simulation(
                    WELLS[dim], LR, size, Gaussian(SIGMA), record[-1], record, where, CHAINS[scale]
                )
    return found


def shares(chains: Chains, dim: int, size: int) -> dict[str, np.ndarray]:
    """Returns start -> the share of its records that each chain spent in well A, (chains,)."""
    return {start: (chains.samples[name(dim, size, start)][:, :, 0] < WELLS[dim].top).mean(axis=0) for start in STARTS}


def law_gap(x: np.ndarray, potential: DoubleWell, t: float, used: np.ndarray) -> float:
    """Returns the largest gap between the distribution function of x, of the chains `used`, and quadrature's."""
    grid, expected = gibbs.cumulative(potential, t)
    ends = grid[0], grid[-1]
    counts, edges = np.histogram(np.clip(x[:, used], *ends), BINS, ends)
    return float(np.abs(np.cumsum(counts) / counts.sum() - np.interp(edges[1:], grid, expected)).max())


def sizes_of(chains: Chains, dim: int) -> list[int]:
    return [size for size in BATCH_SIZES[dim] if name(dim, size, "Gibbs") in chains.samples]


def crossover(n: list[float], shares_in_a: list[float]) -> float:
    """Returns the n at which p_A = 1/2: log odds are a straight line in 1/n (Theorem 2)."""
    slope, intercept = np.polyfit(1 / np.array(n), np.log(shares_in_a) - np.log1p(-np.array(shares_in_a)), 1)
    return float(-slope / intercept)


def check(chains: Chains) -> list[claims.Finding]:
    found: list[claims.Finding] = []
    for dim in WELLS:
        for size in sizes_of(chains, dim):
            of_start = shares(chains, dim, size)
            pooled, where = np.concatenate(list(of_start.values())), f"n = {LR / size:.3g}, q = {dim}"
            x = np.concatenate([chains.samples[name(dim, size, start)][:, :, 0] for start in STARTS], axis=1)
            t = chains.specs[name(dim, size, "Gibbs")].temperature
            expected = gibbs.share_in_a(WELLS[dim], t)
            gap = chainwise.jackknife(partial(law_gap, x, WELLS[dim], t), len(pooled))
            of_share = claims.Statement(
                f"share.q{dim}.s{size}",
                f"p_A is Gibbs' at {where}",
                f"share of chains in the wide well, less {expected:.3f}",
            )
            of_law = claims.Statement(
                f"law.q{dim}.s{size}",
                f"the law of x is Gibbs' at {where}",
                "largest gap between its distribution function and quadrature's",
            )
            share, spread = float(pooled.mean()) - expected, float(pooled.std(ddof=1)) / len(pooled) ** 0.5
            judged = [
                chainwise.over_chains(of_share, share, spread, chainwise.Range(-MARGIN, MARGIN), len(pooled)),
                claims.Finding(of_law, chainwise.Range(-1.0, MARGIN), gap),
            ]
            found += chainwise.unless_mixed(judged, of_start, MARGIN)
    sizes = sizes_of(chains, 2)
    if len(sizes) < 3:
        return found
    all_starts: dict[str, list[np.ndarray]] = {start: [] for start in STARTS}
    pooled_shares = []
    for size in sizes:
        of_start = shares(chains, 2, size)
        pooled_shares.append(np.concatenate(list(of_start.values())))
        for start, values in of_start.items():
            all_starts[start].append(values)
    n = [LR / size for size in sizes]
    count = len(pooled_shares[0])
    whole = chainwise.jackknife(lambda used: crossover(n, [s[used].mean() for s in pooled_shares]), count)
    corrected, printed = gibbs.crossover(WELLS[2], SIGMA)
    for key, words, at, paper in (
        ("corrected", "as corrected", corrected, None),
        ("printed", "as printed in equation 4", printed, "n* of equation 4"),
    ):
        statistic = f"n at equal shares over n* = {at:.3g}"
        about = claims.Statement(f"crossover.{key}", f"the crossover is n* {words}", statistic, paper=paper)
        judged = [claims.Finding(about, chainwise.Range(1 / 1.5, 1.5), whole.over(at))]
        for values in zip(*all_starts.values()):
            judged = chainwise.unless_mixed(judged, dict(zip(STARTS, values)), MARGIN)
        found += judged
    return found


def draw(chains: Chains, axes: Any) -> None:
    a, b = axes(1, 2)
    potential, sizes = WELLS[2], sizes_of(chains, 2)
    right, printed = gibbs.crossover(potential, SIGMA)
    n = np.geomspace(min(printed, LR / max(sizes)) * 0.8, LR / min(sizes) * 1.2, 80)
    t = n * SIGMA**2 / 2
    a.plot(n, [gibbs.share_in_a(potential, x) for x in t], color=plots.BLUE, label="Gibbs, by quadrature")
    laplace = np.array([gibbs.laplace_ratio(potential, x) for x in t])
    a.plot(n, laplace / (1 + laplace), color=plots.GREY, linestyle=(0, (4, 2)), label="Theorem 2 (Laplace)")
    for start, marker in zip(STARTS, "os^"):
        means = [shares(chains, 2, size)[start].mean() for size in sizes]
        a.scatter(
            [LR / size for size in sizes],
            means,
            s=26,
            marker=marker,
            color=plots.ORANGE,
            zorder=3,
            label=f"SGD from {start}",
        )
    a.axvline(right, color=plots.GREEN, linewidth=0.9, label="n* corrected")
    a.axvline(printed, color=plots.RED, linewidth=0.9, label="n* as printed")
    a.set(xlabel="n = η/S", ylabel="share of chains in the wider, shallower well", title="q = 2")
    plots.log_scale(a.xaxis)
    plots.legend_below(a, columns=3)
    x = np.linspace(-1.6, 1.6, 300)
    b.plot(x, potential.along(x), color="#333333", label="L along the line of the minima")
    for size, colour in ((min(sizes), plots.RED), (max(sizes), plots.BLUE)):
        at = LR / size * SIGMA**2 / 2
        u = gibbs.effective(potential, at, x)
        words = f"width included, n {LR / size:.2g}, barrier {gibbs.barrier_over_t(potential, at):.1f} T"
        b.plot(x, u - u.min() + potential.along(x).min(), color=colour, linestyle=(0, (4, 2)), label=words)
    b.set(xlabel="x", ylabel="loss, free energy", title="well A wider (left), well B deeper")
    plots.legend_below(b, columns=1)


THEORY = Theory(
    name="theorem2",
    title="Between two minima, noise trades depth for width",
    doc=__doc__,
    simulations=simulations,
    seeds={"smoke": 1, "quick": 2, "paper": 8},
    check=check,
    draw=draw,
    formulas=(
        r"\frac{p_A}{p_B} = \sqrt{\frac{\det H_B}{\det H_A}}\,\exp\left(\frac{2}{n\sigma^2}(L_B-L_A)\right)",
        r"n^* = \frac{2\,(L_A-L_B)}{\sigma^2\,\ln\sqrt{\det H_B/\det H_A}}",
    ),
)

if __name__ == "__main__":
    main(THEORY)
