"""The claims of every theory script can be refuted: chains from the right law support them, from a wrong one not."""

import numpy as np
import pytest

from reproduce import anisotropic, finite_step, momentum, sampling, theorem1, theorem2, time_rescaling
from reproduce.engine.simulated import Chains
from reproduce.theory import gibbs

CHAINS = 4_000  # of each label


def chains(script, draw, count=CHAINS):
    """The script's quick simulations, with samples (records, chains, q) from `draw`."""
    specs, random = script.simulations("quick"), np.random.default_rng(0)
    return Chains(specs, {label: draw(label, spec, len(spec.record), count, random) for label, spec in specs.items()})


def verdicts(script, draw, about="", count=CHAINS):
    """Of the claims whose text holds `about`."""
    found = [claim.verdict for claim in script.check(chains(script, draw, count)) if about in claim.claim]
    assert found
    return set(found)


def from_gibbs(warmer=lambda spec: 1.0):
    """Gibbs at a temperature that is `warmer` than the theory's by a factor."""

    def draw(label, spec, records, count, random):
        t = spec.temperature * warmer(spec)
        return np.stack([gibbs.sample(spec.potential, t, count, random) for _ in range(records)])

    return draw


def normal(variance):
    """Independent normal samples of one coordinate; `variance(spec)`."""

    def draw(label, spec, records, count, random):
        return variance(spec) ** 0.5 * random.standard_normal((records, count, 1))

    return draw


# -- theorem 1: the temperature is off in proportion to eta, or to its root


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "supported"), (0.5, "not supported")])
def test_a_bias_of_the_moments_that_does_not_vanish_as_eta_refutes_theorem_1(power, verdict):
    draw = from_gibbs(lambda spec: 1 + 0.2 * (spec.lr / 0.08) ** power)
    assert verdicts(theorem1, draw, "bias", 60_000) == {verdict}


def test_chains_from_the_minimum_that_are_not_there_yet_leave_theorem_1_unjudged():
    draw = from_gibbs(lambda spec: (1 + 2 * spec.lr) * (1.0 if spec.start == "gibbs" else 0.95))
    assert verdicts(theorem1, draw, "", 20_000) == {"not judged"}


# -- theorem 2: a temperature as if n* were the printed one


def test_chains_from_gibbs_support_theorem_2_as_corrected_and_not_as_printed():
    draw = from_gibbs()
    assert verdicts(theorem2, draw, "Gibbs'") == {"supported"}
    assert verdicts(theorem2, draw, "as corrected") == {"supported"}
    assert verdicts(theorem2, draw, "as printed") == {"not supported"}


def test_a_temperature_four_times_as_high_refutes_theorem_2_as_corrected():
    draw = from_gibbs(lambda spec: 4.0)
    assert verdicts(theorem2, draw, "p_A is Gibbs'") == {"not supported"}
    assert verdicts(theorem2, draw, "as corrected") == {"not supported"}


def test_a_law_of_the_right_shares_and_the_wrong_shape_is_refuted():
    def pulled_in(label, spec, records, count, random):
        samples = from_gibbs()(label, spec, records, count, random)
        top = spec.potential.top
        samples[..., 0] = top + (samples[..., 0] - top) * 0.8  # no chain changes its well
        return samples

    assert verdicts(theorem2, pulled_in, "p_A is Gibbs'") == {"supported"}
    assert verdicts(theorem2, pulled_in, "the whole law") == {"not supported"}


def test_chains_that_stay_in_the_well_they_started_from_leave_theorem_2_unjudged():
    def stuck(label, spec, records, count, random):
        samples = from_gibbs()(label, spec, records, count, random)
        if label.endswith("well A"):
            samples[..., 0] = -abs(samples[..., 0])
        return samples

    assert verdicts(theorem2, stuck) == {"not judged"}


# -- trajectories


def trajectories(time):
    """exp(-t) from the start with a spread that grows, where t is `time(spec, steps)`."""

    def draw(label, spec, records, count, random):
        t = np.array([time(spec, step) for step in spec.record])[:, None, None]
        noise = random.standard_normal((1, count, 1)) * np.sqrt(1 - np.exp(-t)) * 0.05
        return time_rescaling.START * np.exp(-t) * (1 + spec.lr * t) + noise

    return draw


def test_curves_of_t_eta_support_the_rescaling_and_curves_of_the_step_refute_it():
    of_time, of_step = trajectories(lambda spec, k: k * spec.lr), trajectories(lambda spec, k: k * 0.01)
    assert verdicts(time_rescaling, of_time) == {"supported"}
    for about in ("coincide in t_eta", "differ at equal steps", "vanishes as eta"):
        assert verdicts(time_rescaling, of_step, about) == {"not supported"}


# -- variances


