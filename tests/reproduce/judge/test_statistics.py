"""Statistics of a grid's cells, on cells whose answer is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from three_factors.reproduce.engine.judge import statistics
from three_factors.reproduce.engine.judge.claims import Statement
from three_factors.reproduce.engine.judge.seedwise import rising

LR, SIZE = (
    v.ravel() for v in np.meshgrid(np.log([0.005, 0.01, 0.02, 0.05, 0.1]), np.log([25, 50, 100, 200, 500, 1000]))
)
BETAS = np.array([1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24])
BASE = BETAS <= 1.5

CELLS = st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 5) | st.just(float("nan"))), min_size=5, max_size=30)


@given(CELLS)
def test_a_slope_and_a_rank_correlation_are_numpys_and_scipys_where_the_cells_are_there(cells):
    x, y = (np.array(column, dtype=float) for column in zip(*cells))
    there = ~np.isnan(y)
    slope, rho = statistics.slopes(x, y[None])[0], statistics.spearman(x, y[None])[0]
    if there.sum() < statistics.FEWEST or np.ptp(x[there]) == 0:
        assert np.isnan(slope)
        return
    assert slope == pytest.approx(np.polyfit(x[there], y[there], 1)[0], abs=1e-7)
    if np.ptp(y[there]) > 0:
        assert rho == pytest.approx(stats.spearmanr(x[there], y[there]).statistic, abs=1e-9)


def test_groups_have_intercepts_of_their_own():
    x, group = np.tile(np.arange(4.0), 3), np.repeat([0, 1, 2], 4)
    y = 2 * x + np.array([0.0, 50.0, -9.0])[group] + np.zeros((2, 1))
    np.testing.assert_allclose(statistics.slopes(x, y, group), 2.0)
    assert abs(statistics.slopes(x + 3 * group, y)[0] - 2) > 0.5


def test_what_does_not_determine_the_coefficients_has_none():
    x = np.arange(6.0)
    assert np.isnan(statistics.coefficients(np.ones((1, 6)), x, 2 * x)).all()
    assert np.isnan(statistics.slopes(x, np.array([[1, 2, 3, 4, np.nan, np.nan]]))[0])


@pytest.mark.parametrize("g", [-0.5, 0.0, 0.5, 1.0, 2.0])
def test_the_index_is_found_through_a_curve_whatever_its_bend(g):
    u = LR - g * SIZE
    y = -np.tanh(0.4 * (u - u.mean())) + 0.1 * u
    assert statistics.index(LR, SIZE, y[None])[0] == pytest.approx(g, abs=0.08)
    cubic = 0.3 * u**3 - u
    assert statistics.index(LR, SIZE, cubic[None])[0] == pytest.approx(g, abs=1e-3)


def test_too_few_cells_have_no_index():
    y = np.where(np.arange(len(LR)) < 5, LR, np.nan)
    assert np.isnan(statistics.index(LR, SIZE, y[None])[0])


@pytest.mark.parametrize("star", [2.5, 5.0, 10.0])
def test_the_breaking_point_of_a_noisy_fall_is_found(star):
    random = np.random.default_rng(0)
    # two points are lost per factor 1.189 beyond the corner, so that it lies 2 points below there
    corner = star / 2**0.25
    curve = 0.8 - 0.08 * np.maximum(0, np.log2(BETAS / corner))
    found = statistics.breaking_points(np.log(BETAS), curve + random.normal(0, 0.003, (200, len(BETAS))), 0.02, BASE)
    assert np.exp(np.mean(np.log(found))) == pytest.approx(star, rel=0.1)


def test_what_never_falls_breaks_beyond_and_chance_breaks_at_once():
    flat = np.full((1, len(BETAS)), 0.8)
    assert statistics.breaking_points(np.log(BETAS), flat, 0.02, BASE)[0] == np.inf
    diverged = np.where(BETAS > 4, 0.1, 0.8)
    assert 4 < statistics.breaking_points(np.log(BETAS), diverged[None], 0.02, BASE)[0] < 6
    assert np.isnan(statistics.breaking_points(np.log(BETAS), np.where(BASE, np.nan, flat), 0.02, BASE)[0])


def test_pages_distribution_is_that_of_all_orders():
    """3 blocks of 3 groups: 216 orders."""
    values = [np.array(order, dtype=float) for order in itertools.permutations(range(3))]
    tables = [np.stack(rows) for rows in itertools.product(values, repeat=3)]
    weights = np.arange(1, 4)
    sums = np.array([(np.argsort(np.argsort(of, axis=1), axis=1) + 1) @ weights for of in tables]).sum(axis=1)
    for of, total in list(zip(tables, sums))[::17]:
        assert statistics.page(of) == pytest.approx((sums >= total).mean())


def test_infinite_values_are_the_largest_and_lost_seeds_the_least_favourable():
    up = np.array([[1.0, 2, 3], [1, 2, np.inf], [2, 3, np.inf], [1, 5, 9]])
    assert statistics.page(up) == pytest.approx(6.0**-4)
    lost = up.copy()
    lost[0] = np.nan
    assert statistics.page(lost) > statistics.page(up)


def test_a_rise_is_shown_by_pages_test_and_refuted_by_a_flat_slope():
    groups = [np.array([1.0, 1.2, 0.9, 1.1]), np.array([2.0, 2.2, 1.9, 2.1]), np.array([3.0, 3.2, 2.9, 3.1])]
    up = rising(Statement("a", ""), groups, np.array([0.5, 0.51, 0.52, 0.5]), smallest=0.25)
    assert up.p_support == pytest.approx(6.0**-4)
    assert up.p_refute > 0.9
    flat = rising(Statement("a", ""), groups[::-1], np.array([0.01, -0.02, 0.03, 0.0]), smallest=0.25)
    assert flat.p_support > 0.9
    assert flat.p_refute < 0.001


def test_the_vertex_of_a_noisy_parabola_is_found_with_an_intercept_a_group():
    random = np.random.default_rng(0)
    n, group = np.tile(np.log(np.geomspace(1e-5, 2e-2, 8)), 2), np.repeat([0, 1], 8)
    curve = 0.9 - 0.02 * (n - np.log(1.5e-3)) ** 2 - 0.1 * group
    found = np.exp(statistics.vertices(n, curve + random.normal(0, 0.005, (100, 16)), group))
    assert np.median(found) == pytest.approx(1.5e-3, rel=0.1)
    assert np.isnan(statistics.vertices(n, -curve[None], group)[0])  # it bends the other way


def test_leaving_out_the_row_that_makes_an_effect_shows_in_the_range():
    rows, columns = np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3)
    values = np.where(rows == 0, 10.0, 0.0)
    assert statistics.leave_one_out(lambda keep: float(values[keep].mean()), rows, columns) == (0.0, 5.0)
