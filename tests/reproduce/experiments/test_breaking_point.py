"""Where accuracy breaks, where it peaks: found on made-up curves whose answer is known."""

import math

import numpy as np
import pytest

from three_factors.reproduce.experiments.breaking_statistics import EDGE, breaking_point, crossing, peak

BETAS = np.array([2 ** (k / 2) for k in range(10)])
NONE = np.zeros(10, dtype=bool)  # diverged


@pytest.mark.parametrize("star", [2.0, 4.0, 8.0])
def test_the_breaking_point_of_a_noisy_hinge_is_found(star):
    random = np.random.default_rng(0)
    found = [
        breaking_point(BETAS, 0.8 - 0.1 * np.maximum(0, np.log2(BETAS / star)) + random.normal(0, 0.005, 10), NONE)
        for _ in range(50)
    ]
    assert np.exp(np.mean(np.log(found))) == pytest.approx(star, rel=0.08)


@pytest.mark.parametrize(("last", "first"), [(4, 2**2.5), (2**2.5, 8), (1, 2**0.5)])
def test_a_flat_curve_breaks_between_the_last_run_that_trained_and_the_first_that_diverged(last, first):
    diverged = last + 1e-9 < BETAS
    found = breaking_point(BETAS, np.where(diverged, np.nan, 0.8), diverged)
    assert found == pytest.approx((last * first) ** 0.5)


def test_a_curve_that_falls_before_it_diverges_breaks_where_it_falls():
    accuracy = 0.8 - 0.1 * np.maximum(0, np.log2(BETAS / 2))
    diverged = BETAS > 12
    assert breaking_point(BETAS, np.where(diverged, np.nan, accuracy), diverged) == pytest.approx(2, rel=0.02)


def test_what_lies_outside_the_range_is_said_to():
    assert breaking_point(BETAS, np.full(10, 0.8), NONE) == math.inf
    assert breaking_point(BETAS, 0.8 + 0.01 * np.log(BETAS), NONE) == math.inf
    assert breaking_point(BETAS, np.full(10, np.nan), ~NONE) == -math.inf
    assert math.isnan(breaking_point(BETAS, np.full(10, np.nan), NONE))  # missing


def test_the_order_of_the_runs_does_not_matter():
    accuracy = 0.8 - 0.1 * np.maximum(0, np.log2(BETAS / 4))
    shuffled = np.random.default_rng(1).permutation(10)
    assert breaking_point(BETAS[shuffled], accuracy[shuffled], NONE) == breaking_point(BETAS, accuracy, NONE)


def test_the_peak_of_a_noisy_parabola_is_found():
    random = np.random.default_rng(0)
    log_n = np.repeat(np.log(np.geomspace(1e-5, 2e-2, 12)), 2)
    truth = 0.9 - 0.02 * (log_n - np.log(1.5e-3)) ** 2
    nothing = np.zeros(24, dtype=bool)
    found = [peak(log_n, truth + random.normal(0, 0.005, 24), nothing, 0.1) for _ in range(50)]
    assert np.exp(np.mean(np.log(found))) == pytest.approx(1.5e-3, rel=0.1)


def test_accuracy_that_only_rises_has_no_peak_inside():
    log_n = np.log(np.geomspace(1e-4, 1e-1, 8))
    nothing = np.zeros(8, dtype=bool)
    assert peak(log_n, 0.5 + 0.01 * log_n, nothing, 0.1) == math.inf
    assert peak(log_n, 0.5 - 0.01 * log_n, nothing, 0.1) == -math.inf
    flat = peak(log_n, np.full(8, 0.5) + 1e-3 * np.array([0, 0, 1, 0, 0, 1.1, 0, 0]), nothing, 0.1)
    assert math.isnan(flat) or log_n[0] < math.log(flat) < log_n[-1]


def test_the_edge_of_stability_is_interpolated_and_a_diverged_run_lies_beyond_it():
    stability = EDGE * (BETAS / 5) ** 0.7
    assert crossing(BETAS, stability, NONE) == pytest.approx(5)
    assert crossing(BETAS, np.where(BETAS > 3, np.nan, stability), BETAS > 3) == pytest.approx(2**1.75)
    missing = np.where(BETAS[3] == BETAS, np.nan, stability)
    assert crossing(BETAS, missing, NONE) == pytest.approx(5)  # a run that is missing says nothing
    assert math.isnan(crossing(BETAS, np.full(10, 1.0), NONE))  # not reached
    assert math.isnan(crossing(BETAS, np.full(10, 3.0), NONE))  # beyond it from the start
    assert math.isnan(crossing(BETAS, np.full(10, np.nan), NONE))


def test_runs_that_diverge_do_not_draw_the_peak_towards_them():
    log_n = np.repeat(np.log(np.geomspace(1e-5, 2e-2, 12)), 2)
    truth, diverged = 0.9 - 0.02 * (log_n - np.log(2e-3)) ** 2, log_n > np.log(9e-3)
    assert peak(log_n, np.where(diverged, np.nan, truth), diverged, 0.1) == pytest.approx(2e-3, rel=1e-6)
    one_missing = np.where(np.arange(24) == 15, np.nan, truth)
    assert peak(log_n, one_missing, np.zeros(24, dtype=bool), 0.1) == pytest.approx(2e-3, rel=1e-6)
