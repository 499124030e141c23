"""Where training reaches the edge of stability, and claims about breaks: on made-up curves whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from three_factors.reproduce import fig6, fig7, fig8
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.table import SyntheticTable
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.experiments.best_ratio import RESNET_RATIOS
from three_factors.reproduce.experiments.breaking_point import EDGE, MIDDLE_STABILITY, crossing
from three_factors.reproduce.experiments.metrics import VALID
from three_factors.reproduce.experiments.resnet_scaling import RESNET
from three_factors.reproduce.experiments.vgg_scaling import DATA_SIZES

BETAS = np.array([2 ** (k / 2) for k in range(10)])
NONE = np.zeros(10, dtype=bool)  # diverged


def test_the_edge_of_stability_is_interpolated_and_a_diverged_run_lies_beyond_it():
    stability = EDGE * (BETAS / 5) ** 0.7
    assert crossing(BETAS, stability, NONE) == pytest.approx(5)
    assert crossing(BETAS, np.where(BETAS > 3, np.nan, stability), BETAS > 3) == pytest.approx(2**1.75)
    missing = np.where(BETAS[3] == BETAS, np.nan, stability)
    assert crossing(BETAS, missing, NONE) == pytest.approx(5)  # a run that is missing says nothing
    assert crossing(BETAS, np.full(10, 1.0), NONE) == math.inf  # not reached
    assert crossing(BETAS, np.full(10, 3.0), NONE) == -math.inf  # beyond it from the start
    assert math.isnan(crossing(BETAS, np.full(10, np.nan), NONE))


def words(figure, scale, world):
    return {claim.id: claim for claim in judge(figure.check(world), look(5, 5), figure.primary)}


def with_accuracy(experiment, scale, change, **more):
    """The imagined world with another accuracy of each setting: change(factors, accuracy)."""
    drawn = experiment.imagined(scale, 5, np.random.default_rng(0))
    finals = {
        label: of
        | {VALID: change(drawn.factors[label], of[VALID])}
        | {k: f(drawn.factors[label]) for k, f in more.items()}
        for label, of in drawn.finals.items()
    }
    return SyntheticTable(finals, factors=drawn.factors)


def falling_at(star):
    noise = np.random.default_rng(1)

    def accuracy(of, _):
        lost = 0.08 * max(0.0, math.log2(of["b"] / (star(of) / 2**0.25)))
        return 0.8 - lost + noise.normal(0, 0.002, 5)

    return accuracy


def test_breaks_that_do_not_move_with_the_data_refute_that_they_do():
    same = words(fig6.FIGURE, "paper", with_accuracy(DATA_SIZES, "paper", falling_at(lambda of: 6.0)))
    assert (same["rises"].verdict, same["half_noise"].verdict) == ("not supported", "not supported")
    stars = {"a": 4.0, "b": 5.4, "c": 7.5, "d": 15.0, "a_time": 4.0, "d_time": 15.0}
    moved = words(fig6.FIGURE, "paper", with_accuracy(DATA_SIZES, "paper", falling_at(lambda of: stars[of["panel"]])))
    assert (moved["rises"].verdict, moved["half_noise"].verdict) == ("supported", "supported")
    assert moved["half_noise"].value == pytest.approx(2, rel=0.1)


def test_a_break_beyond_what_was_tried_bounds_the_ratio():
    stars = {"a": 4.0, "b": 5.4, "c": 7.5, "d": 400.0, "a_time": 4.0, "d_time": 400.0}
    world = with_accuracy(DATA_SIZES, "paper", falling_at(lambda of: stars[of["panel"]]))
    half = words(fig6.FIGURE, "paper", world)["half_noise"]
    assert half.high is None or math.isinf(half.high)
    assert half.low > 2.7
    assert half.verdict == "not supported"
    assert "5 of 5 seeds have it beyond the range" in half.note


@pytest.mark.parametrize(("at_one", "verdict"), [(0.3, "supported"), (2.0, "not supported")])
def test_an_edge_that_is_reached_at_the_smallest_b_is_not_what_breaks(at_one, verdict):
    star = 7.5
    exponent = math.log(EDGE / at_one) / math.log(star) if at_one < EDGE else 0.3
    noise = np.random.default_rng(2)
    world = with_accuracy(
        DATA_SIZES,
        "paper",
        falling_at(lambda of: star),
        **{MIDDLE_STABILITY: lambda of: at_one * of["b"] ** exponent * np.exp(noise.normal(0, 0.02, 5))},
    )
    edge = words(fig6.FIGURE, "paper", world)["edge"]
    assert edge.verdict == verdict


def test_where_seeds_differ_by_more_than_a_point_no_break_is_placed():
    noise = np.random.default_rng(3)
    noisy = with_accuracy(RESNET, "paper", lambda of, accuracy: accuracy + noise.normal(0, 0.03, 5))
    (claim,) = judge(fig7.FIGURE.check(noisy), look(5, 5), fig7.FIGURE.primary)
    assert claim.verdict == "not judged"
    assert "a cell's sd is" in claim.note


def test_a_peak_at_an_edge_is_not_one_between():
    rising = with_accuracy(RESNET_RATIOS, "paper", lambda of, _: 0.8 + 0.02 * math.log(of["n"]) + np.arange(5) / 1e4)
    assert words(fig8.FIGURE, "paper", rising)["interior"].verdict == "not supported"
    whole = words(fig8.FIGURE, "paper", RESNET_RATIOS.imagined("paper", 5, np.random.default_rng(4)))
    assert {whole[name].verdict for name in ("interior", "location", "slope")} == {"supported"}
    by_eta = with_accuracy(  # the best eta is the same at every S
        RESNET_RATIOS, "paper", lambda of, _: 0.9 - 0.02 * math.log(of["eta"] / 0.2) ** 2 + np.arange(5) / 1e3
    )
    assert words(fig8.FIGURE, "paper", by_eta)["slope"].verdict == "not supported"


def test_small_batches_lose_what_they_were_made_to_lose():
    world = with_accuracy(DATA_SIZES, "quick", lambda of, _: np.full(5, 0.7 if of["b"] < 1 else 0.8))
    assert DATA_SIZES.drop_at_small_batches(world) == pytest.approx(np.full(5, 0.1))
    assert replace(DATA_SIZES.panels["a"]).id == "a"
