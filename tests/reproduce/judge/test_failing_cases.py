"""What the first edition of the rules got wrong, simulated: that it did, and that it is right now.

Each case draws worlds in which the claim is false (or true), and counts the words.
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from three_factors.reproduce.engine.judge import statistics
from three_factors.reproduce.engine.judge.chainwise import exponent
from three_factors.reproduce.engine.judge.claims import Finding, Statement
from three_factors.reproduce.engine.judge.estimates import OverSeeds, Ratio
from three_factors.reproduce.engine.judge.looks import ONLY, look
from three_factors.reproduce.engine.judge.rules import Direction, Range, within
from three_factors.reproduce.engine.judge.table import NOISE, SyntheticTable
from three_factors.reproduce.engine.judge.verdicts import holm_adjusted, judge
from three_factors.reproduce.experiments import (
    cyclical,
    grid_slopes,
    loss_levels,
    memorisation,
    metrics,
    mlp_grids,
    noise_grid,
)
from three_factors.reproduce.experiments.cycles import curve_shares

ALPHA, THIRD = 0.05, 1 / 3
LR, SIZE = (
    v.ravel() for v in np.meshgrid(np.log([0.005, 0.01, 0.02, 0.05, 0.1]), np.log([25, 50, 100, 200, 500, 1000]))
)
LOG_N = (LR - SIZE) / np.log(10)
ABOUT = Statement("a", "")


def at_most(count, trials, rate=ALPHA):
    """Within Monte Carlo error of a rate, or below it."""
    assert count / trials <= rate + 3 * (rate * (1 - rate) / trials) ** 0.5, count / trials


def supports(values, rule, **more):
    finding = Finding(ABOUT, rule, OverSeeds(np.asarray(values)), **more)
    return judge([finding], look(len(values), len(values)), ["a"])[0].verdict == "supported"


@pytest.mark.slow
def test_curves_that_differ_by_more_than_a_third_of_what_noise_does():
    """Two arms apart by .45 of the noise's effect; in units of the seeds' scatter, the old margin, by one sd."""
    random, trials, new, old = np.random.default_rng(0), 400, 0, 0
    labels = ("cyclic S", "cyclic eta", "constant, small S", "constant, large S", "noise control")
    for _ in range(trials):
        of_seed, series = random.normal(0, 0.1, (5, 1)), {}
        for label, level in zip(labels, (0.45, 0.0, 0.0, 0.0, -1.0)):
            logs = 0.22 * level + of_seed + random.normal(0, 0.1, (5, 1)) + random.normal(0, 0.02, (5, 31))
            series[label] = {metrics.LOSS: np.exp(logs)}
        table = SyntheticTable({label: {"x": np.zeros(5)} for label in labels}, series)
        (claim,) = judge([curve_shares(ABOUT, table, labels[0], labels[1])], look(5, 5), ["a"])
        new += claim.verdict == "supported"
        x, y = (np.log(series[label][metrics.LOSS]) for label in labels[:2])
        between = np.mean([np.sqrt(((a - b) ** 2).mean()) for i, a in enumerate(x) for j, b in enumerate(y) if i != j])
        inside = np.mean([np.sqrt(((a - b) ** 2).mean()) for s in (x, y) for i, a in enumerate(s) for b in s[:i]])
        old += between / inside < 1.5
    at_most(new, trials)
    assert old / trials > 0.5


@pytest.mark.slow
def test_a_norm_that_depends_on_the_loss_alone_is_not_said_to_depend_on_eta_over_s():
    """Given the loss by rank, which is measured with error, 15 to 100 % were."""
    random, trials, new, old = np.random.default_rng(1), 300, 0, 0
    labels = [f"cell {i}" for i in range(len(LR))]
    for _ in range(trials):
        end = -1.5 - 0.9 * LOG_N + random.normal(0, 0.25, (5, len(LR)))  # log10 loss at the end: n trains further
        norm = 1 + 0.7 * end + random.normal(0, 0.05, end.shape)
        seen = end + random.normal(0, 0.15, end.shape)
        rho = [_partial(LOG_N, a, b) for a, b in zip(norm, seen)]
        old += stats.ttest_1samp(np.arctanh(rho), 0, alternative="less").pvalue <= ALPHA
        finals = {label: {metrics.LOSS: 10 ** end[:, i]} for i, label in enumerate(labels)}
        for level in loss_levels.LEVELS:
            at = np.log10(level) - random.uniform(0, 0.1, end.shape) * (1 + 0.3 * (LOG_N + 3))  # n oversteps further
            true_norm = 1 + 0.7 * at + random.normal(0, 0.05, end.shape)
            for i, label in enumerate(labels):
                finals[label][loss_levels.at(level)] = 10 ** true_norm[:, i]
                finals[label][loss_levels.at(level, metrics.LOSS)] = 10 ** at[:, i]
        slopes, _ = loss_levels.slope(SyntheticTable(finals), labels, LOG_N)
        new += supports(slopes, noise_grid.FALLS)
    at_most(new, trials)
    assert old / trials > 0.15


def _partial(x, y, z):
    a, b, c = (stats.rankdata(of) for of in (x, y, z))
    a, b = (of - np.polyval(np.polyfit(c, of, 1), c) for of in (a, b))
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize("epochs", [40, 300])
def test_memorisation_that_begins_after_the_plateau_comes_after_generalisation(epochs):
    """By the argmax of a flat noisy curve, and two points above a running minimum, it came 6 to 117 epochs before."""
    random, late, words = np.random.default_rng(2), [], []
    plateau, onset = epochs // 8, 3 * epochs // 5
    for _ in range(20):
        shares = []
        for _seed in range(5):
            t = np.arange(1, epochs + 1)
            val = 0.85 * np.minimum(1, t / plateau) + random.normal(0, 0.004, epochs)
            wrong = 0.01 + 0.99 * np.clip((t - onset) / (epochs - onset), 0, 1)
            wrong = wrong + random.binomial(270, 0.05, epochs) / 270 - 0.05
            noisy = 0.75 + 0.25 * np.clip((t - onset) / (epochs - onset), 0, 1)
            rows = pd.DataFrame(
                {memorisation.NOISY: noisy, metrics.VALID: val, memorisation.WRONG: wrong, "step": 24 * t}, index=t
            )
            found = memorisation.MEMORISATION.derive(rows, _Spec)
            shares.append(found[memorisation.EARLY])
            lowest = np.minimum.accumulate(wrong)
            late.append(t[wrong >= lowest + 0.02][0] - t[val.argmax()])
        words.append(supports(shares, Direction(-1, smallest=0.0, null=0.1)))
    assert np.mean(late) < (-1 if epochs == 40 else -20)
    assert np.mean(words) >= 0.8


class _Spec:
    class data:
        validation = 10_000

    class evaluations:
        early = 10


@pytest.mark.slow
def test_an_exponent_of_one_is_supported_the_more_the_more_chains_there_are():
    """The exact slope is 1.025; that its interval contains 1 was supported less with every chain."""
    etas, contains, new = np.array([0.02, 0.04, 0.08, 0.16]), [], []
    for chains in (1_000, 100_000):
        words = []
        for seed in range(40):
            random = np.random.default_rng(seed)
            noise = random.normal(0, 0.6, (4, chains)) * (0.3 * etas**1.025)[:, None] * 10

            def distances(used, noise=noise):
                return np.abs(0.3 * etas**1.025 + noise[:, used].mean(axis=1))

            found = exponent(ABOUT, etas, distances, chains)
            (claim,) = judge([found], ONLY)
            low, high = found.estimate.interval(0.95)
            words.append((claim.verdict == "supported", low <= 1 <= high))
        new.append(np.mean([word for word, _ in words]))
        contains.append(np.mean([word for _, word in words]))
    assert new[1] >= new[0]
    assert new[1] > 0.95
    assert contains[1] < contains[0]


@pytest.mark.slow
def test_holm_over_all_that_is_claimed_and_not_over_what_passes_a_gate():
    """Five alike claims at their margin; noise shows in each by half its gate's power."""
    random, trials, new, old = np.random.default_rng(3), 1_500, 0, 0
    names = "abcd"
    for _ in range(trials):
        shared = random.normal(0, 1, 5)  # of the seeds, in all outcomes
        p, gates = {}, {}
        for name in names:
            pair = 0.5 + 0.25 * random.normal(0, 1, 5)
            effect = 0.35 + 0.3 * (0.8 * shared + 0.6 * random.normal(0, 1, 5))
            finding = Finding(Statement(name, ""), within(0.5), OverSeeds(pair))
            p[name], gates[name] = finding.p_support, OverSeeds(effect).p_above(0)
        passing = {name: p[name] for name in names if gates[name] <= ALPHA}
        old += any(of <= ALPHA for of in holm_adjusted(passing).values())
        gated = holm_adjusted({name: 2 * max(p[name], gates[name]) for name in names})
        new += any(of <= ALPHA for of in gated.values())
    at_most(new, trials)
    assert old > new


