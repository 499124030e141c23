"""Claims over seeds: intervals that cover, verdicts by the rules; statistics of a grid of runs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from three_factors.reproduce.engine.contract.spec import RISES
from three_factors.reproduce.engine.judge.claims import Statement
from three_factors.reproduce.engine.judge.seedwise import (
    FISHER,
    LOG,
    PLAIN,
    Direction,
    Range,
    located,
    over_seeds,
    ratio_over_seeds,
    rising,
)
from three_factors.reproduce.engine.judge.statistics import (
    exponents,
    jonckheere,
    leave_one_out,
    partial_spearman,
    spearman,
)
from three_factors.reproduce.engine.judge.table import SyntheticTable
from three_factors.reproduce.experiments import valleys

ABOUT = Statement("about", "c", "s")


@pytest.mark.parametrize(("scale", "centre"), [(PLAIN, 0.4), (FISHER, -0.8), (LOG, 1.7)])
def test_intervals_over_seeds_cover_in_ninety_percent(scale, centre):
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2_000):
        values = scale.back(random.normal(scale.to(centre), 0.3, 5))
        found = over_seeds(ABOUT, values, Range(0.01 if scale is LOG else -9, 9), scale)
        hits += found.low <= centre <= found.high
    assert hits / 2_000 == pytest.approx(0.9, abs=0.02)


def test_fiellers_interval_of_paired_values_covers():
    random, hits = np.random.default_rng(1), 0
    for _ in range(2_000):
        below = random.normal(2, 0.3, 6)
        above = 1.1 * below + random.normal(0, 0.3, 6)
        found = ratio_over_seeds(ABOUT, above, below, Range(0.8, 1.25, confidence=0.95))
        hits += found.low <= 1.1 <= found.high
    assert hits / 2_000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("values", "rule", "verdict"),
    [
        ([-0.9, -0.8, -0.95], Direction(-1, 0.3), "supported"),
        ([-0.9, -0.8, -0.95], Direction(1, 0.3), "not supported"),
        ([0.05, 0.0, -0.05, 0.01], Direction(1, 0.3), "not supported"),
        ([0.9, -0.9, 0.4], Direction(1, 0.3), "inconclusive"),
        ([1.0, 1.02, 0.98], Range(0.8, 1.25), "supported"),
        ([0.4, 0.42, 0.41], Range(0.8, 1.25), "not supported"),
        ([0.7, 1.0, 1.3], Range(0.8, 1.25), "inconclusive"),
        ([1.0], Range(0.8, 1.25), "not judged"),
        ([1.0, math.nan], Range(0.8, 1.25), "not judged"),
    ],
)
def test_verdicts_follow_the_rules(values, rule, verdict):
    found = over_seeds(ABOUT, np.array(values), rule)
    assert found.verdict == verdict
    assert (found.p is None) == (verdict == "not judged")
    if verdict == "supported":
        assert found.p < 0.05


def test_a_denominator_that_may_be_0_gives_no_bounded_ratio():
    found = ratio_over_seeds(ABOUT, np.array([1.0, 1.1, 0.9]), np.array([0.5, -0.4, 0.1]), Range(0.8, 1.25))
    assert (found.low, found.high, found.verdict) == (None, None, "inconclusive")


CELLS = st.lists(
    st.tuples(st.integers(0, 9), st.floats(-5, 5) | st.just(math.nan), st.integers(0, 9)), min_size=5, max_size=30
)


@given(CELLS)
def test_spearman_is_scipys_on_every_row_and_where_the_row_is_there(cells):
    x, *rows = (np.array(column, dtype=float) for column in zip(*cells))
    for ours, row in zip(spearman(x, np.array(rows)), rows):
        there = ~np.isnan(row)
        if there.sum() >= 5 and len(np.unique(x[there])) > 1 and len(np.unique(row[there])) > 1:
            assert ours == pytest.approx(stats.spearmanr(x[there], row[there]).statistic, abs=1e-9)
        else:
            assert math.isnan(ours)


def test_cells_without_a_value_are_left_out_and_too_few_say_nothing():
    x, y = np.arange(8.0), np.array([1, 2, np.nan, 3, 4, 5, np.nan, 6])
    assert spearman(x, y[None]) == pytest.approx(1)
    assert math.isnan(spearman(x[:5], y[None, :5])[0])


def test_a_correlation_that_a_third_quantity_explains_vanishes_when_it_is_held_fixed():
    random = np.random.default_rng(0)
    x = random.normal(size=40)
    given_ = x + 0.5 * random.normal(size=(100, 40))
    y = given_ + 0.5 * random.normal(size=(100, 40))
    assert spearman(x, y).mean() > 0.7
    assert abs(partial_spearman(x, y, given_).mean()) < 0.08


@given(CELLS)
def test_a_partial_correlation_is_that_of_the_ranks_correlations(cells):
    x, y, given_ = (np.array(column, dtype=float) for column in zip(*cells))
    there = ~np.isnan(y)
    ours = partial_spearman(x, y[None], given_[None])[0]
    columns = [column[there] for column in (x, y, given_)]
    if there.sum() < 5 or any(len(np.unique(column)) == 1 for column in columns):
        return
    xy, xz, yz = (stats.spearmanr(columns[i], columns[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2)))
    if max(abs(xz), abs(yz)) < 0.999:
        assert ours == pytest.approx((xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2)), abs=1e-9)


@pytest.mark.parametrize("g", [0.0, 0.5, 1.0])
def test_the_exponent_of_the_batch_size_is_found(g):
    lrs, sizes = (v.ravel() for v in np.meshgrid(np.log([0.01, 0.03, 0.1]), np.log([25, 50, 100, 200])))
    p, pg = exponents(lrs, sizes, 3 - 0.7 * (lrs - g * sizes))
    assert (p, pg / p) == (pytest.approx(0.7), pytest.approx(g, abs=1e-12))


def test_leaving_out_the_row_that_makes_an_effect_shows_in_the_range():
    rows, columns = np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3)
    values = np.where(rows == 0, 10.0, 0.0)
    assert leave_one_out(lambda keep: float(values[keep].mean()), rows, columns) == (0.0, 5.0)


def test_jonckheeres_distribution_is_that_of_all_permutations():
    """4, 3 and 2 values: 1260 ways to share the ranks 1 to 9 out."""
    sizes, values = (4, 3, 2), np.arange(9.0)
    found = []
    for first in itertools.combinations(range(9), 4):
        rest = [i for i in range(9) if i not in first]
        for second in itertools.combinations(rest, 3):
            third = [i for i in rest if i not in second]
            found.append(jonckheere([values[list(part)] for part in (first, second, third)]))
    taus = np.array([tau for tau, _, _ in found])
    assert len(found) == math.factorial(9) // math.prod(math.factorial(n) for n in sizes)
    assert found[0][1] == pytest.approx(taus.std())
    for tau, _, p in found[::37]:
        assert p == pytest.approx((taus >= tau - 1e-9).mean())


def test_a_rise_over_groups_is_seen_and_none_is_not():
    up = rising(ABOUT, [np.array([1.0, 2, 3]), np.array([2.5, 4, 5]), np.array([6.0, np.inf, 8])])
    assert (up.verdict, up.n) == ("supported", 3)
    assert up.value > 0.8
    missing = rising(ABOUT, [np.array([1.0, 2]), np.array([np.nan, 4]), np.array([6.0, 8])])
    assert (missing.verdict, missing.n) == ("not judged", 1)
    assert "1 of 6 values are missing" in missing.note
    random = np.random.default_rng(0)
    drawn = [rising(ABOUT, list(random.normal(size=(3, 4)))) for _ in range(1000)]
    assert sum(c.verdict == "supported" for c in drawn) <= 65  # 5 % of 1000, and 2 sd
    down = rising(ABOUT, [np.arange(5.0) + 20, np.arange(5.0) + 10, np.arange(5.0)])
    assert down.verdict == "not supported"


@pytest.mark.parametrize(
    ("values", "censored", "verdict"),
    [
        ([5.0, 5.1, 5.2, 5.1], False, "supported"),
        ([5.0, 5.1, 5.2, math.nan], False, "inconclusive"),  # the others are chosen by the outcome
        ([5.0, math.nan, math.nan, math.nan], False, "inconclusive"),
        ([5.0, math.inf, math.inf, 5.1], False, "not supported"),
        ([5.0, math.inf, math.inf, 5.1], True, "inconclusive"),
        ([15.0, 15.1, 15.2, math.nan], False, "not supported"),
    ],
)
def test_a_location_that_seeds_lack_is_not_supported_by_the_others(values, censored, verdict):
    found = located(ABOUT, np.array(values), Range(4, 7), LOG, censored=censored)
    assert (found.verdict, found.n) == (verdict, 4)
    assert ("seeds have" in found.note) == (not np.isfinite(values).all())


def test_widths_that_are_not_reached_on_the_line_cannot_be_found_equal():
    def widths(theta2, edge):
        ends = {"loss θ1": np.full(4, 0.1), "loss θ2": np.array([0.1, 0.101, 0.1, 0.102])}
        for kind, rise in itertools.product(valleys.KINDS, RISES):
            for end, values in (("θ1", np.array([1.0, 1.1, 1.0, 1.05])), ("θ2", theta2)):
                at_least = valleys.width(kind, end, rise, at_least=True)
                ends |= {valleys.width(kind, end, rise): values, at_least: np.fmax(values, edge)}
        return valleys.SCALED.alike(SyntheticTable({"b = 1 to b = 4": ends}), "b = 1 to b = 4")[0]

    assert widths(np.array([1.0, 1.1, 1.02, 1.0]), 1.0).verdict == "supported"
    censored = widths(np.array([1.0, 1.1, np.nan, 1.0]), 1.0)
    assert censored.verdict == "inconclusive"
    assert "3 rises of θ2 not reached" in censored.note
