"""Where accuracy breaks, where it peaks: found on made-up curves whose answer is known."""

import math

import numpy as np
import pytest

from reproduce.experiments.breaking_point import breaking_point, crossing, peak

BETAS = np.array([2 ** (k / 2) for k in range(10)])


@pytest.mark.parametrize("star", [2.0, 4.0, 8.0])
def test_the_breaking_point_of_a_noisy_hinge_is_found(star):
    random = np.random.default_rng(0)
    found = [
        breaking_point(BETAS, 0.8 - 0.1 * np.maximum(0, np.log2(BETAS / star)) + random.normal(0, 0.005, 10))
        for _ in range(50)
    ]
    assert np.exp(np.mean(np.log(found))) == pytest.approx(star, rel=0.08)


def test_runs_that_diverge_count_as_broken():
    accuracy = np.where(BETAS > 6, np.nan, 0.8)
    assert 3 < breaking_point(BETAS, accuracy) < 8


def test_accuracy_that_does_not_break_has_no_breaking_point():
    assert math.isnan(breaking_point(BETAS, np.full(10, 0.8)))
    assert math.isnan(breaking_point(BETAS, 0.8 + 0.01 * np.log(BETAS)))


def test_the_order_of_the_runs_does_not_matter():
    accuracy = 0.8 - 0.1 * np.maximum(0, np.log2(BETAS / 4))
    shuffled = np.random.default_rng(1).permutation(10)
    assert breaking_point(BETAS[shuffled], accuracy[shuffled]) == breaking_point(BETAS, accuracy)


def test_the_peak_of_a_noisy_parabola_is_found():
    random = np.random.default_rng(0)
    log_n = np.repeat(np.log(np.geomspace(1e-5, 2e-2, 12)), 2)
    truth = 0.9 - 0.02 * (log_n - np.log(1.5e-3)) ** 2
    found = [peak(log_n, truth + random.normal(0, 0.005, 24)) for _ in range(50)]
    assert np.exp(np.mean(np.log(found))) == pytest.approx(1.5e-3, rel=0.1)


def test_accuracy_that_only_rises_has_no_peak_inside():
    log_n = np.log(np.geomspace(1e-4, 1e-1, 8))
    assert math.isnan(peak(log_n, 0.5 + 0.01 * log_n))


def test_the_edge_of_stability_is_interpolated_and_a_diverged_run_lies_beyond_it():
    stability = 2 * (BETAS / 5) ** 0.7
    assert crossing(BETAS, stability) == pytest.approx(5)
    assert crossing(BETAS, np.where(BETAS > 3, np.nan, stability)) == pytest.approx(2**1.75)
    assert math.isnan(crossing(BETAS, np.full(10, 1.0)))  # not reached
    assert math.isnan(crossing(BETAS, np.full(10, 3.0)))  # beyond it from the start