@pytest.mark.slow
@pytest.mark.parametrize("g", [0.5, 1.0])
def test_a_curve_that_bends_does_not_put_its_bend_into_g(g):
    """By a straight line in the logarithms the 95 % interval covered 0 to 56 %.

    Through a cubic it covers 84 % and more, but where the curve saturates at both ends: there g is off by 0.02 to 0.04.
    """
    random, trials, straight, index, false = np.random.default_rng(4), 150, 0, 0, 0
    u = LR - g * SIZE
    bent = np.log1p(np.exp(3 * ((u - u.mean()) / u.std() - 0.8)))
    curve = -bent / bent.std()
    for _ in range(trials):
        y = curve + random.normal(0, 0.1, (5, len(LR)))
        fits = statistics.coefficients(y, LR, SIZE)
        found = Ratio(fits[:, 1], -fits[:, 0]).interval(0.95)
        straight += found is not None and found[0] <= g <= found[1]
        of_seeds = OverSeeds(statistics.index(LR, SIZE, y))
        low, high = of_seeds.interval(0.95)
        index += low <= g <= high
        false += of_seeds.p_inside(0.71, 1.41) <= 0.025
    assert straight / trials < 0.6
    assert index / trials >= 0.84 - 0.03
    if g == 0.5:
        at_most(false, trials)


