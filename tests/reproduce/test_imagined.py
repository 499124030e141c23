"""Every primary claim has its value, and is not refuted, in the world in which a figure's claims hold."""

import numpy as np
import pytest

from tests.reproduce.figures import SCRIPTS, figure
from three_factors.reproduce import when
from three_factors.reproduce.engine.judge.table import SyntheticTable
from three_factors.reproduce.experiments.switching import HIGH, SIGNS

TENSION = ("fig16", "tension.wider")  # holds where the theory does not: its world has the theory's
SEEDS = 40


@pytest.mark.parametrize("name", [name for name in SCRIPTS if figure(name).primary])
def test_primary_claims_hold_where_they_are_made_to(name):
    table = figure(name).experiment.imagined("paper", SEEDS, np.random.default_rng(0))
    found = {finding.about.id: finding for finding in figure(name).check(table)}
    for claim in figure(name).primary:
        if (name, claim) == TENSION:
            continue
        finding = found[claim]
        assert finding.estimate is not None
        assert finding.estimate.value is not None
        assert finding.rule.holds(finding.estimate.value)
        assert finding.p_support < 0.05, claim
        assert finding.p_refute > 0.5, claim


@pytest.mark.parametrize("remembered", [0.0, 0.5, 1.0])
def test_how_much_of_the_early_noise_the_end_remembers_is_found_in_both_orders_together(remembered):
    base = when.FIGURE.experiment.imagined("quick", 40, np.random.default_rng(0))
    random, finals = np.random.default_rng(1), {}
    for label, of in base.factors.items():
        high = 1.0 if of["first"] == HIGH else 0.0  # how much of the high noise acts
        if of["share"] != 100:
            high = remembered * high + (1 - remembered) * (1 - high)
        finals[label] = {
            metric: np.exp(sign * 0.5 * high + random.normal(0, 0.05, 40)) for metric, sign in SIGNS.items()
        }
    found = {of.about.id: of for of in when.check(SyntheticTable(finals, factors=base.factors))}
    assert {"15", "85", "loss.15", "loss.85", "15.high_first", "loss.85.low_first"} <= found.keys()
    for finding in found.values():
        assert finding.estimate.value == pytest.approx(remembered, abs=0.1)
        assert (finding.p_support < 0.025) == (remembered == 0)
        assert (finding.p_refute < 0.025) == (remembered > 0)
