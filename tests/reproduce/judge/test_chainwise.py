"""Intervals over chains cover at their rate; claims are not judged unless chains from every start agree."""

import numpy as np
import pytest
from scipy import stats

from three_factors.reproduce.engine.judge import chainwise
from three_factors.reproduce.engine.judge.chainwise import Direction, Range
from three_factors.reproduce.engine.judge.claims import Statement
from three_factors.reproduce.engine.judge.looks import ONLY
from three_factors.reproduce.engine.judge.verdicts import judge

MIXED = 0.05
REPETITIONS = 400
ABOUT = Statement("about", "a claim", "a statistic")


def covers_at(rate, findings, truth):
    """That as many intervals contain the truth as would by chance at this rate, but for one case in a thousand."""
    intervals = [finding.estimate.interval(rate) for finding in findings]
    inside = sum(low <= truth <= high for low, high in intervals)
    low, high = stats.binom.interval(0.999, len(findings), rate)
    return low <= inside <= high


def judged(finding):
    (claim,) = judge([finding], ONLY)
    return claim


def squares(random, chains=1000):
    """Values of mean 3, no Gaussians: squares of one, as the scripts have them."""
    return 3 * random.standard_normal(chains) ** 2


def test_the_interval_of_equal_covers_at_90_percent():
    random = np.random.default_rng(0)
    claims = [chainwise.equal(ABOUT, squares(random), 2.0, 0.1) for _ in range(REPETITIONS)]
    assert covers_at(0.9, claims, 1.5)


@pytest.mark.parametrize("reference", [2.0, -2.0])
def test_equal_is_relative_to_a_reference_of_either_sign(reference):
    values = np.sign(reference) * squares(np.random.default_rng(1), 100_000) / 1.5
    claim = judged(chainwise.equal(ABOUT, values, reference, 0.05))
    assert claim.verdict == "supported"
    assert claim.low < 1 < claim.high


@pytest.mark.parametrize("rule", [Range(2.0, 4.0), Direction(1, smallest=0.5, null=2.0)], ids=["range", "direction"])
def test_the_interval_of_an_estimate_with_a_known_error_covers_at_90_percent(rule):
    random, claims = np.random.default_rng(2), []
    for _ in range(REPETITIONS):
        values = squares(random)
        estimate = float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
        claims.append(chainwise.over_chains(ABOUT, *estimate, rule, len(values)))
    assert covers_at(0.9, claims, 3.0)


def in_proportion(random, chains):
    """x, and the mean over chains of values in proportion to it, as the function that `exponent` takes."""
    x = np.array([1.0, 2.0, 4.0, 8.0])
    values = x[:, None] * (1 + 0.5 * random.standard_normal((len(x), chains)))
    return x, lambda used: values[:, used].mean(axis=1)


def test_the_jackknifes_interval_of_an_exponent_covers_at_95_percent():
    random, chains = np.random.default_rng(3), 500
    claims = [chainwise.exponent(ABOUT, *in_proportion(random, chains), chains) for _ in range(REPETITIONS)]
    assert covers_at(0.95, claims, 1.0)


def test_at_a_bound_a_jackknifed_claim_is_wrongly_supported_at_its_level():
    """Its error has 19 degrees of freedom. Judged as normal it was supported in 1.6 times as many cases as allowed."""
    random, trials, chains, rule = np.random.default_rng(10), 20_000, 40, Direction(1, smallest=0.1)

    def mean(values):
        return lambda used: float(values @ used) / used.sum()

    samples = random.standard_normal((trials, chains))
    supported = sum(rule.p_support(chainwise.jackknife(mean(values), chains)) <= 0.01 for values in samples)
    assert supported <= stats.binom.ppf(0.999, trials, 0.01)


def test_what_is_taken_over_a_reference_keeps_its_degrees_of_freedom():
    found = chainwise.OverChains(3.0, 0.5, 100, 19.0).over(2.0)
    assert found == chainwise.OverChains(1.5, 0.25, 100, 19.0)


