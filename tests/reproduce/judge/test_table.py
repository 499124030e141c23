"""A grid of runs: seeds in rows, settings in columns; what diverged, what is missing, what is a tuning's."""

import numpy as np
import pandas as pd

from three_factors.reproduce.engine.judge.table import Table


def table(*rows):
    columns = ["label", "seed", "status", "test/accuracy", "norm"]
    return Table(pd.DataFrame([dict(zip(columns, row)) for row in rows]), {})


def test_a_run_that_diverged_has_the_accuracy_of_chance_and_no_other_value():
    made = table(("a", 0, "ok", 0.8, 2.0), ("a", 1, "diverged", 0.1, 9.0), ("b", 0, "ok", 0.7, 3.0))
    np.testing.assert_array_equal(made.grid(["a", "b"], "test/accuracy"), [[0.8, 0.7], [0.1, np.nan]])
    np.testing.assert_array_equal(made.grid(["a", "b"], "norm"), [[2.0, 3.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(made.broken(["a", "b"]), [[False, False], [True, False]])


def test_a_seed_stands_in_the_same_row_whichever_setting_lacks_it():
    made = table(("a", 100, "ok", 0.8, 1.0), ("b", 100, "ok", 0.7, 1.0), ("b", 101, "ok", 0.6, 1.0))
    np.testing.assert_array_equal(made.grid(["a"], "norm")[:, 0], [1.0, np.nan])
    np.testing.assert_array_equal(made.grid(["b"], "norm")[:, 0], [1.0, 1.0])
    assert made.grid(["missing"], "norm").shape == (2, 1)


def test_a_seed_without_a_curve_is_a_row_without_values():
    made = table(("a", 0, "ok", 0.8, 1.0), ("a", 1, "diverged", 0.1, 1.0), ("a", 2, "ok", 0.7, 1.0))
    assert made.replicates(["a"]) == [0, 1, 2]
    index = np.arange(1.0, 5.0)
    holes = {0: [1.0, np.nan, 3.0, 4.0], 2: [10.0, 20.0, np.nan, 40.0]}  # not measured, at one epoch each
    for seed, values in holes.items():
        made.rows["a", seed] = pd.DataFrame({"t_eta": index / 10, "norm": values}, index=index)
    epochs, times, values = made.curves("a", "norm", [0, 1, 2])
    np.testing.assert_array_equal(epochs, [1, 4])  # no two epochs are mixed
    np.testing.assert_allclose(times, [0.1, 0.4])
    np.testing.assert_array_equal(values, [[1, 4], [np.nan, np.nan], [10, 40]])
    assert made.curves("a", "norm")[2].shape == (2, 2)
    assert made.curves("a", "loss", [0, 1])[2].shape == (2, 0)


def test_the_seeds_of_a_tuning_are_no_seeds_of_what_it_chose():
    rows = [("tried", 10_000 + i, "ok", 0.5, 1.0) for i in range(3)]
    made = table(*rows, ("chosen", 100, "ok", 0.8, 1.0), ("chosen", 101, "ok", 0.9, 1.0))
    assert made.grid(["chosen"], "norm").shape == (2, 1)
    assert made.grid(["tried"], "norm").shape == (3, 1)
