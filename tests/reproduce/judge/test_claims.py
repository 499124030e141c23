"""Words: each rule on constructed data, the family, gates, lost values, what stands in a word's way."""

from dataclasses import replace

import numpy as np
import pytest

from three_factors.reproduce.engine.judge import claims, stored_claims, verdicts
from three_factors.reproduce.engine.judge.chainwise import OverChains
from three_factors.reproduce.engine.judge.claims import Finding, Statement
from three_factors.reproduce.engine.judge.estimates import LOG, OverSeeds
from three_factors.reproduce.engine.judge.looks import ALPHA, ONLY, look
from three_factors.reproduce.engine.judge.rules import Direction, Range, as_json, from_json, within
from three_factors.reproduce.engine.judge.seedwise import NoiseContrast, differ, gate, over_seeds, share
from three_factors.reproduce.engine.judge.table import SyntheticTable
from three_factors.reproduce.engine.judge.verdicts import holm_adjusted, judge

SPREAD = np.array([-0.1, 0.0, 0.1, 0.05, -0.05])
ABOUT = Statement("about", "what is claimed", "mean")


def found(values, rule, name="a", **more):
    return Finding(Statement(name, "a claim", "mean"), rule, OverSeeds(np.asarray(values, dtype=float)), **more)


def word(*findings, seeds=5, primary=None):
    primary = [one.about.id for one in findings] if primary is None else primary
    return [claim.verdict for claim in judge(findings, look(seeds, 5), primary)]


@pytest.mark.parametrize(
    ("shift", "spread", "rule", "verdict"),
    [
        (1.0, 1, Direction(1, 0.1), "supported"),
        (-1.0, 1, Direction(1, 0.1), "not supported"),
        (0.05, 1, Direction(1, 0.1), "inconclusive"),
        (-1.0, 1, Direction(-1, 0.1), "supported"),
        (0.1, 1, within(0.5), "supported"),
        (2.0, 1, within(0.5), "not supported"),
        (-2.0, 1, within(0.5), "not supported"),
        (0.4, 10, within(0.5), "inconclusive"),
        (0.0, 50, within(0.5), "inconclusive"),
        (0.1, 1, Direction(1, 0.0, null=-0.3), "supported"),  # non-inferiority
        (-0.6, 1, Direction(1, 0.0, null=-0.3), "not supported"),
    ],
)
def test_a_word_follows_from_where_the_interval_lies(shift, spread, rule, verdict):
    assert word(found(SPREAD * spread + shift, rule)) == [verdict]
    assert from_json(as_json(rule)) == rule


def test_an_effect_that_is_shown_to_be_small_is_supported_and_said_to_be_small():
    (claim,) = judge([found(SPREAD / 100 + 0.02, Direction(1, 0.1))], look(5, 5), ["a"])
    assert (claim.verdict, claim.small) == ("supported", True)
    assert verdicts.SMALLER in claim.note
    (large,) = judge([found(SPREAD / 100 + 0.2, Direction(1, 0.1))], look(5, 5), ["a"])
    assert not large.small


def test_only_primary_claims_are_given_a_word_and_the_others_an_interval():
    clear = found(SPREAD + 1, Direction(1, 0.1), "b")
    first, other = judge([found(SPREAD + 1, Direction(1, 0.1)), clear], look(5, 5), ["a"])
    assert (first.verdict, first.primary) == ("supported", True)
    assert (other.verdict, other.primary, other.holm_support) == ("estimated", False, None)
    assert (other.value, other.low, other.high) == (first.value, first.low, first.high)


def test_holm_is_over_all_primary_claims_missing_ones_counted():
    assert holm_adjusted({"a": 0.001, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.003, "b": 0.06, "c": 0.06})
    borderline = found(SPREAD + 0.12, Direction(1, 0.0))
    assert word(borderline) == ["supported"]
    (claim,) = judge([borderline], look(5, 5), ["a", "b", "c", "d"])
    assert claim.verdict == "inconclusive"
    assert "alone it would be supported" in claim.note
    assert claim.holm_support == pytest.approx(4 * 2 * claim.p_support)


def test_supports_and_refutations_are_families_of_their_own():
    clear, borderline = found(SPREAD - 1, Direction(1, 0.1), "a"), found(SPREAD + 0.11, Direction(1, 0.0), "b")
    assert word(clear, borderline) == ["not supported", "inconclusive"]  # the second among two
    assert word(borderline) == ["supported"]


@pytest.mark.slow
def test_a_family_of_nulls_has_a_word_in_one_case_of_twenty():
    random, wrong, trials = np.random.default_rng(0), 0, 800
    for _ in range(trials):
        drawn = [found(random.normal(0, 1, 5), Direction(1, 5.0), name) for name in "abcd"]
        wrong += "supported" in word(*drawn)
    assert wrong / trials <= ALPHA / 2 + 3 * (0.025 * 0.975 / trials) ** 0.5  # the first look's half of the level


