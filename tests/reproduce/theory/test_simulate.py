"""The simulator: its chains have the law that theory says, whatever they are asked for, in bounded memory."""

import tracemalloc
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory import simulate as simulator
from three_factors.reproduce.theory.potentials import DoubleWell, Quadratic, Quartic
from three_factors.reproduce.theory.simulate import CHUNK, DIVERGED, simulate
from three_factors.reproduce.theory.simulation import Examples, Gaussian, Simulation

H, SIGMA, S = 2.0, 3.0, 4
LINE = Quadratic(((H,),))
PLANE = Quadratic(((1.0, 0.2), (0.2, 3.0)))
SPEC = Simulation(LINE, 0.1, S, Gaussian(SIGMA), 100, (0, 50, 100), (1.5,), 1000)


def standard_errors(values, expected):
    """By how many standard errors the mean of independent values is off."""
    return abs(values.mean() - expected) / (values.std(ddof=1) / len(values) ** 0.5)


# -- laws


@pytest.mark.parametrize(
    ("lr", "momentum", "steps"), [(0.05, 0.0, 120), (0.5, 0.0, 40), (0.95, 0.0, 150), (0.2, 0.9, 150), (1.8, 0.9, 300)]
)
def test_the_variance_on_a_quadratic_is_the_exact_one(lr, momentum, steps):
    spec = replace(SPEC, lr=lr, momentum=momentum, start=(0.0,), steps=steps, record=(steps,), chains=20_000)
    squares = simulate(spec)[-1, :, 0] ** 2
    assert standard_errors(squares, gibbs.sgd_variance(H, lr, S, SIGMA, momentum)) < 4


def test_the_variance_before_it_is_stationary_is_the_exact_one_as_well():
    spec = replace(SPEC, record=(1, 2, 5), chains=20_000)
    for t, theta in zip(spec.record, simulate(spec)[:, :, 0]):
        share = 1 - (1 - spec.lr * H) ** (2 * t)
        squares = (theta - 1.5 * (1 - spec.lr * H) ** t) ** 2
        assert standard_errors(squares, share * gibbs.sgd_variance(H, spec.lr, S, SIGMA)) < 4


@pytest.mark.parametrize("lr", [0.05, 0.5, 0.9])
def test_the_mean_decays_by_1_minus_eta_h_a_step(lr):
    record = (0, 1, 2, 7, 20)
    spec = replace(SPEC, lr=lr, record=record, chains=20_000)
    expected = 1.5 * (1 - lr * H) ** np.array(record)
    quiet = simulate(replace(spec, noise=Gaussian(1e-13), chains=3))
    np.testing.assert_allclose(quiet[:, :, 0], np.tile(expected[:, None], 3), rtol=0, atol=1e-12)
    noisy = simulate(spec)[1:, :, 0]
    assert max(standard_errors(theta, mean) for theta, mean in zip(noisy, expected[1:])) < 4


def test_momentum_without_noise_is_heavy_ball():
    lr, beta, theta, velocity = 0.1, 0.9, 1.5, 0.0
    spec = replace(SPEC, lr=lr, momentum=beta, noise=Gaussian(1e-13), chains=2, record=tuple(range(31)))
    for found in simulate(spec)[:, :, 0]:
        np.testing.assert_allclose(found, theta, rtol=0, atol=1e-11)
        velocity = beta * velocity + H * theta
        theta -= lr * velocity


def first_noise(spec):
    """The noise of the first step of every chain, (chains, q)."""
    theta = simulate(replace(spec, record=(0, 1)))
    return (theta[0] - theta[1]) / spec.lr - spec.potential.gradient(theta[0])


@pytest.mark.parametrize(
    "noise", [Gaussian(SIGMA), Gaussian(covariance=((2.0, 1.2), (1.2, 1.0)))], ids=["isotropic", "any"]
)
def test_the_noise_has_mean_0_and_covariance_c_over_s(noise):
    spec = replace(SPEC, potential=PLANE, noise=noise, start=(0.5, -0.5), chains=30_000)
    found, expected = first_noise(spec), noise.matrix(2) / S
    assert max(standard_errors(found[:, i], 0.0) for i in range(2)) < 4
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert standard_errors(found[:, i] * found[:, j], expected[i, j]) < 4


