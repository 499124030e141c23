"""The other experiments' own statistics, on runs made up so that the answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.experiments.tables import word
from three_factors.reproduce.engine.contract.spec import RISES
from three_factors.reproduce.engine.contract.steps import STEP_VARIANCE
from three_factors.reproduce.engine.judge.table import SyntheticTable, Table
from three_factors.reproduce.experiments import (
    cycles,
    metrics,
    mlp_grids,
    resnet_valleys,
    vgg_valleys,
    widths,
)
from three_factors.reproduce.experiments.fingerprints import CONSTANT, CYCLIC, FORMS, readings
from three_factors.reproduce.experiments.metrics import LOSS, STEP_LOSS, TEST
from three_factors.reproduce.experiments.noise_dial import exponents
from three_factors.reproduce.experiments.switching import HIGH, LOW, kept, switched
from three_factors.reproduce.noise_only import equal_exponents
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulate import simulate
from three_factors.reproduce.theory.simulation import Gaussian, Simulation


def test_the_variance_of_steps_is_compared_where_the_noisier_run_has_the_smaller_batches():
    index = np.arange(1.0, 5)

    def curve(variance):
        return pd.DataFrame({STEP_VARIANCE: variance, "t_eta": index}, index=index)

    def steps(sizes):
        return pd.DataFrame({"epoch": index, "batch_size": sizes})

    made = Table(
        pd.DataFrame({"label": ["a", "b"], "seed": 0, "status": "ok"}),
        {("a", 0): curve([5.0, 5, 1, 1]), ("b", 0): curve([1.0, 1, 1, 1])},
        {("a", 0): steps([128, 128, 640, 640]), ("b", 0): steps([640, 640, 640, 640])},
    )
    assert cycles.step_variance_ratio(made, "a", "b") == pytest.approx([5.0])


def test_a_weaker_slope_is_over_the_cells_in_which_no_pilot_diverged():
    grid, good = mlp_grids.DEEP_MLP, mlp_grids.GOOD
    world = grid.imagined("quick", 3, np.random.default_rng(0))
    left_out = grid.unstable["quick"]
    assert all(world.factors[label]["unstable"] == 1 for label in left_out)
    whole = grid.slopes(world, good, metrics.END_NORM)
    wild = {label: {name: 1e6 * values for name, values in world.finals[label].items()} for label in left_out}
    np.testing.assert_array_equal(
        grid.slopes(SyntheticTable(world.finals | wild, factors=world.factors), good, metrics.END_NORM), whole
    )
    assert whole == pytest.approx(-0.5, abs=0.15)


def ends(theta1, theta2):
    """The columns of a line between minima of these widths in every kind."""
    found = {"loss θ1": np.full(4, 0.1), "loss θ2": np.full(4, 0.1)}
    for kind in widths.KINDS:
        for rise in RISES:
            for end, values in (("θ1", theta1), ("θ2", theta2)):
                edge = np.where(np.isnan(values), 1.0, values)
                found |= {widths.width(kind, end, rise): values, widths.width(kind, end, rise, at_least=True): edge}
    return found


def test_a_width_that_is_not_reached_bounds_the_ratio():
    wide, narrow = np.array([2.0, 2.1, 2.0, 1.9]), np.array([1.0, 1.1, 1.0, 0.9])
    line = resnet_valleys.LARGE_TO_BASE

    def wider(theta1, theta2):
        return resnet_valleys.CONSTANT.wider(SyntheticTable({line: ends(theta1, theta2)}), [line])[0]

    assert word(wider(narrow, wide)) == "supported"
    lost = np.array([1.0, math.nan, 1.0, 0.9])
    censored = wider(lost, wide)  # the narrower one may be wider than was seen
    assert word(censored) == "inconclusive"
    assert "rises not reached: of θ1 in 1 seeds" in censored.about.note
    beyond = wider(narrow, np.array([2.0, math.nan, 2.0, 1.9]))
    assert beyond.estimate.interval(0.95)[1] == math.inf


def test_an_end_that_is_no_minimum_is_noted():
    line, widths = resnet_valleys.LARGE_TO_BASE, np.ones(4)

    def wider(losses):
        of = ends(widths, np.array([2, 2.1, 2, 1.9])) | {"loss θ2": np.array(losses)}
        return resnet_valleys.CONSTANT.wider(SyntheticTable({line: of}), [line])[0]

    assert wider([0.5, 0.4, 0.1, 0.01]).about.note == ""
    two = wider([0.6, 0.4, 0.7, math.nan])
    assert two.about.note == "'baseline' ends above a loss of 0.5 in 2 of 4 seeds"
    assert word(two) == "supported"
    most = wider([0.6, 0.4, 0.7, 0.8])  # then what is wide is no minimum
    assert word(most) == "not judged"
    assert most.unjudged == "an end is no minimum in most seeds"


def triplet(lines, r, q, of, loss=0.1):
    """Lines of a triplet in which S alone acts by r and eta and S together by q, both in log width and log loss."""
    random, finals = np.random.default_rng(0), {}
    for label, signed in of.equal.items():
        finals[label] = q * signed + random.normal(0, 0.01, 4)
    finals[of.quiet] = r * np.log(of.less) + random.normal(0, 0.01, 4)
    found = {}
    for label, apart in finals.items():
        found[label] = ends(np.ones(4), np.exp(-apart)) | {
            "loss θ1": np.full(4, loss),
            "loss θ2": loss * np.exp(-apart),
        }
    return lines.alike(SyntheticTable(found), of)[:2]


@pytest.mark.parametrize(
    ("lines", "of"), [(resnet_valleys.CONSTANT, resnet_valleys.EQUAL), (vgg_valleys.SCALED, vgg_valleys.ALIKE)]
)
@pytest.mark.parametrize(("r", "q", "g", "verdict"), [(0.4, 0.0, 1.0, "supported"), (0.2, 0.2, 0.5, "not supported")])
def test_the_exponent_of_a_triplet_is_found_and_judged(lines, of, r, q, g, verdict):
    for found in triplet(lines, r, q, of):
        assert found.estimate.value == pytest.approx(g, abs=0.05)
        assert word(found) == verdict


def test_minima_that_are_none_are_neither_equally_wide_nor_equally_deep():
    for found in triplet(resnet_valleys.CONSTANT, 0.4, 0.0, resnet_valleys.EQUAL, loss=2.0):
        assert word(found) == "not judged"
        assert "ends above a loss of 0.5 in 4 of 4 seeds" in found.about.note


def test_noise_that_acts_against_its_direction_shows_nothing():
    for found in triplet(resnet_valleys.CONSTANT, -0.4, 0.0, resnet_valleys.EQUAL):
        assert word(found) != "supported"


def test_the_three_exponents_of_a_quadratics_excess_loss_are_one_each():
    """<L> - L* = n tr(C)/4 at stationarity: it rises as eta, as 1/S, and as the covariance."""
    finals, factors = {}, {}
    for eta in (0.01, 0.04):
        for size in (10, 40):
            for c in (1, 4, 16):
                label = f"{eta} {size} {c}"
                potential, noise = Quadratic(((1.0, 0.0), (0.0, 3.0))), Gaussian(c**0.5)
                record = tuple(range(600, 1_200, 60))
                theta = simulate(Simulation(potential, eta, size, noise, record[-1], record, (0.0, 0.0), 2_000))
                excess = potential.loss(theta.reshape(-1, 2)).reshape(len(record), 4, 500).mean(axis=(0, 2))
                finals[label] = {"end hessian/frobenius": 1 / excess}  # a seed is 500 chains
                factors[label] = {"network": "mlp", "part": "exponents", "eta": eta, "S": size, "C": c}
    found = exponents(SyntheticTable(finals, factors=factors), "mlp", "end hessian/frobenius")
    np.testing.assert_allclose(found, np.ones((4, 3)), atol=0.05)
    for of in equal_exponents(SyntheticTable(finals, factors=factors), "mlp"):
        assert word(of) == "supported"
        assert of.estimate.value == pytest.approx(1, abs=0.05)


def test_what_the_end_remembers():
    """y = w y_first + (1 - w) y_second: φ is w."""
    random = np.random.default_rng(0)
    for w in (0.0, 0.3, 1.0):
        y = {HIGH: random.normal(0, 0.05, 6), LOW: random.normal(1, 0.05, 6)}
        finals = {label: {LOSS: np.exp(values)} for label, values in y.items()}
        for first, second in ((HIGH, LOW), (LOW, HIGH)):
            for share in (15, 85):
                finals[switched(first, share)] = {LOSS: np.exp(w * y[first] + (1 - w) * y[second])}
        table = SyntheticTable(finals)
        for first in (HIGH, LOW):
            above, below = kept(table, first, 15, LOSS)
            np.testing.assert_allclose(above / below, w, atol=1e-9)


@pytest.mark.parametrize(("gap", "loss", "matches"), [(0.028, 0.05, True), (0.028, 0.08, False), (0.01, 0.05, False)])
def test_a_fingerprint_is_the_gap_and_the_training_loss(gap, loss, matches):
    form, epochs = FORMS[0], 301
    low = np.full((1, epochs), 0.8)
    series = {form.label(CONSTANT): {TEST: low, STEP_LOSS: low}}
    series[form.label(CYCLIC)] = {TEST: low + gap, STEP_LOSS: np.full((1, epochs), loss)}
    table = SyntheticTable({label: {TEST: np.full(1, 0.8)} for label in series}, series)
    found = readings(table, form)
    assert [of.epoch for of in found] == [105, 210, 300]
    assert [of.matches for of in found] == [matches] * 3
    assert not any(of.same_accuracies for of in found)
