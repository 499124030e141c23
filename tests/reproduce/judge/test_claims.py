"""Verdicts: each rule on constructed data, error rates under the null."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from three_factors.reproduce.engine.judge import claims
from three_factors.reproduce.engine.judge.claims import Claim, NoiseContrast, Statement, holm
from three_factors.reproduce.engine.judge.rules import Direction
from three_factors.reproduce.engine.judge.table import Table


def table(arms, curves=None):
    rows = [(label, i, "ok", v) for label, values in arms.items() for i, v in enumerate(values)]
    frames = {}
    for label, several in (curves or {}).items():
        frames |= {(label, i): pd.DataFrame({"t_eta": np.arange(len(c)), "loss": c}) for i, c in enumerate(several)}
    return Table(pd.DataFrame(rows, columns=["label", "seed", "status", "acc"]), frames)


def equivalent(x, y, margin=0.5):
    return claims.equivalent(ABOUT, table({"a": x, "b": y}), "a", "b", on="acc", margin=margin)


ABOUT = Statement("about", "what is claimed")
OWN = NoiseContrast(("a", "b"), "c", on="acc")
SPREAD = np.array([-0.1, 0.0, 0.1, 0.05, -0.05])


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [(0.1, 1, "supported"), (2.0, 1, "not supported"), (0.4, 10, "inconclusive"), (0.0, 50, "inconclusive")],
)
def test_equivalence_needs_the_whole_interval_inside_the_margin(shift, spread, verdict):
    assert equivalent(SPREAD * spread, SPREAD * spread + shift).verdict == verdict


def test_the_interval_is_welchs():
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 1.5, 3.5])
    claim, expected = equivalent(x, y), stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.9)
    assert (claim.low, claim.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.slow
def test_equivalence_is_falsely_supported_in_at_most_five_percent_at_the_margin():
    random = np.random.default_rng(0)
    wrong = [
        equivalent(random.normal(0.5, 0.2, 5), random.normal(0, 0.2, 5)).verdict == "supported" for _ in range(1500)
    ]
    assert np.mean(wrong) < 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


@pytest.mark.parametrize(("shift", "verdict"), [(1.0, "supported"), (-1.0, "not supported"), (0.05, "inconclusive")])
def test_a_directional_claim_needs_its_lower_bound_above_zero(shift, verdict):
    t = table({"a": SPREAD + shift, "b": SPREAD})
    assert claims.differ(ABOUT, t, "a", "b", Direction(1, smallest=0.1), on="acc").verdict == verdict


def share(a, b, c):
    t = table({"a": a, "b": b, "c": c})
    return claims.share_of_effect(ABOUT, t, "a", "b", noise=OWN, margin=1 / 3)


def test_a_share_is_judged_against_what_the_noise_does():
    assert share(SPREAD, SPREAD + 0.1, SPREAD - 3).verdict == "supported"
    assert share(SPREAD, SPREAD + 3, SPREAD - 3).verdict == "not supported"


def test_without_a_visible_effect_of_noise_the_share_is_inconclusive():
    claim = share(SPREAD, SPREAD, SPREAD + 0.01)
    assert (claim.verdict, claim.low) == ("inconclusive", None)
    assert "no effect of noise is shown" in claim.note


def test_the_effect_of_noise_may_come_from_another_pair():
    t = table({"a": SPREAD + 5, "b": SPREAD + 4.9, "c": SPREAD, "d": SPREAD + 1, "e": SPREAD + 1})
    noise = NoiseContrast(("d", "e"), "c", on="acc")
    claim = claims.share_of_effect(ABOUT, t, "a", "b", noise=noise, margin=1 / 3)
    assert claim.value == pytest.approx(0.1)
    assert claim.n == 5


def test_what_coincides_where_noise_does_nothing_is_inconclusive():
    made = [equivalent(SPREAD, SPREAD), equivalent(SPREAD, SPREAD + 9)]
    for shift, kept in ((3.0, True), (0.01, False)):
        t = table({"a": SPREAD, "b": SPREAD, "c": SPREAD - shift})
        judged = [c.verdict for c in claims.where_noise_shows(made, t, "a", "b", OWN)]
        assert judged == (["supported", "not supported"] if kept else ["inconclusive"] * 2)
    apart = table({"a": SPREAD, "b": SPREAD + 4, "c": SPREAD - 1})  # the pair differs more than the control
    assert claims.where_noise_shows(made, apart, "a", "b", OWN)[1].verdict == "inconclusive"


def test_where_the_control_did_not_train_nothing_is_said_of_noise():
    made = [equivalent(SPREAD, SPREAD)]
    lone = table({"a": SPREAD, "b": SPREAD, "c": SPREAD[:1]})
    (judged,) = claims.where_noise_shows(made, lone, "a", "b", OWN)
    assert judged.verdict == "inconclusive"


def test_what_was_noted_of_a_claim_stays_when_its_verdict_is_taken_back():
    made = [Claim(str(p), "", "", 0, 0, 0, 5, "supported", p=p, note="3 of 5 trained") for p in (0.04, 0.03)]
    assert all(c.note == f"3 of 5 trained; {claims.HOLM}" for c in holm(made))


@pytest.mark.parametrize(
    ("claim", "of", "is_one"),
    [
        ("norm.momentum_0", "norm.momentum_0", True),
        ("norm.momentum_0_9", "norm.momentum_0", False),
        ("norm.all", "norm", True),
        ("norms", "norm", False),
        ("norm", "norm.all", False),
        ("anything", claims.EVERY, True),
        ("anything", "", False),
    ],
)
def test_a_control_is_of_the_claim_that_it_names_or_of_those_below_that_name(claim, of, is_one):
    control = {"id": "a control", "control_of": of}
    assert claims.controls({"id": claim, "control_of": ""}, [control]) == [control] * is_one


def made(name, control_of=""):
    return Claim(name, "", "", 0, 0, 0, 5, "supported", p=0.01, control_of=control_of)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([made("a"), made("a")], "id: 2 claims are named 'a'"),
        ([made("")], "id: 1 claims are named ''"),
        ([made("a"), made("b", control_of="c")], "control_of: 'c' of 'b' is no claim"),
        ([made("a.one"), made("b", control_of="a.on")], "control_of: 'a.on' of 'b' is no claim"),
        ([made("b", control_of="b")], "control_of: 'b' of 'b' is no claim"),
    ],
)
def test_claims_whose_names_do_not_do_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        holm(given)


def test_a_number_in_an_id_has_no_dot():
    """momentum 0.9 would else be below momentum 0."""
    assert [claims.key(x) for x in (0.0, 0.9, 25.0, -0.5, 1e-4)] == ["0", "0_9", "25", "m0_5", "0_0001"]


def test_arms_without_any_spread_are_judged_without_a_crash():
    assert share([0.1, 0.1], [0.1, 0.1], [0.12, 0.12]).verdict == "supported"


def test_curves_are_paired_by_seed_when_one_diverged():
    same = curves(5)
    t = table({}, {"a": same, "b": same})
    lame = Table(t.frame, {k: v for k, v in t.rows.items() if k != ("a", 0)})
    whole = Table(t.frame, {k: v for k, v in t.rows.items() if k[1] != 0})
    values = [claims.same_curve(ABOUT, x, "a", "b", on="loss", bound=1.5).value for x in (lame, whole)]
    assert values[0] == values[1]


@pytest.mark.slow
def test_fiellers_interval_covers_the_true_share_in_ninety_percent():
    random, hits, trials = np.random.default_rng(1), 0, 1500
    for _ in range(trials):
        a, b, c = (random.normal(mean, 0.5, 5) for mean in (2.3, 2.0, 0.15))  # share 0.15 of 2
        claim = share(a, b, c)
        hits += claim.low is not None and claim.low <= 0.15 <= claim.high
    assert 0.87 < hits / trials < 0.93


def curves(n, shift=0.0, seed=0):
    return shift + np.random.default_rng(seed).normal(0, 1, (n, 30))


def test_curves_no_further_apart_than_seeds_are_the_same():
    def make(shift):
        several = {"a": curves(6), "b": curves(6, shift, seed=1)}
        return claims.same_curve(ABOUT, table({}, several), "a", "b", on="loss", bound=1.5)

    assert make(0.0).verdict == "supported"
    assert make(0.0).value == pytest.approx(1, abs=0.15)
    assert make(5.0).verdict == "not supported"


def test_curves_at_other_times_are_not_compared():
    t = table({}, {"a": curves(4), "b": curves(4)[:, :20]})
    with pytest.raises(ValueError, match="not measured at the same t_eta"):
        claims.same_curve(ABOUT, t, "a", "b", on="loss", bound=1.5)


def test_too_few_runs_are_not_judged():
    assert equivalent([1.0], [1.0, 2.0]).verdict == "not judged"


def test_holm_takes_back_what_does_not_survive_it():
    made = [Claim(str(p), "", "", 0, 0, 0, 5, "supported", p=p) for p in (0.001, 0.04, 0.03)]
    judged = holm(made)
    assert [c.p_holm for c in judged] == pytest.approx([0.003, 0.06, 0.06])
    assert [c.verdict for c in judged] == ["supported", "inconclusive", "inconclusive"]
