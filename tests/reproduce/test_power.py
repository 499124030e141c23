"""Power as a share of supports in imagined experiments, and the seeds that a weak claim needs."""

import numpy as np

from tests.reproduce.figures import source
from three_factors.reproduce.engine import claims, power
from three_factors.reproduce.engine.arms import ARMS
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.experiments import cycles
from three_factors.reproduce.fig4 import FIGURE


def test_power_grows_with_seeds():
    def check(t):
        return [claims.equivalent(t, cycles.SMALL_S, cycles.LARGE_S, on="test/accuracy", margin=0.02, claim="")]

    few, many = (power.simulated(check, lambda n, r: cycles.imagined("quick", n, r), n, trials=60)[0] for n in (3, 16))
    assert few < 0.5 < 0.9 < many


def test_a_weak_claim_says_how_many_seeds_it_needs():
    def check(t):
        pair = (t, cycles.SMALL_S, cycles.LARGE_S)
        return [claims.equivalent(*pair, on="test/accuracy", margin=m, claim="") for m in (1.0, 0.02, 0.001)]

    def draw(n, random):
        return cycles.imagined("quick", n, random)

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
    context = Context(FIGURE, Options(out=tmp_path), source("cifar10"), 4, "", ARMS["epochs"])
    first = power.plans(context, print)
    assert power.plans(context, print) == first
    assert simulated == [4]
    monkeypatch.setattr(power.provenance, "judging", lambda: "other code")
    power.plans(context, print)
    assert simulated == [4, 4]