def test_chains_and_steps_are_independent():
    theta = simulate(replace(SPEC, record=(0, 1, 2), chains=30_000))[:, :, 0]
    one, two = ((theta[i] - theta[i + 1]) / SPEC.lr - H * theta[i] for i in (0, 1))
    assert standard_errors(one * two, 0.0) < 4
    assert standard_errors(one[:-1] * one[1:], 0.0) < 4
    assert standard_errors(one[: CHUNK // 4] * one[CHUNK : CHUNK + CHUNK // 4], 0.0) < 4  # of two chunks


@pytest.mark.parametrize("potential", [Quartic(1.0, 0.3), DoubleWell(0.45, -0.1, (0.5,), (2.0,))], ids=repr)
def test_chains_started_from_gibbs_are_in_gibbs_and_stay_there_at_a_small_step(potential):
    spec = replace(
        SPEC,
        potential=potential,
        lr=0.004,
        batch_size=1,
        noise=Gaussian(10.0),
        steps=200,
        record=(0, 200),
        start="gibbs",
        chains=20_000,
    )
    expected = gibbs.mean_loss(potential, spec.temperature)
    before, after = (potential.loss(theta) for theta in simulate(spec))
    assert standard_errors(before, expected) < 4
    assert after.mean() == pytest.approx(expected, rel=0.03)  # what is left is of the order of eta


# -- divergence


@pytest.mark.parametrize(
    ("potential", "lr", "momentum"),
    [
        (LINE, 2.02 / H, 0.0),
        (LINE, 5.0, 0.0),
        (LINE, 1e20, 0.0),
        (LINE, 4.0 / H, 0.9),
        (LINE, 1e10, 0.9),
        (PLANE, 2.0, 0.0),
        (Quartic(), 3.0, 0.0),
        (Quartic(), 3.0, 0.5),
        (DoubleWell(0.45, -0.1), 5.0, 0.0),
        (DoubleWell(0.45, -0.1, (1.0,), (2.0,)), 5.0, 0.9),
    ],
)
def test_a_chain_that_diverges_is_held_at_the_bound_without_a_warning(potential, lr, momentum):
    spec = replace(
        SPEC,
        potential=potential,
        lr=lr,
        momentum=momentum,
        start=(1.0,) * potential.dim,
        chains=20,
        steps=6000,
        record=(4000, 6000),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = simulate(spec)
        stored = found.astype(np.float32)
    assert np.isfinite(stored).all()
    largest = np.abs(found).max(axis=2)
    assert (largest <= DIVERGED).all()
    assert (largest >= DIVERGED * 1e-3).all()


def test_below_eta_h_of_2_no_chain_diverges():
    spec = replace(SPEC, lr=1.98 / H, steps=3000, record=(3000,))
    assert np.abs(simulate(spec)).max() < 6 * gibbs.sgd_variance(H, 1.98 / H, S, SIGMA) ** 0.5


# -- seeds, chunks, memory


def test_the_same_seed_gives_the_same_bits_and_another_one_other_chains():
    assert simulate(SPEC).tobytes() == simulate(replace(SPEC)).tobytes()
    one, two = simulate(SPEC)[-1], simulate(replace(SPEC, seed=1))[-1]
    assert (one != two).all()
    assert standard_errors((one * two)[:, 0], one.mean() * two.mean()) < 4


def test_the_chains_of_a_whole_chunk_are_the_same_bits_after_a_run_was_told_how_far_it_is():
    told = []
    spec = replace(SPEC, record=(3,), chains=2 * CHUNK + 10)
    assert simulate(spec, told.append).tobytes() == simulate(spec).tobytes()
    assert told == pytest.approx([CHUNK / spec.chains, 2 * CHUNK / spec.chains, 1.0])


@pytest.mark.parametrize(
    ("spec", "chunks"),
    [
        (replace(SPEC, record=(1,), chains=2 * CHUNK + 10), 3),
        (replace(SPEC, record=(1,), potential=PLANE, start=(0.0, 0.0), chains=CHUNK + 10), 3),
        (replace(SPEC, record=(1,), batch_size=1, noise=Examples(32, "shuffle"), chains=CHUNK + 10), 2),
        (replace(SPEC, record=(1,), batch_size=1, noise=Examples(2**20, "shuffle"), chains=17), 3),
    ],
    ids=["line", "plane", "few examples", "a million examples"],
)
def test_no_more_values_are_advanced_together_than_a_chunk_holds(spec, chunks, monkeypatch):
    shapes = []
    advance = simulator._advance

    def spied(spec, potential, random, found):
        shapes.append(found.shape[1:])
        advance(replace(spec, noise=Gaussian()), potential, random, found)

    monkeypatch.setattr(simulator, "_advance", spied)
    simulate(spec)
    assert len(shapes) == chunks
    assert max(chains * dim for chains, dim in shapes) <= CHUNK
    assert sum(chains for chains, _ in shapes) == spec.chains
    if isinstance(spec.noise, Examples):
        assert max(chains for chains, _ in shapes) * spec.noise.count <= simulator.ORDERED


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("noise", [Gaussian(SIGMA), Examples(32, "shuffle")], ids=["Gaussian", "examples"])
def test_ten_times_the_chains_need_the_same_memory_beside_their_samples(momentum, noise):
    def beside_the_samples(chains):
        spec = replace(SPEC, chains=chains, record=(1, 2), steps=2, momentum=momentum, noise=noise)
        tracemalloc.start()
        found = simulate(spec)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak - found.nbytes

    once, ten_times = beside_the_samples(CHUNK), beside_the_samples(10 * CHUNK)
    assert once > 8 * CHUNK  # it is measured at all
    assert ten_times < 1.2 * once


# -- finite data


@cache
def drawn(sampling, count=12, batch_size=3, epochs=3, chains=400):
    """The batch means of every step, (epochs, steps an epoch, chains), and the examples' deviations."""
    steps = epochs * count // batch_size
    noise = Examples(count, sampling, SIGMA)
    spec = replace(
        SPEC, lr=0.5, batch_size=batch_size, noise=noise, steps=steps, record=tuple(range(steps + 1)), chains=chains
    )
    theta = simulate(spec)[:, :, 0]
    means = (theta[:-1] - theta[1:]) / spec.lr - H * theta[:-1]
    return means.reshape(epochs, -1, chains), noise.deviations


def test_examples_have_mean_0_and_the_variance_asked_for():
    deviations = Examples(50, "shuffle", SIGMA).deviations
    assert deviations.mean() == pytest.approx(0, abs=1e-12)
    assert deviations.var() == pytest.approx(SIGMA**2)
    assert len(set(deviations)) == 50


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_shuffled_epoch_takes_every_example_once(batch_size):
    means, deviations = drawn("shuffle", batch_size=batch_size)
    np.testing.assert_allclose(means.sum(axis=1), 0, atol=1e-10)
    if batch_size == 1:
        expected = np.tile(np.sort(deviations)[:, None], (3, 1, means.shape[2]))
        np.testing.assert_allclose(np.sort(means, axis=1), expected, atol=1e-10)


def test_every_chain_and_epoch_is_shuffled_in_an_order_of_its_own():
    means, _ = drawn("shuffle", batch_size=1)
    orders = {tuple(np.round(means[epoch, :, chain], 6)) for epoch in range(3) for chain in range(400)}
    assert len(orders) == 1200


def test_examples_drawn_with_replacement_come_again_and_are_independent():
    means, deviations = drawn("replacement", batch_size=1)
    repeats = sum(len(set(np.round(means[0, :, chain], 6))) < 12 for chain in range(400))
    assert repeats > 390  # 12 draws are all different once in 18 600
    np.testing.assert_allclose(sorted(set(np.round(means.ravel(), 6))), np.sort(deviations), atol=1e-6)
    assert standard_errors((means[0, 0] * means[0, 1]), 0.0) < 4


@pytest.mark.parametrize("sampling", ["shuffle", "replacement"])
def test_a_batchs_mean_has_the_variance_of_its_sampling(sampling):
    means, _ = drawn(sampling, chains=4000)
    shrunk = (12 - 3) / (12 - 1) if sampling == "shuffle" else 1  # finite population
    assert standard_errors(means[0, 0] ** 2, SIGMA**2 / 3 * shrunk) < 4


def test_replacement_has_the_theorys_variance_and_shuffling_a_fraction_of_it():
    lr, count = 0.01, 32
    steps = 20 * count
    ratio = {}
    for sampling in ("replacement", "shuffle"):
        spec = replace(
            SPEC,
            lr=lr,
            batch_size=1,
            noise=Examples(count, sampling, SIGMA),
            start=(0.0,),
            steps=steps,
            record=(steps,),
            chains=2000,
        )
        ratio[sampling] = simulate(spec)[-1, :, 0] ** 2 / gibbs.sgd_variance(H, lr, 1, SIGMA)
    assert standard_errors(ratio["replacement"], 1.0) < 4
    assert ratio["shuffle"].mean() < 0.4
