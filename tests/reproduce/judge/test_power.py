"""Power as a share of supports in imagined experiments, and the seeds that a weak claim needs."""

import numpy as np

from tests.reproduce.figures import source
from three_factors.reproduce.engine import prospects
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.judge import claims, power
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.experiments import cycles
from three_factors.reproduce.experiments.metrics import TEST
from three_factors.reproduce.fig4 import FIGURE

ABOUT, PAIR = claims.Statement("alike", ""), (cycles.SMALL_S, cycles.LARGE_S)


def draw(n, random):
    return cycles.CYCLES.imagined("quick", n, random)


def test_power_grows_with_seeds():
    def check(t):
        return [claims.equivalent(ABOUT, t, *PAIR, on=TEST, margin=0.02)]

    few, many = (power.simulated(check, draw, n, trials=60)[0] for n in (3, 16))
    assert few < 0.5 < 0.9 < many


def test_a_weak_claim_says_how_many_seeds_it_needs():
    def check(t):
        return [
            claims.equivalent(claims.Statement(f"within_{i}", ""), t, *PAIR, on=TEST, margin=margin)
            for i, margin in enumerate((1.0, 0.02, 0.001))
        ]

    powers = power.simulated(check, draw, 3, trials=60)
    strong, weak, hopeless = power.needed(check, draw, powers, 3)
    assert (strong, hopeless) == (None, "> 128")
    assert int(weak.removeprefix("≥ ")) in range(4, 13)
    assert power.simulated(check, draw, int(weak.removeprefix("≥ ")), trials=200)[1] > 0.5


def test_powers_are_kept_until_the_code_that_judges_changes(tmp_path, monkeypatch):
    simulated = []

    def count(check, draw, seeds):
        simulated.append(seeds)
        return [0.5] * len(check(draw(seeds, np.random.default_rng(0))))

    monkeypatch.setattr(power, "simulated", count)
    monkeypatch.setattr(power, "needed", lambda check, draw, powers, seeds: [None] * len(powers))
    context = Context(FIGURE, Options(out=tmp_path), source("cifar10"), 4, "")
    first = prospects.hopes(context, print)
    assert prospects.hopes(context, print) == first
    assert simulated == [4]
    monkeypatch.setattr(prospects.provenance, "judging", lambda script: "other code")
    prospects.hopes(context, print)
    assert simulated == [4, 4]
