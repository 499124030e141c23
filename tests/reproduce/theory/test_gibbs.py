"""Quadrature, Laplace's approximation and the Lyapunov equations agree with each other and with closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import trapezoid
from scipy.optimize import brentq

from three_factors.reproduce import theorem2
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory.potentials import DoubleWell, Quadratic, Quartic

QUADRATIC = Quadratic(((2.5,),))
WELL = DoubleWell(0.45, -0.1, (0.5, 0.7), (2.0, 1.8))
POTENTIALS = {"quadratic": QUADRATIC, "quartic": Quartic(1.0, 0.3), "well": DoubleWell(0.45, -0.1), "wells": WELL}
each = pytest.mark.parametrize("potential", POTENTIALS.values(), ids=POTENTIALS)
temperatures = st.floats(0.01, 5)


@each
@settings(max_examples=25)
@given(t=temperatures)
def test_the_density_is_normalised_and_ends_where_it_is_nothing(potential, t):
    x, p = gibbs.density(potential, t)
    assert trapezoid(p, x) == pytest.approx(1, abs=1e-12)
    assert max(p[0], p[-1]) < 1e-9 * p.max()


@each
@settings(max_examples=25)
@given(t=temperatures)
def test_the_distribution_function_rises_from_0_to_1(potential, t):
    _, c = gibbs.cumulative(potential, t)
    assert (c[0], c[-1]) == (0, 1)
    assert (np.diff(c) >= 0).all()


@settings(max_examples=25)
@given(t=temperatures, h=st.floats(0.01, 100))
def test_the_moments_of_a_quadratic_are_those_of_a_gaussian_of_variance_t_over_h(t, h):
    potential = Quadratic(((h,),))
    assert gibbs.mean_of(potential, t, np.square) == pytest.approx(t / h, rel=1e-9)
    assert gibbs.mean_of(potential, t, lambda x: x**4) == pytest.approx(3 * (t / h) ** 2, rel=1e-9)
    assert gibbs.mean_of(potential, t, lambda x: x) == pytest.approx(0, abs=1e-9 * math.sqrt(t / h))
    assert gibbs.mean_loss(potential, t) == pytest.approx(t / 2, rel=1e-9)


@each
@settings(max_examples=25)
@given(t=temperatures)
def test_the_virial_theorem_holds(potential, t):
    """<x dU/dx> = T for the effective potential U, whatever it is."""

    def virial(x):
        return x * np.gradient(gibbs.effective(potential, t, x), x, edge_order=2)

    assert gibbs.mean_of(potential, t, virial) == pytest.approx(t, rel=1e-4)


def test_the_mean_loss_in_several_dimensions_is_a_quadrature_over_all_of_them():
    potential, t = DoubleWell(0.45, -0.1, (0.5,), (2.0,)), 0.3
    x, y = np.linspace(-2.5, 2.5, 801), np.linspace(-8, 8, 801)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    loss = potential.loss(grid)
    weight = np.exp(-loss / t)
    assert gibbs.mean_loss(potential, t) == pytest.approx((loss * weight).sum() / weight.sum(), rel=1e-6)
    in_a = weight.reshape(801, 801).sum(axis=1) / weight.sum()
    x_mean = gibbs.mean_of(potential, t, lambda x: x)
    assert x_mean == pytest.approx((x * in_a).sum(), rel=1e-6)


@each
def test_draws_agree_with_quadrature(potential):
    t, count = 0.3, 20_000
    theta = gibbs.sample(potential, t, count, np.random.default_rng(1))
    assert theta.shape == (count, potential.dim)
    x, c = gibbs.cumulative(potential, t)
    gap = np.abs(np.interp(np.sort(theta[:, 0]), x, c) - (np.arange(count) + 0.5) / count).max()
    assert gap < 1.95 / math.sqrt(count)  # Kolmogorov's bound at one in a thousand
    loss = potential.loss(theta)
    assert abs(loss.mean() - gibbs.mean_loss(potential, t)) < 4 * loss.std() / math.sqrt(count)


@pytest.mark.parametrize("t", [0.1, 0.3])
def test_the_transverse_coordinates_are_drawn_with_the_variance_of_their_place(t):
    theta = gibbs.sample(WELL, t, 20_000, np.random.default_rng(2))
    scaled = theta[:, 1:] ** 2 * WELL.stiffness(theta[:, 0]) / t
    assert np.abs(scaled.mean(axis=0) - 1).max() < 4 * math.sqrt(2 / len(theta))


def test_a_quadratic_in_several_dimensions_has_no_quadrature():
    with pytest.raises(ValueError, match="no quadrature"):
        gibbs.density(Quadratic(((1.0, 0.0), (0.0, 1.0))), 0.1)


# -- two wells


def laplace_error(well, t):
    share = gibbs.share_in_a(well, t)
    return abs(math.log(gibbs.laplace_ratio(well, t) * (1 - share) / share))


@pytest.mark.parametrize("well", [DoubleWell(1.0, -0.02), DoubleWell(1.0, -0.02, (0.5,), (2.0,)), WELL], ids=repr)
def test_laplace_tends_to_quadrature_in_proportion_to_t(well):
    errors = [laplace_error(well, t) for t in (0.01, 0.005, 0.0025)]
    assert errors[0] < 0.1
    for larger, smaller in pairwise(errors):
        assert smaller / larger == pytest.approx(0.5, abs=0.1)


def crossover_by_quadrature(well, sigma):
    """n at which both wells are as probable."""
    guess = gibbs.crossover(well, sigma)[0]
    return brentq(lambda n: gibbs.share_in_a(well, n * sigma**2 / 2) - 0.5, guess / 3, guess * 3)


@pytest.mark.parametrize("dim", [2, 10])
@pytest.mark.parametrize("sigma", [1.0, 28.0])
def test_the_corrected_crossover_is_quadratures_and_the_printed_one_a_quarter_of_it(dim, sigma):
    ratios, b = [], 16 ** (1 / (dim - 1))
    for tilt in (-0.02, -0.01, -0.005):
        well = DoubleWell(1.0, tilt, (b**-0.5,) * (dim - 1), (b**0.5,) * (dim - 1))
        corrected, printed = gibbs.crossover(well, sigma)
        assert printed == pytest.approx(corrected / 4, rel=1e-12)
        ratios.append(crossover_by_quadrature(well, sigma) / corrected)
    assert abs(ratios[-1] - 1) < 0.01
    assert abs(ratios[-1] - 1) < abs(ratios[1] - 1) < abs(ratios[0] - 1) < 0.05


def test_the_well_of_the_script_crosses_over_within_the_claims_margin_and_between_its_batch_sizes():
    well, sigma = theorem2.WELLS[2], theorem2.SIGMA
    corrected, printed = gibbs.crossover(well, sigma)
    exact = crossover_by_quadrature(well, sigma)
    assert 1 / 1.5 < exact / corrected < 1.5 < exact / printed
    n = [theorem2.LR / size for size in theorem2.BATCH_SIZES[2]]
    assert min(n) < 0.8 * exact
    assert max(n) > 1.15 * exact


@pytest.mark.parametrize(
    ("dim", "size"), [(dim, size) for dim, sizes in theorem2.BATCH_SIZES.items() for size in sizes]
)
def test_the_barriers_of_the_script_are_of_3_to_6_t(dim, size):
    t = gibbs.temperature(theorem2.LR, size, theorem2.SIGMA)
    assert 3 <= gibbs.barrier_over_t(theorem2.WELLS[dim], t) <= 6


@pytest.mark.parametrize("t", [0.05, 1.0])
def test_a_quadratic_relaxes_in_the_inverse_of_its_curvature(t):
    assert gibbs.relaxation_time(QUADRATIC, t) == pytest.approx(1 / 2.5, rel=1e-3)


def test_two_wells_relax_at_the_rate_of_kramers():
    well, t = DoubleWell(1.0, 0.0), 0.05  # a barrier of 20 T: curvature 8 in the wells, -4 on the top
    hopping = math.sqrt(8 * 4) / (2 * math.pi) * math.exp(-1 / t)
    assert gibbs.relaxation_time(well, t) == pytest.approx(1 / (2 * hopping), rel=0.1)


def test_the_barrier_in_units_of_t_is_the_lower_ones():
    well = DoubleWell(1.0, -0.2)
    a, b = well.along(np.array(well.minima))
    top = well.along(np.array([well.top]))[0]
    assert b < a
    assert gibbs.barrier_over_t(well, 0.1) == pytest.approx((top - a) / 0.1, rel=1e-4)


# -- quadratic losses

entries = st.lists(st.floats(-1, 1), min_size=9, max_size=9)
spd = st.builds(lambda values: (m := np.reshape(values, (3, 3))) @ m.T + 0.2 * np.eye(3), entries)


@settings(max_examples=25)
@given(h=spd, c=spd, n=st.floats(1e-3, 1))
def test_the_solution_of_lyapunovs_equation_solves_it(h, c, n):
    s = gibbs.lyapunov(h, c, n)
    np.testing.assert_allclose(h @ s + s @ h, n * c, rtol=0, atol=1e-10)
    assert np.linalg.eigvalsh(s).min() > 0
    q = gibbs.current(h, c, n)
    np.testing.assert_allclose(q, -q.T, rtol=0, atol=1e-10)


@settings(max_examples=25)
@given(h=spd, c=spd, share=st.floats(0.01, 0.95), batch_size=st.integers(1, 64))
def test_the_solution_of_the_discrete_equation_solves_it_and_is_stationary(h, c, share, batch_size):
    lr = 2 * share / np.linalg.eigvalsh(h).max()
    s, n = gibbs.discrete_lyapunov(h, c, lr, batch_size), lr / batch_size
    scale = np.abs(s).max()
    np.testing.assert_allclose(h @ s + s @ h - lr * h @ s @ h, n * c, rtol=0, atol=1e-9 * max(1, scale))
    step = np.eye(3) - lr * h
    np.testing.assert_allclose(step @ s @ step.T + lr**2 / batch_size * c, s, rtol=0, atol=1e-9 * max(1, scale))


@settings(max_examples=25)
@given(h=spd, n=st.floats(1e-3, 1), sigma=st.floats(0.1, 3))
def test_isotropic_noise_gives_gibbs_and_no_current(h, n, sigma):
    c = sigma**2 * np.eye(3)
    np.testing.assert_allclose(gibbs.lyapunov(h, c, n), gibbs.gibbs_covariance(h, c, n), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gibbs.current(h, c, n), 0, atol=1e-9)


def test_a_current_flows_where_the_noise_does_not_commute_with_the_curvature():
    h, c = np.diag([1.0, 3.0]), np.array([[2.0, 1.2], [1.2, 1.0]])
    flow, s = gibbs.current(h, c, 0.1), gibbs.lyapunov(h, c, 0.1)
    assert s[0, 1] == pytest.approx(0.1 * c[0, 1] / (h[0, 0] + h[1, 1]))
    assert flow[0, 1] == pytest.approx(0.1 * c[0, 1] * (h[1, 1] - h[0, 0]) / (2 * (h[0, 0] + h[1, 1])))


@settings(max_examples=25)
@given(
    h=st.floats(0.1, 10),
    share=st.floats(0.01, 0.9),
    s=st.integers(1, 64),
    sigma=st.floats(0.1, 5),
    beta=st.floats(0, 0.95),
)
def test_the_variance_of_sgd_is_the_fixed_point_of_its_second_moments(h, share, s, sigma, beta):
    lr = share * 2 * (1 + beta) / h
    step = np.array([[1 - lr * h, -lr * beta], [h, beta]])  # of (θ, v)
    noise = np.array([[-lr], [1.0]]) * sigma / math.sqrt(s)
    moments = np.linalg.solve(np.eye(4) - np.kron(step, step), (noise @ noise.T).ravel())
    assert gibbs.sgd_variance(h, lr, s, sigma, beta) == pytest.approx(moments[0], rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_the_variance_tends_to_gibbs_at_n_over_1_minus_beta_and_is_infinite_from_the_edge_on(beta):
    h, s, sigma = 2.0, 8, 3.0
    errors = [
        gibbs.sgd_variance(h, lr, s, sigma, beta) * h / gibbs.temperature(lr, s, sigma, beta) - 1 for lr in (1e-2, 1e-3)
    ]
    assert 0 < errors[1] < errors[0] / 9 < 0.02
    edge = 2 * (1 + beta) / h
    assert math.isfinite(gibbs.sgd_variance(h, edge * (1 - 1e-9), s, sigma, beta))
    assert gibbs.sgd_variance(h, edge * (1 + 1e-9), s, sigma, beta) == math.inf
