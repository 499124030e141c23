"""Memorisation's own statistics, on curves made up so that the answer is known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.experiments.tables import table, word
from tests.reproduce.figures import source
from three_factors.reproduce.experiments import (
    memorisation,
    metrics,
    random_labels,
)


def epochs(noisy, valid, wrong=None):
    wrong = [0.1] * len(noisy) if wrong is None else wrong
    index = range(1, len(noisy) + 1)
    columns = {
        memorisation.NOISY: noisy,
        metrics.VALID: valid,
        memorisation.WRONG: wrong,
        "step": [24 * i for i in index],
    }
    return pd.DataFrame(columns, index=index)


SPEC = next(iter(memorisation.MEMORISATION.runs("paper", source("mnist")).values())).spec


def memorised(rows):
    return memorisation.MEMORISATION.derive(rows, SPEC)


def test_accuracies_at_a_crossing_are_interpolated_between_the_epochs_about_it():
    found = memorised(epochs([0.7, 0.78, 0.88, 0.88], [0.9, 0.8, 0.7, 0.6]))
    assert found["val/accuracy at train_subset/accuracy 0.8"] == pytest.approx(0.8 - 0.1 * 0.02 / 0.10)
    assert found["val/accuracy at train_subset/accuracy 0.85"] == pytest.approx(0.8 - 0.1 * 0.07 / 0.10)
    assert "val/accuracy at train_subset/accuracy 0.9" not in found


def test_a_level_is_crossed_where_the_curve_smoothed_to_rise_crosses_it():
    first = memorised(epochs([0.86, 0.86, 0.9], [0.4, 0.5, 0.6]))
    assert first["val/accuracy at train_subset/accuracy 0.85"] == 0.4
    assert first["val/accuracy at train_subset/accuracy 0.9"] == 0.6
    # one evaluation above 0.8 by chance, and one below: together they lie at 0.755
    twice = memorised(epochs([0.7, 0.81, 0.7, 0.9], [0.1, 0.2, 0.3, 0.4]))
    assert twice["val/accuracy at train_subset/accuracy 0.8"] == pytest.approx(
        0.3 + 0.1 * (0.8 - 0.755) / (0.9 - 0.755)
    )


def test_validation_accuracy_is_there_where_its_mean_of_three_is_within_an_error_of_the_best():
    rising = np.array([0.1, 0.3, 0.5, 0.7, 0.8, 0.82, 0.81, 0.82, 0.825, 0.815, 0.83])
    assert memorisation.generalised(rising, 1_000) == 6  # (0.82 + 0.81 + 0.82)/3, an error of 0.012 below 0.823
    assert memorisation.generalised(rising, 10**9) == 9
    assert memorisation.generalised(np.array([0.5, 0.6]), 100) == 1


def test_what_is_memorised_at_the_best_accuracy_is_a_share_of_what_is_at_the_end():
    valid = [0.5, 0.8, 0.8, 0.8] + [0.7] * 16
    wrong = [0.0, 0.02, 0.04, 0.1] + [0.2] * 14 + [0.7, 0.9]
    found = memorised(epochs([0.8] * 20, valid, wrong))
    assert found[memorisation.EARLY] == pytest.approx(0.04 / 0.8)
    assert memorisation.EARLY not in memorised(epochs([0.8] * 20, valid, [0.1] * 20))  # it never memorises
    seldom = replace(SPEC, evaluations=None)  # once an epoch: which came first is not known
    assert memorisation.EARLY not in memorisation.MEMORISATION.derive(epochs([0.8] * 20, valid, wrong), seldom)


CELLS = {cell.label: cell.factors for cell in memorisation.MEMORISATION._cells("quick")}


@pytest.mark.parametrize(("early", "verdict"), [(0.03, "supported"), (0.4, "not supported")])
def test_memorisation_after_generalisation_is_supported_and_before_it_is_not(early, verdict):
    rows = [(label, seed, {memorisation.EARLY: early + seed / 1e3}) for label in CELLS for seed in range(4)]
    found = random_labels.after_generalisation(table(rows, factors=CELLS))
    assert word(found) == verdict
    assert found.about.note.startswith("0 of 96 runs never memorise")


def endpoint(slope, memorise=lambda of: True):
    random = np.random.default_rng(0)
    rows = [
        (
            label,
            seed,
            {
                memorisation.NOISY: 1.0 if memorise(of) else 0.95,
                metrics.VALID: 0.8 + slope * math.log10(of["n"]) + random.normal(0, 0.001),
            },
        )
        for label, of in CELLS.items()
        for seed in range(4)
    ]
    return random_labels.at_the_endpoint(table(rows, factors=CELLS))


def test_the_endpoint_is_judged_over_the_cells_that_memorise_everything():
    assert word(endpoint(0.02)) == "supported"
    assert word(endpoint(-0.02)) == "not supported"
    found = endpoint(0.02)
    assert found.estimate.value == pytest.approx(0.02, abs=0.002)
    few = endpoint(0.02, lambda of: of["S"] == 50 and of["momentum"] == 0)
    assert word(few) == "not judged"
    assert "arm memorised" in few.unjudged
