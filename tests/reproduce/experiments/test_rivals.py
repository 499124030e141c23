"""The ruler on worlds whose g is known, and runs that all end at one t_eta."""

import numpy as np
import pytest

from tests.reproduce.figures import plan
from three_factors.reproduce import rivals as script
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.table import EIGENVALUE, STABILITY, SyntheticTable
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.engine.regime import t_eta
from three_factors.reproduce.experiments.metrics import END_NORM, end
from three_factors.reproduce.experiments.rivals import GHOSTS, GRID, OUTCOMES, PLAIN


def world(g, bend=0.0, power=-0.5, spread=0.03, undertrained=0.0, seeds=5, seed=1):
    """Every outcome goes as a power of eta/S^g, with a bend; cells at low eta/S may have trained too little."""
    base, random = GRID.imagined("paper", seeds, np.random.default_rng(0)), np.random.default_rng(seed)
    factors = {label: of for label, of in base.factors.items() if "calibration" not in of}
    u = {label: np.log(of["eta"]) - g * np.log(of["S"]) for label, of in factors.items()}
    middle, wide = np.mean([*u.values()]), np.ptp([*u.values()])
    finals = {}
    for label, of in factors.items():
        z = (u[label] - middle) / wide
        y = power * (u[label] - middle) + bend * z**2 + undertrained * max(0.0, -0.3 - z)
        values = np.exp(y + random.normal(0, spread, seeds))
        finals[label] = {outcome.metrics[of["network"]]: values for outcome in OUTCOMES}
    return SyntheticTable(finals, factors=factors)


class Measured(SyntheticTable):
    """Notes are of measured tables alone."""

    measured = True


def words(table):
    found = judge(script.check(table), look(5, 5), script.FIGURE.primary)
    return {claim.id: claim for claim in found}


@pytest.mark.parametrize("bend", [0.0, 1.0])
@pytest.mark.parametrize("undertrained", [0.0, 1.0])
@pytest.mark.parametrize(("g", "word"), [(1.0, "supported"), (0.5, "not supported"), (0.0, "not supported")])
def test_g_is_found_where_it_is_known_through_bends_and_undertrained_cells(g, word, bend, undertrained):
    found = words(world(g, bend, undertrained=undertrained))
    for network in (PLAIN, GHOSTS):
        claim = found[f"{network}.norm"]
        assert claim.value == pytest.approx(g, abs=0.06)
        assert claim.verdict == word


def test_where_eta_over_s_changes_nothing_it_was_time_alone():
    flat = words(world(1.0, power=-0.005, spread=0.01))[f"{PLAIN}.norm"]
    assert flat.verdict == "not judged"
    assert flat.note.startswith("time alone")
    vague = words(world(1.0, power=-0.03, spread=1.0))[f"{PLAIN}.norm"]
    assert vague.verdict == "not judged"
    assert "is not shown to act" in vague.note


def test_that_noise_acts_is_shown_at_the_looks_level():
    (finding, *_) = script.check(world(1.0, power=-0.06, spread=0.03, seed=2))
    assert 0.0125 < finding.needs[0] < 0.025
    assert finding.why_not(0.025) == ""
    second = judge([finding], look(5, 2.5), [finding.about.id])[0]
    assert (second.look, second.verdict) == (2, "not judged")
    assert "is not shown to act" in second.note


def test_the_calibrations_runs_are_at_the_edge_and_have_no_index():
    base = GRID.imagined("quick", 5, np.random.default_rng(0))
    found = words(base)
    assert found["edge.eigenvalue"].value == pytest.approx(0, abs=0.1)
    assert found["edge.eigenvalue"].verdict == "estimated"
    assert found["edge.level.edge"].value == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(("at", "told"), [(2.0, "within eta alone"), (20.0, "but is not at its level")])
def test_a_rival_is_named_only_at_its_level(at, told):
    base = GRID.imagined("paper", 5, np.random.default_rng(0))
    finals = {}
    for label, of in base.factors.items():
        stable = at * np.exp(np.random.default_rng(len(finals)).normal(0, 0.05, 5))
        finals[label] = {end(EIGENVALUE): stable / of["eta"], end(STABILITY): stable}
    assert told in words(Measured(finals, factors=base.factors))[f"{PLAIN}.eigenvalue"].note


@pytest.mark.parametrize(("power", "inside"), [(0.5, True), (1.0, False)])
def test_linear_stability_keeps_the_norm_at_root_s_over_eta(power, inside):
    base = GRID.imagined("paper", 5, np.random.default_rng(0))
    finals = {
        label: {END_NORM: of["S"] ** power / of["eta"] * np.exp(np.random.default_rng(i).normal(0, 0.05, 5))}
        for i, (label, of) in enumerate(base.factors.items())
    }
    found = words(SyntheticTable(finals, factors=base.factors))[f"{PLAIN}.level.stability"]
    assert (abs(found.low) < 0.1 and abs(found.high) < 0.1) == inside


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_all_runs_end_at_one_t_eta_with_one_normalisation(scale):
    runs = plan("rivals", scale).runs()
    known = [t_eta(item.spec) for item in runs if "calibration" in item.factors]
    assert max(known) / min(known) == pytest.approx(1)
    items = [item for item in runs if "calibration" not in item.factors]
    ends = [t_eta(item.spec) for item in items]
    assert max(ends) / min(ends) < 1.2  # whole epochs
    networks = {item.factors["network"]: item.spec.network for item in items}
    assert isinstance(networks[PLAIN], MLPNetwork)
    assert not networks[PLAIN].batch_norm
    assert {item.spec.network.ghost_batch_size for item in items if item.factors["network"] == GHOSTS} == {25}
    of_network = [
        {(item.factors["eta"], item.factors["S"]) for item in items if item.factors["network"] == network}
        for network in networks
    ]
    assert of_network[0] == of_network[1]
    assert len({eta for eta, _ in of_network[0]}) == len({size for _, size in of_network[0]}) - 1 == 5