def test_what_is_alike_where_noise_does_nothing_is_inconclusive():
    alike = found(SPREAD / 10, within(0.5), gate=gate(SPREAD + 1))
    assert word(alike) == ["supported"]
    nothing = replace(alike, gate=gate(SPREAD))
    (claim,) = judge([nothing], look(5, 5), ["a"])
    assert claim.verdict == "inconclusive"
    assert stored_claims.GATED in claim.note
    assert word(replace(found(SPREAD + 3, within(0.5)), gate=1.0)) == ["not supported"]  # apart all the same


def test_a_gate_in_the_wrong_direction_is_none():
    assert gate(SPREAD - 1) > 0.9
    assert gate(np.array([np.nan, 1.0])) == 1.0


def test_more_than_one_seed_in_five_without_a_value_decides_nothing():
    values = np.array([1.0, 1.1, 0.9, 1.0, np.nan])
    assert word(found(values, Direction(1, 0.1))) == ["supported"]
    (claim,) = judge([found([1.0, 1.1, 0.9, np.nan, np.nan], Direction(1, 0.1))], look(5, 5), ["a"])
    assert (claim.verdict, claim.lost) == ("inconclusive", 2)
    assert "more than one seed in five" in claim.note
    assert "2 of 5 seeds have no value" in claim.note


def test_too_few_values_and_whatever_stands_in_the_way_are_not_judged():
    none = over_seeds(ABOUT, np.array([1.0, np.nan]), within(1))
    (claim,) = judge([none], look(5, 5), ["about"])
    assert (claim.verdict, claim.value, claim.note) == ("not judged", None, "too few runs that have a value")
    kept = found(SPREAD + 1, Direction(1, 0.1)).without("smoke scale")
    (claim,) = judge([kept], look(5, 5), ["a"])
    assert (claim.verdict, claim.note) == ("not judged", "smoke scale")
    assert claim.value == pytest.approx(1.0)


def test_simulations_are_looked_at_once_and_all_of_them_are_a_family():
    given = [Finding(Statement(name, "", ""), within(0.1), OverChains(0.0, 0.03, 9)) for name in "ab"]
    first, _ = judge(given, ONLY)
    assert (first.verdict, first.confidence) == ("supported", 0.9)
    assert first.holm_support == pytest.approx(2 * first.p_support)


TABLE = {
    "a": {"x/accuracy": SPREAD + 5, "loss": np.exp(SPREAD)},
    "b": {"x/accuracy": SPREAD + 4.9, "loss": np.exp(SPREAD + 0.01)},
    "c": {"x/accuracy": SPREAD, "loss": np.exp(SPREAD - 2)},
}


def test_pairs_are_of_one_seed():
    """What all arms of a seed share takes no part in their difference."""
    found = differ(ABOUT, SyntheticTable(TABLE), "a", "b", within(0.5), on="x/accuracy")
    assert found.estimate.interval(0.95) == pytest.approx((0.1, 0.1))
    assert found.unit == "share"
    ratio = differ(ABOUT, SyntheticTable(TABLE), "a", "b", Range(0.5, 2), on="loss", scale=LOG)
    assert ratio.estimate.value == pytest.approx(np.exp(-0.01))


@pytest.mark.parametrize(("on", "scale", "value"), [("x/accuracy", claims, 0.1 / 4.95), ("loss", LOG, -0.01 / 2.005)])
def test_a_share_is_of_what_the_noise_does(on, scale, value):
    noise = NoiseContrast(("a", "b"), "c", on, **({"scale": LOG} if scale is LOG else {}))
    found = share(ABOUT, SyntheticTable(TABLE), "a", "b", noise)
    assert found.estimate.value == pytest.approx(value)
    assert word(replace(found, about=Statement("a", "", ""))) == ["supported"]
    against = replace(noise, sign=-1)  # noise acts the other way: nothing is shown
    assert word(replace(share(ABOUT, SyntheticTable(TABLE), "a", "b", against), about=Statement("a", "", ""))) == [
        "inconclusive"
    ]


def test_a_direction_from_a_null_that_a_logarithm_does_not_have_is_refused():
    with pytest.raises(ValueError, match="null: 0 is not positive"):
        over_seeds(ABOUT, np.ones(3), Direction(1, 0.1), LOG)


@pytest.mark.parametrize(
    ("claim", "of", "is_one"),
    [
        ("norm.momentum_0", "norm.momentum_0", True),
        ("norm.momentum_0_9", "norm.momentum_0", False),
        ("norm.all", "norm", True),
        ("norms", "norm", False),
        ("norm", "norm.all", False),
        ("anything", claims.ALL_CLAIMS, True),
        ("anything", "", False),
    ],
)
def test_a_control_is_of_the_claim_that_it_names_or_of_those_below_that_name(claim, of, is_one):
    control = {"id": "a control", "control_of": of}
    assert stored_claims.controls({"id": claim, "control_of": ""}, [control]) == [control] * is_one