def exact(spec):
    h = spec.potential.matrix[0, 0]
    return gibbs.sgd_variance(h, spec.lr, spec.batch_size, spec.noise.sigma, spec.momentum)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "supported"), (1.05, "not supported"), (0.95, "not supported")])
def test_a_variance_five_percent_off_refutes_the_finite_steps_formula(factor, verdict):
    def stable(spec):
        edge = 2 * (1 + spec.momentum)
        return factor * exact(spec) if spec.lr < edge else 1.0

    assert verdicts(finite_step, normal(stable), "exact variance", 40_000) == {verdict}


def test_chains_that_do_not_grow_refute_the_divergence():
    assert verdicts(finite_step, normal(lambda spec: 1.0), "divergence") == {"not supported"}


def with_momentum(factor):
    def draw(label, spec, records, count, random):
        if label.startswith("quadratic"):
            return normal(exact)(label, spec, records, count, random)
        return from_gibbs(lambda spec: factor(spec))(label, spec, records, count, random)

    return draw


def test_gibbs_at_n_over_one_minus_beta_supports_the_momentum_claims():
    assert verdicts(momentum, with_momentum(lambda spec: 1.0), "", 150_000) == {"supported"}


@pytest.mark.parametrize("about", ["Gibbs at n/(1 - beta)", "not Gibbs at n,"])
def test_gibbs_at_n_refutes_them(about):
    draw = with_momentum(lambda spec: 1 - spec.momentum)
    assert verdicts(momentum, draw, about, 60_000) == {"not supported"}


# -- anisotropic noise


def gaussian_pairs(covariance, flow=1.0):
    """Pairs of successive steps of SGD at stationarity; `covariance(h, c, lr, S)`. flow: of the drift's current."""

    def draw(label, spec, records, count, random):
        h, c = np.array(anisotropic.HESSIAN), np.array(spec.noise.covariance)
        sigma = covariance(h, c, spec.lr, spec.batch_size)
        before = random.standard_normal((records // 2, count, 2)) @ np.linalg.cholesky(sigma).T
        kick = random.standard_normal(before.shape) @ np.linalg.cholesky(c / spec.batch_size).T
        after = before - spec.lr * (flow * before @ h + kick)
        return np.stack([before, after], axis=1).reshape(records, count, 2)

    return draw


def test_the_discrete_lyapunov_covariance_supports_the_anisotropic_claims():
    assert verdicts(anisotropic, gaussian_pairs(gibbs.discrete_lyapunov), "", 20_000) == {"supported"}


def test_gibbs_covariance_refutes_them():
    draw = gaussian_pairs(lambda h, c, lr, size: gibbs.gibbs_covariance(h, c, lr / size))
    for about in ("Lyapunov equation", "continuous one", "Gibbs at n tr(C)/2q does not"):
        assert verdicts(anisotropic, draw, about) == {"not supported"}


def test_steps_without_a_drift_refute_the_probability_current():
    claims = anisotropic.check(chains(anisotropic, gaussian_pairs(gibbs.discrete_lyapunov, flow=0.0), 20_000))
    found = {c.claim: c.verdict for c in claims if "current" in c.claim}
    assert sorted(found.values()) == ["not supported", "supported"]  # where H and C commute there is none to miss


# -- sampling


def shares(shuffled):
    """Normal samples whose variance is the theory's as far as it has come; a share of it where `shuffled(lr)`."""

    def draw(label, spec, records, count, random):
        steps = np.array(spec.record)[0]
        arrived = 1 - (1 - spec.lr * sampling.H) ** (2 * steps)
        share = shuffled(spec.lr * sampling.H * sampling.K) if label.startswith("shuffle") else 1.0
        full = gibbs.sgd_variance(sampling.H, spec.lr, 1, sampling.SIGMA)
        return (share * arrived * full) ** 0.5 * random.standard_normal((records, count, 1))

    return draw


def test_shares_that_rise_to_one_support_the_sampling_claims():
    assert verdicts(sampling, shares(lambda x: x / (2 + x) if x < 30 else 1.0)) == {"supported"}


def test_shuffled_epochs_with_all_the_noise_refute_them():
    draw = shares(lambda x: 1.0)
    assert verdicts(sampling, draw, "a fraction of it") == {"not supported"}
    assert verdicts(sampling, draw, "rises with") <= {"not supported", "inconclusive"}


def test_one_fall_among_the_rises_refutes_that_all_rise():
    draw = shares(lambda x: {0.96: 0.02}.get(round(x, 2), x / (2 + x)))
    assert verdicts(sampling, draw, "rises with") == {"not supported"}


def test_examples_with_replacement_of_too_little_noise_refute_the_theorys_variance():
    def draw(label, spec, records, count, random):
        found = shares(lambda x: 0.1)(label, spec, records, count, random)
        return found * (0.85**0.5 if label.startswith("replacement") else 1.0)

    assert verdicts(sampling, draw, "with replacement") == {"not supported"}
