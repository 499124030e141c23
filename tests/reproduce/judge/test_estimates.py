"""Intervals cover at their rate; seeds without a value are not lost by chance; bounds bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from three_factors.reproduce.engine.judge.chainwise import OverChains
from three_factors.reproduce.engine.judge.estimates import LOG, PLAIN, AllOf, Alone, OverSeeds, Ratio, Trend

TRIALS = 3_000


@pytest.mark.parametrize(("scale", "centre"), [(PLAIN, 0.4), (LOG, 1.7)])
@pytest.mark.parametrize("n", [4, 5, 10])
def test_intervals_over_seeds_cover_at_their_rate(scale, centre, n):
    random, hits = np.random.default_rng(n), 0
    for _ in range(TRIALS):
        low, high = OverSeeds(scale.back(random.normal(scale.to(centre), 0.3, n)), scale).interval(0.95)
        hits += low <= centre <= high
    assert hits / TRIALS == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_fiellers_interval_of_pairs_covers_at_its_rate_with_a_noisy_pair_and_a_quiet_control(correlation):
    """As in Figure 4; pooled over the arms a nominal 90 % covered 81 to 84 %."""
    random, hits = np.random.default_rng(1), 0
    spread = np.array([3.0, 3.0, 0.5])
    covariance = np.outer(spread, spread) * (correlation + (1 - correlation) * np.eye(3))
    for _ in range(TRIALS):
        a, b, c = random.multivariate_normal([42.0, 40.0, 20.0], covariance, 5).T
        found = Ratio(a - b, (a + b) / 2 - c).interval(0.95)
        hits += found is not None and found[0] <= 2 / 21 <= found[1]
    assert hits / TRIALS == pytest.approx(0.95, abs=0.015)


def test_a_mean_is_students():
    values = np.array([1.0, 2.0, 4.0, 3.0])
    expected = stats.ttest_1samp(values, 0.5, alternative="greater")
    found = OverSeeds(values)
    assert found.p_above(0.5) == pytest.approx(expected.pvalue)
    assert found.p_below(0.5) == pytest.approx(1 - expected.pvalue)
    assert found.interval(0.9) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(0.9)))
    assert (found.n, found.lost, found.value) == (4, 0, 2.5)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.integers(0, 7))
@settings(max_examples=50)
def test_a_lost_seed_makes_nothing_surer_than_any_value_that_a_seed_had(values, at):
    whole = np.array(values)
    if np.ptp(whole) < 1e-6:
        return
    lost = np.insert(whole, at % (len(whole) + 1), np.nan)
    found = OverSeeds(lost)
    assert (found.n, found.lost) == (len(whole) + 1, 1)
    for value in whole:
        filled = OverSeeds(np.where(np.isnan(lost), value, lost))
        if filled.p_above(0) < 0.5:
            assert found.p_above(0) >= filled.p_above(0) - 1e-9 or value > whole.min()
    least = OverSeeds(np.where(np.isnan(lost), whole.min(), lost))
    most = OverSeeds(np.where(np.isnan(lost), whole.max(), lost))
    assert (found.p_above(0), found.p_below(0)) == pytest.approx((least.p_above(0), most.p_below(0)))
    assert found.interval(0.9) == pytest.approx((least.interval(0.9)[0], most.interval(0.9)[1]))


def test_dropping_what_diverged_would_support_what_is_not_more_often():
    """The smallest of eight values is lost each time: it is what diverges."""
    random, dropped, kept = np.random.default_rng(2), 0, 0
    for _ in range(TRIALS):
        values = np.sort(random.normal(0, 1, 8))
        dropped += OverSeeds(values[1:]).p_above(0) <= 0.025
        kept += OverSeeds(np.append(values[1:], np.nan)).p_above(0) <= 0.025
    assert dropped / TRIALS > 0.08
    assert kept < 0.8 * dropped
    assert not OverSeeds(np.append(values[:4], np.nan)).too_many_lost
    assert OverSeeds(np.append(values[:3], np.nan)).too_many_lost


def test_a_value_beyond_what_was_tried_is_a_bound():
    found = OverSeeds(np.array([5.0, 5.2, 4.9, np.inf]), LOG, at_least=np.full(4, 24.0))
    assert found.lost == 0
    assert found.bounded == 1
    low, high = found.interval(0.95)
    assert (low < 5.2, high) == (True, np.inf)
    assert found.p_below(100.0) == 1.0
    assert found.p_above(0.1) < 0.05
    below = OverSeeds(np.array([5.0, 5.2, 4.9, -np.inf]), LOG, at_most=np.full(4, 1.0))
    assert below.p_above(0.1) == 1.0
    assert below.interval(0.95)[0] == 0.0


def test_a_share_of_nothing_is_unbounded_and_refutes_only_what_every_ratio_does():
    random = np.random.default_rng(3)
    nothing = Ratio(random.normal(0, 1, 6), random.normal(0, 1, 6))
    assert nothing.interval(0.95) is None
    assert nothing.p_inside(-1 / 3, 1 / 3) > 0.05
    differs = Ratio(random.normal(9, 1, 6), random.normal(0, 1, 6))
    assert differs.interval(0.95) is None
    assert differs.p_outside(-1 / 3, 1 / 3) < 0.01  # "the pair differs, noise does not"
    backwards = Ratio(random.normal(0, 0.1, 6), random.normal(-5, 0.1, 6))
    assert backwards.p_inside(-1 / 3, 1 / 3) > 0.9  # noise acts against the stated direction


def test_a_lost_pair_takes_the_least_favourable_seeds_values():
    above, below = np.array([0.1, 0.4, -0.2, np.nan]), np.array([2.0, 2.1, 1.9, 2.0])
    found = Ratio(above, below)
    each = [Ratio(np.append(above[:3], above[i]), np.append(below[:3], below[i])) for i in range(3)]
    assert found.p_inside(-0.5, 0.5) == pytest.approx(max(of.p_inside(-0.5, 0.5) for of in each), rel=0.2)
    intervals = [of.interval(0.9) for of in each]
    assert found.interval(0.9) == pytest.approx((min(i[0] for i in intervals), max(i[1] for i in intervals)))


@pytest.mark.parametrize("lost", [(1.5, np.nan), (np.nan, 1.5), (np.nan, np.nan)])
def test_a_ratio_is_of_the_seeds_that_have_both_its_numbers(lost):
    above, below = np.array([0.10, 0.12, 0.11, 0.09]), np.array([1.0, 1.1, 0.9, 1.0])
    whole, found = Ratio(above, below), Ratio(*(np.append(of, one) for of, one in zip((above, below), lost)))
    assert (found.value, found.spread) == (whole.value, whole.spread)
    assert found.value == pytest.approx(0.105)
    low, high = found.interval(0.95)
    assert low < found.value < high
    assert (found.n, found.lost) == (5, 1)


def test_chains_are_normal_and_groups_of_them_students():
    assert OverChains(1.0, 0.1, 1000).interval(0.95) == pytest.approx(stats.norm(1, 0.1).interval(0.95))
    assert OverChains(1.0, 0.1, 1000, 19).p_above(0.9) == pytest.approx(stats.t(19).sf(1))


def test_of_several_all_have_to_lie_inside_and_one_outside_costs_their_number():
    parts = [OverChains(value, 0.1, 5) for value in (0.0, 0.05, 0.1)]
    found = AllOf(parts, lambda of: of[2])
    assert found.value == 0.1
    assert found.p_inside(-1 / 3, 1 / 3) == parts[2].p_inside(-1 / 3, 1 / 3)
    assert found.p_outside(-1 / 3, 0.0) == pytest.approx(3 * parts[2].p_above(0.0))


def test_what_stands_alone_decides_nothing():
    found = Alone(0.3)
    assert (found.value, found.interval(0.95), found.p_inside(-1, 1), found.p_outside(1, 2)) == (0.3, None, 1.0, 1.0)


def test_a_trend_is_shown_by_its_test_and_refuted_by_its_slope():
    found = Trend(OverSeeds(np.array([0.1, 0.12, 0.09])), 0.3)
    assert (found.p_above(0), found.p_below(0.5) < 0.001) == (0.3, True)
    with pytest.raises(ValueError, match="edge: 1; a trend is tested against none"):
        found.p_above(1)


@pytest.mark.parametrize("make", [lambda: OverSeeds(np.array([1.0, np.nan])), lambda: Ratio(np.ones(1), np.ones(1))])
def test_fewer_than_two_seeds_are_no_sample(make):
    with pytest.raises(ValueError, match="values: 1 seeds have one, fewer than 2"):
        make()