@pytest.mark.slow
def test_two_phases_of_one_curve_are_not_told_apart_by_the_loss_of_the_hessians_own_images():
    """With other images' loss, that falls where the own one's does not, 44 to 94 % were."""
    random, trials, own, other = np.random.default_rng(5), 300, 0, 0
    for _ in range(trials):
        apart = {"own": [], "other": []}
        for _seed in range(5):
            t = np.arange(40)
            high = (t // 5) % 2 == 0
            loss = -1.5 - 0.04 * t + 0.35 * high + random.normal(0, 0.08, 40)
            norm = 3 + 0.6 * loss + 0.1 * loss**2 + random.normal(0, 0.05, 40)
            seen = loss - 0.25 * high + random.normal(0, 0.05, 40)  # of images that the phase does not reach
            for name, of in (("own", loss), ("other", seen)):
                rows = pd.DataFrame(
                    {metrics.NORM: np.exp(norm), metrics.LOSS: np.exp(of), NOISE: np.where(high, 5e-3, 1e-3)},
                    index=t + 1.0,
                )
                apart[name].append(cyclical.phases_apart(rows))
        rule = Direction(1, smallest=0.1)
        own += supports(apart["own"], rule)
        other += supports(apart["other"], rule)
    at_most(own, trials)
    assert other / trials > 0.4


def test_the_cells_of_a_grid_are_the_same_at_every_look():
    """Cells that all seeds train become fewer with every seed, and those at high eta/S stay."""
    grid, random = mlp_grids.BATCH_NORM_MLP, np.random.default_rng(6)
    counts = []
    for seeds in (4, 32):
        table = grid.imagined("quick", seeds, random)
        noisy = {
            label: of | {metrics.LOSS: of[metrics.LOSS] * np.exp(random.normal(0, 0.8, seeds))}
            for label, of in table.finals.items()
        }
        world = SyntheticTable(noisy, factors=table.factors)
        trained = (world.grid(world.labels, metrics.LOSS) <= grid_slopes.TRAINED).all(axis=0)
        counts.append(int(trained.sum()))
        whole = {label: of | {metrics.LOSS: np.full(seeds, 9.0)} for label, of in noisy.items()}  # none is trained
        primary = {finding.about.id: finding for finding in grid.check(world, mlp_grids.SINGLE)}
        other = {f.about.id: f for f in grid.check(SyntheticTable(whole, factors=table.factors), mlp_grids.SINGLE)}
        for name in ("norm", "accuracy", "wider"):
            assert primary[name].estimate.value == other[name].estimate.value
    assert counts[1] < counts[0]


@pytest.mark.slow
def test_noise_in_the_range_does_not_turn_an_effect_into_its_refutation():
    """A slope of one point per decade is not refuted; a correlation's smallest effect .3 was short of in a sixth."""
    random, trials, old, new = np.random.default_rng(7), 400, 0, 0
    x = np.log10(np.geomspace(2e-4, 2e-3, 10))
    for _ in range(trials):
        y = 0.85 + 0.005 * x + random.normal(0, 0.01, (4, 10))
        finding = Finding(ABOUT, Direction(1, 0.005), OverSeeds(statistics.slopes(x, y)))
        new += judge([finding], look(4, 4), ["a"])[0].verdict == "not supported"
        z = np.arctanh(statistics.spearman(x, y))
        old += stats.ttest_1samp(z, np.arctanh(0.3), alternative="less").pvalue <= ALPHA
    at_most(new, trials)
    assert old / trials > 0.1


def test_equality_within_a_range_is_not_supported_at_its_edge():
    random = np.random.default_rng(8)
    count = sum(
        supports(np.log(1.4) + random.normal(0, 0.15, 5), Range(np.log(0.71), np.log(1.4))) for _ in range(1_000)
    )
    at_most(count, 1_000)