@pytest.mark.parametrize(
    ("power", "chains", "verdict"),
    [(1.0, 20_000, "supported"), (2.0, 20_000, "not supported"), (1.0, 20, "inconclusive")],
)
def test_an_exponent_is_one_if_its_interval_lies_about_it(power, chains, verdict):
    x, distances = in_proportion(np.random.default_rng(4), chains)
    claim = judged(chainwise.exponent(ABOUT, x, lambda used: distances(used) ** power, chains))
    assert claim.verdict == verdict
    assert claim.value == pytest.approx(power, abs=0.3)


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.5, 0.1, "supported"),
        (0.9, 0.1, "inconclusive"),
        (1.1, 0.1, "inconclusive"),
        (1.5, 0.1, "not supported"),
        (-0.5, 0.1, "not supported"),
        (0.5, 5.0, "inconclusive"),
        (0.5, 0.0, "supported"),
        (1.5, 0.0, "not supported"),
    ],
)
def test_an_equivalence_is_supported_inside_the_margin_and_refuted_outside(value, error, verdict):
    claim = judged(chainwise.over_chains(ABOUT, value, error, Range(0.0, 1.0), 100))
    assert claim.verdict == verdict
    assert (claim.p_support < 0.05) == (verdict == "supported")


@pytest.mark.parametrize(
    ("value", "smallest", "verdict"),
    [
        (1.5, 0.2, "supported"),
        (1.17, 0.2, "supported"),
        (1.1, 0.2, "inconclusive"),
        (1.05, 0.2, "inconclusive"),
        (1.03, 0.2, "not supported"),
        (0.9, 0.2, "not supported"),
        (0.5, 0.2, "not supported"),
        (0.9, 0.05, "inconclusive"),
        (0.85, 0.0, "inconclusive"),
        (0.83, 0.0, "not supported"),
    ],
)
def test_what_is_above_a_bound_is_refuted_where_the_smallest_effect_of_interest_is_excluded(value, smallest, verdict):
    claim = judged(chainwise.over_chains(ABOUT, value, 0.1, Direction(1, smallest, null=1.0), 100))
    assert claim.verdict == verdict
    assert (claim.p_support < 0.05) == (verdict == "supported")
    assert claim.statistic.endswith(f"> 1, smallest effect of interest {smallest:g}")


def test_at_the_margins_edge_an_equivalence_is_wrongly_supported_once_in_twenty():
    random = np.random.default_rng(5)
    verdicts = [judged(chainwise.equal(ABOUT, squares(random), 3 / 1.1, 0.1)).verdict for _ in range(REPETITIONS)]
    assert verdicts.count("supported") <= stats.binom.ppf(0.999, REPETITIONS, 0.05)


# -- mixing


def starts(random, *shares, chains=20_000):
    return {f"start {i}": random.random(chains) < share for i, share in enumerate(shares)}


def claims():
    other = Statement("other", "another claim", "a statistic")
    return [
        chainwise.over_chains(ABOUT, 0.5, 0.01, Range(0.0, 1.0), 100),
        chainwise.over_chains(other, 2.0, 0.1, Direction(1, smallest=0.1, null=1.0), 100),
    ]


def test_claims_stay_as_they_are_where_chains_from_every_start_agree():
    found = claims()
    assert chainwise.unless_mixed(found, starts(np.random.default_rng(6), 0.4, 0.4, 0.41), MIXED) == found
    assert {claim.verdict for claim in judge(found, ONLY)} == {"supported"}


@pytest.mark.parametrize(
    "shares", [(0.4, 0.4, 0.4 + 2 * MIXED), (0.4 + 2 * MIXED, 0.4, 0.4), (0.4, 0.4 - 2 * MIXED, 0.4), (0.0, 1.0)]
)
def test_claims_are_not_judged_where_chains_of_two_starts_differ(shares):
    found = judge(chainwise.unless_mixed(claims(), starts(np.random.default_rng(7), *shares), MIXED), ONLY)
    assert [(claim.verdict, claim.holm_support) for claim in found] == [("not judged", 1.0)] * 2
    assert all(claim.note.startswith("not mixed: chains from 'start ") for claim in found)
    assert [claim.value for claim in found] == [0.5, 2.0]


def test_so_few_chains_that_they_cannot_agree_are_not_judged():
    few = starts(np.random.default_rng(8), 0.4, 0.4, chains=50)
    found = judge(chainwise.unless_mixed(claims(), few, MIXED), ONLY)
    assert {claim.verdict for claim in found} == {"not judged"}


def test_chains_at_the_edge_of_agreement_pass_as_mixed_once_in_twenty():
    random, passed = np.random.default_rng(9), 0
    for _ in range(REPETITIONS):
        found = chainwise.unless_mixed(claims(), starts(random, 0.4, 0.4 + MIXED, chains=5000), MIXED)
        passed += not found[0].unjudged
    assert passed <= stats.binom.ppf(0.999, REPETITIONS, 0.05)
