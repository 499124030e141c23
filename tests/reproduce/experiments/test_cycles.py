"""What is said of cyclic and constant pairs where runs diverged."""

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.experiments.tables import table, word
from three_factors.reproduce.engine.judge.claims import Statement
from three_factors.reproduce.experiments import cycles, metrics

CYCLIC = ("cyclic S", "cyclic eta")
LEVELS = {**dict.fromkeys(CYCLIC, 1.0), cycles.SMALL_S: 1.0, cycles.LARGE_S: 1.0, cycles.NOISE_CONTROL: 0.2}


def pairs(lost=()):
    """Pairs whose curves are alike, measured by what noise does, and where noise does much; `lost` runs diverged."""
    rows, curves, random, index = [], {}, np.random.default_rng(0), np.arange(1.0, 31.0)
    for label, level in LEVELS.items():
        for seed in range(4):
            trained = (label, seed) not in lost
            rows.append((label, seed, {"x": 1} if trained else {}))
            losses = level * np.exp(-0.05 * index + random.normal(0, 0.02, 30))
            if trained:
                columns = {metrics.LOSS: losses, cycles.STEP_VARIANCE: losses, "t_eta": index}
                curves[label, seed] = pd.DataFrame(columns, index=index)
    return table(rows, curves)


@pytest.mark.parametrize(
    ("lost", "seeds", "expected"),
    [
        ((), 0, "supported"),
        (((CYCLIC[0], 1),), 1, "inconclusive"),
        (((CYCLIC[0], 1), (cycles.NOISE_CONTROL, 2)), 2, "inconclusive"),
        (((CYCLIC[0], 1), (CYCLIC[1], 2), (cycles.SMALL_S, 3)), None, "not judged"),  # one seed has all
    ],
)
def test_a_seed_that_diverged_is_lost_and_not_left_out(lost, seeds, expected):
    found = cycles.curve_shares(Statement("cyclic.curves", "alike"), pairs(lost), *CYCLIC)
    assert word(found) == expected
    if seeds is None:
        assert found.estimate is None
    else:
        assert (found.estimate.n, found.estimate.lost) == (4, seeds)


def test_a_pair_whose_runs_all_diverged_has_no_share():
    found = cycles.curve_shares(Statement("a", ""), pairs([(CYCLIC[0], seed) for seed in range(4)]), *CYCLIC)
    assert found.estimate is None


def test_the_variance_of_steps_has_no_value_for_a_seed_that_lacks_a_run(monkeypatch):
    made = pairs([(CYCLIC[0], 1)])
    monkeypatch.setattr(type(made), "epochs_of_smaller_batches", lambda self, a, b, epochs: epochs > 0)
    found = cycles.step_variance_ratio(made, CYCLIC[0], cycles.NOISE_CONTROL)
    assert np.isnan(found).tolist() == [False, True, False, False]
    assert found[0] == pytest.approx(5, rel=0.1)
