"""Power from the spread that was found, with the range of it that so many seeds allow; it is never acted on."""

import json

import numpy as np
import pytest

from tests.reproduce.figures import source
from three_factors.reproduce.engine import judging
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.judge import power
from three_factors.reproduce.engine.judge.estimates import OverSeeds
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.rules import Direction, Range, as_json, within
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.fig4 import FIGURE


def claim(rule, spread, n=5, **more):
    return {
        "id": "a",
        "claim": "a claim",
        "rule": as_json(rule),
        "spread": spread,
        "n": n,
        "primary": True,
        "scale": "",
    } | more


@pytest.mark.parametrize(
    ("rule", "truth", "sd"),
    [
        (Direction(1, 0.5), 1.0, 0.8),
        (Direction(-1, 0.5, null=0.2), -0.8, 0.6),
        (within(0.5), 0.0, 0.25),
        (Range(1, 2), 1.5, 0.3),
    ],
)
def test_power_is_the_share_of_experiments_that_support_the_claim(rule, truth, sd):
    random = np.random.default_rng(0)
    for seeds in (5, 10):
        level = look(seeds, 5).level
        hits = [rule.p_support(OverSeeds(random.normal(truth, sd, seeds))) <= level for _ in range(1_500)]
        assert power.power(claim(rule, sd), sd, seeds, 5) == pytest.approx(np.mean(hits), abs=0.04)


def test_the_range_of_a_spread_holds_the_true_one_in_nine_cases_of_ten():
    random, hits = np.random.default_rng(1), 0
    for _ in range(3_000):
        low, high = power.spread_range(random.normal(0, 2, 5).std(ddof=1), 5)
        hits += low <= 2 <= high
    assert hits / 3_000 == pytest.approx(0.9, abs=0.015)


def test_a_weak_claim_says_how_many_seeds_it_needs_and_a_hopeless_one_that_it_needs_another_statistic():
    strong, weak, hopeless = (power.hopes([claim(Direction(1, 0.5), sd)], 5, 5)["a"] for sd in (0.3, 1.5, 30.0))
    assert strong.needs_n is None
    assert strong.power[0] > 0.9
    needed = int(weak.needs_n.split(" ")[0])
    assert power.power(claim(Direction(1, 0.5), 1.5), 1.5, needed, 5) >= power.WEAK
    assert power.power(claim(Direction(1, 0.5), 1.5), 1.5, needed - 1, 5) < power.WEAK
    assert weak.power[1] <= weak.power[0] <= weak.power[2]
    assert hopeless.needs_n == "another statistic is needed"


def test_on_a_logarithmic_scale_distances_are_ratios():
    rule = Range(1 / 1.25, 1.25)
    assert power.power(claim(rule, 0.1, scale="log"), 0.1, 5, 5) == pytest.approx(
        power.power(claim(within(np.log(1.25)), 0.1), 0.1, 5, 5)
    )


def test_it_is_told_before_the_runs_from_the_last_call_and_not_where_there_was_none(tmp_path):
    context, told = Context(FIGURE, Options(out=tmp_path), source("cifar10"), 4, ""), []
    assert judging.powers(context, told.append) == {}
    folder = tmp_path / "fig4" / "quick"
    folder.mkdir(parents=True)
    (folder / "claims.json").write_text(json.dumps([claim(within(1 / 3), 0.5), {"id": "b", "n": 4, "claim": ""}]))
    found = judging.powers(context, told.append)
    assert found.keys() == {"a"}
    assert "by the spread between seeds that the last call found" in told[0]
    assert "a claim (needs n" in told[1]
    (folder / "claims.json").write_text("[{}]")
    assert judging.powers(context, told.append) == {}


@pytest.mark.parametrize(
    "stored",
    [
        [{"claim": "a claim", "n": 4}],
        [claim(within(1 / 3), 0.5), {"claim": "a claim", "n": 4}],
        {"claims": [claim(within(1 / 3), 0.5)]},
        [None],
        "claims",
        3,
    ],
    ids=["without ids", "one without an id", "an object", "no claim", "words", "a number"],
)
def test_claims_of_an_earlier_edition_and_damaged_ones_tell_nothing(stored, tmp_path):
    context, told = Context(FIGURE, Options(out=tmp_path), source("cifar10"), 4, ""), []
    folder = tmp_path / "fig4" / "quick"
    folder.mkdir(parents=True)
    (folder / "claims.json").write_text(json.dumps(stored))
    assert judging.powers(context, told.append) == {}
    assert told == []
