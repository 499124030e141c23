"""Norms at equal loss, of runs made up so that the answer is known."""

import math

import numpy as np
import pytest

from tests.reproduce.experiments.tables import table
from three_factors.reproduce.experiments import (
    loss_levels,
    metrics,
)


def at_levels(log_n, norm_of, overshoot=0.0):
    """Runs that cross every level, a little below it: norm_of(log10 loss, log10 n) is their log10 norm."""
    rows = []
    for i, x in enumerate(log_n):
        values = {metrics.LOSS: 0.005}
        for level in loss_levels.LEVELS:
            at = math.log10(level) - overshoot * (x - min(log_n))
            values |= {loss_levels.at(level): 10 ** norm_of(at, x), loss_levels.at(level, metrics.LOSS): 10**at}
        rows.append((f"run {i}", 0, values))
    return rows


LOG_N = np.linspace(-5.0, -3.0, 8)
LABELS = [f"run {i}" for i in range(8)]


@pytest.mark.parametrize("slope", [-0.3, 0.0, 0.2])
def test_norms_at_a_level_are_moved_to_it_along_the_runs_own_slope(slope):
    rows = at_levels(LOG_N, lambda loss, n: 1 + 0.8 * loss + slope * n, overshoot=0.1)
    found, note = loss_levels.slope(table(rows), LABELS, LOG_N)
    assert found == pytest.approx([slope])
    assert (
        note == "of 8 runs that trained so many never cross 0.3: 0, 0.1: 0, 0.03: 0, 0.01: 0; their cells are left out"
    )


def test_runs_that_never_cross_a_level_are_counted_and_their_cells_left_out_for_all_seeds():
    rows = at_levels(LOG_N, lambda loss, n: 1 + 0.8 * loss - 0.3 * n)
    never = [(label, 1, dict(values)) for label, _, values in rows]
    for level in loss_levels.LEVELS[1:]:
        del never[0][2][loss_levels.at(level)]
        never[0][2][metrics.LOSS] = 0.2
    found, note = loss_levels.slope(table(rows + never), LABELS, LOG_N)
    assert found == pytest.approx([-0.3, -0.3])
    assert note.startswith("of 16 runs that trained so many never cross 0.3: 0, 0.1: 1, 0.03: 1, 0.01: 1")


def test_the_ratio_of_norms_is_over_the_levels_that_both_runs_of_all_seeds_cross():
    def run(*norms):
        return {
            name: value
            for level, norm in zip(loss_levels.LEVELS, norms)
            for name, value in ((loss_levels.at(level), norm), (loss_levels.at(level, metrics.LOSS), level))
        }

    rows = [("a", 0, run(8.0, 2.0, 1.0)), ("b", 0, run(4.0, 1.0)), ("a", 1, run(3.0, 9.0)), ("b", 1, run(1.0))]
    ratio, note = loss_levels.ratio(table(rows), "a", "b")
    assert ratio == pytest.approx([2.0, 3.0])
    assert "0.3 in 2, 0.1 in 1, 0.03 in 0" in note