def named(name, control_of=""):
    return Finding(Statement(name, "", control_of=control_of), within(1), None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([named("a"), named("a")], "id: 2 claims are named 'a'"),
        ([named("")], "id: 1 claims are named ''"),
        ([named("a"), named("b", control_of="c")], "control_of: 'c' of 'b' is no claim"),
        ([named("a.one"), named("b", control_of="a.on")], "control_of: 'a.on' of 'b' is no claim"),
        ([named("b", control_of="b")], "control_of: 'b' of 'b' is no claim"),
    ],
)
def test_claims_whose_names_do_not_do_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        judge(given, ONLY)


def test_a_number_in_an_id_has_no_dot():
    """momentum 0.9 would else be below momentum 0."""
    assert [claims.key(x) for x in (0.0, 0.9, 25.0, -0.5, 1e-4)] == ["0", "0_9", "25", "m0_5", "0_0001"]


@pytest.mark.parametrize(
    ("own", "arms", "word"),
    [
        ("supported", [], "open"),
        ("supported", ["supported", "supported"], "survives"),
        ("supported", ["supported", "inconclusive"], "open"),
        ("inconclusive", ["supported"], "open"),
        ("inconclusive", ["inconclusive", "not supported"], "falls"),
        ("supported", ["not judged"], "open"),
    ],
)
def test_a_claim_survives_the_controls_that_is_supported_in_all_of_them(own, arms, word):
    assert stored_claims.survives({"verdict": own}, [{"verdict": verdict} for verdict in arms]) == word


def test_a_stored_claim_tells_bounds_that_there_are_not():
    claim = {"value": 3.0, "low": 1.5, "high": None, "unit": ""}
    assert stored_claims.interval(claim) == "3 [1.5, ∞]"
    assert stored_claims.interval(claim | {"low": None}) == "3 [unbounded]"
    assert stored_claims.interval(claim | {"value": None}) == "no value"
    assert stored_claims.interval({"value": 0.012, "low": 0.0, "high": 0.02, "unit": "share"}) == "1.20 [0.00, 2.00] pp"


UNDECIDED = {
    "verdict": "inconclusive",
    "confidence": 0.95,
    "p_support": 0.0408,
    "p_refute": 0.9592,
    "holm_support": 0.163,
    "holm_refute": 1.0,
    "rule": as_json(within(1 / 3)),
    "low": -0.488,
    "high": 0.264,
    "note": "",
}
INSIDE = {"low": -0.1, "high": 0.1}
ALONE = {"p_support": 0.02} | INSIDE


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "support: p 0.041, at most 0.025 needed"),
        ({"confidence": 0.975}, "support: p 0.041, at most 0.0125 needed"),
        ({"p_support": 0.02503}, "support: p 0.02503, at most 0.025 needed"),  # as many digits as show it
        ({"p_support": 0.97, "p_refute": 0.03}, "refutation: p 0.03, at most 0.025 needed"),  # which came nearer
        (INSIDE, "noise acts: p 0.041, at most 0.025 needed"),
        (INSIDE | {"note": stored_claims.GATED}, ""),
        (
            {"rule": as_json(Direction(-1, 0.1, null=1.0)), "low": 0.5, "high": 0.9},
            "noise acts: p 0.041, at most 0.025 needed",
        ),
        ({"rule": as_json(Direction(1, 0.1)), "high": None}, "support: p 0.041, at most 0.025 needed"),
        ({"low": None, "high": None}, "support: p 0.041, at most 0.025 needed"),
        (ALONE, "Holm: p 0.16, at most 0.05 needed"),
        (ALONE | {"note": "; ".join([stored_claims.HOLM.format("supported"), "11 of 24 cells"])}, ""),
        (ALONE | {"holm_support": 0.04}, ""),  # an earlier look stands, as its note says
        ({"p_support": None, "p_refute": None}, ""),  # too many lost
        ({"verdict": "not judged"}, ""),
        ({"verdict": "supported"}, ""),
    ],
)
def test_an_undecided_claim_says_what_it_lacked(changes, told):
    assert stored_claims.why_undecided(UNDECIDED | changes) == told


def test_what_a_claim_lacked_is_not_known_of_folders_without_ps():
    assert stored_claims.why_undecided({"verdict": "inconclusive", "note": ""}) == ""


@pytest.mark.parametrize(("shift", "noise"), [(0.3, 0.0), (0.6, 0.0), (1.0, 0.0), (1.0, 2.0), (0.83, 2.0)])
def test_every_undecided_claim_has_a_note_or_a_reason(shift, noise):
    """Of two in a family, one of which noise may not reach."""
    values = SPREAD * 4 + shift
    pair = found(values, within(1), "a", gate=gate(SPREAD + noise)), found(values, Direction(1, 1.2), "b")
    undecided = [claim for claim in judge(pair, look(5, 5), ["a", "b"]) if claim.verdict == "inconclusive"]
    assert undecided
    assert all(bool(claim.note) != bool(stored_claims.why_undecided(claim.as_json())) for claim in undecided)
