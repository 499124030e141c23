"""The phases of cyclical schedules and the tuning of their rates, on curves made up so that the answer is known."""

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.experiments.tables import table, word
from three_factors.reproduce.engine.judge.table import NOISE, SyntheticTable, Table
from three_factors.reproduce.experiments import (
    cyclical,
    metrics,
    tuning,
)


def phases(norms, noise, losses):
    columns = {metrics.NORM: norms, NOISE: noise, metrics.LOSS: losses}
    return cyclical.phases_apart(pd.DataFrame(columns, index=np.arange(1.0, len(norms) + 1)))


def test_phases_differ_by_what_they_were_made_to_differ_by_at_equal_loss():
    high = np.array([1, 1, 0, 0] * 6, dtype=bool)
    noise, random = np.where(high, 5e-3, 1e-3), np.random.default_rng(0)
    losses = np.exp(-0.1 * np.arange(24) + 0.15 * high + random.normal(0, 0.1, 24))
    for apart in (0.0, -0.7):
        norms = np.exp(3 + 0.6 * np.log(losses) + 0.05 * np.log(losses) ** 3 + apart * high)
        assert phases(norms, noise, losses) == pytest.approx(apart, abs=1e-9)
    assert phases(norms, np.full(24, 1e-3), losses) is None  # no phases
    far = np.where(high, 50.0, 1.0) * losses
    assert phases(norms, noise, far) is None  # no high-noise point has a loss of low noise
    assert phases(norms[:4], noise[:4], losses[:4]) is None


def test_points_between_the_phases_belong_to_neither():
    noise = np.array([5e-3, 3e-3, 1e-3, 3e-3] * 6)
    losses = np.exp(np.random.default_rng(0).normal(-2, 0.3, 24))
    norms = np.exp(1 + np.log(losses) - 0.5 * (noise == 5e-3) + 9 * (noise == 3e-3))
    assert phases(norms, noise, losses) == pytest.approx(-0.5, abs=1e-9)


def points(label, losses, norms, seed=0):
    index = np.arange(1.0, len(losses) + 1)
    return {(label, seed): pd.DataFrame({metrics.LOSS: losses, metrics.NORM: norms, "t_eta": index}, index=index)}


def test_at_matched_loss_norms_are_compared_where_the_baseline_has_that_loss():
    losses = np.array([1.0, 0.1, 0.01])
    curves = points("base", losses, 10 * losses) | points("run", [0.5, 0.05, 1e-6], [2.5, 0.25, 99.0])
    found = cyclical.at_matched_loss(table([("base", 0, {"x": 1}), ("run", 0, {"x": 1})], curves), "run", "base")
    assert found == pytest.approx([0.5])  # the point that the baseline never reached is left out


def test_a_seed_that_diverged_is_lost_to_what_is_compared_at_matched_loss():
    """Other seeds may be lost by other schedules: those of all stand in the same rows."""
    losses, rows, curves = np.array([1.0, 0.1, 0.01]), [], {}
    for label in (*cyclical.CYCLICAL, cyclical.LOW_ETA, cyclical.HIGH_ETA):
        for seed in range(4):
            trained = (label, seed) not in {(cyclical.DISCRETE_S, 0), (cyclical.DISCRETE_ETA, 3)}
            rows.append((label, seed, {"x": 1} if trained else {}))
            if trained:
                norms = (0.5 if label in cyclical.CYCLICAL else 1.0) * (10 + seed) * losses
                curves |= points(label, losses, norms, seed)
    whole, *_ = cyclical.smaller_at_matched_loss(table(rows, curves))
    assert (whole.estimate.n, whole.estimate.lost) == (4, 2)
    assert whole.estimate.value == pytest.approx(0.5)
    assert word(whole) == "inconclusive"


def test_a_candidate_that_diverged_has_the_accuracy_of_chance():
    candidates = {c.label: c for c in tuning.candidates("quick") if c.schedule == tuning.BASELINE}
    steady, fast = sorted(candidates, key=lambda label: candidates[label].lr)[1:3]
    rows = [
        (label, tuning.FIRST_SEED + i, "ok" if of > 0.1 else "diverged", of)
        for label, values in ((steady, (0.87, 0.86, 0.88)), (fast, (0.9, 0.1, 0.1)))
        for i, of in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=["label", "seed", "status", metrics.VALID])
    made = Table(frame, {}, factors={label: of.factors for label, of in candidates.items()})
    assert tuning.accuracies(made, fast).tolist() == [0.9, 0.1, 0.1]
    assert tuning.tuned(made)[tuning.BASELINE] == steady


@pytest.mark.parametrize(
    ("ratio", "wider", "alike"), [(0.4, "supported", "not supported"), (1.0, "not supported", "supported")]
)
def test_the_two_claims_in_tension_exclude_one_another(ratio, wider, alike):
    finals, series = {}, {}
    noise = np.array([0.99, 1.0, 1.01, 1.0])
    constants = ((cyclical.LOW_ETA, 9.0), (cyclical.HIGH_ETA, 3.0))  # noise acts on the norm
    for label, norm in ((cyclical.DISCRETE_S, ratio), (cyclical.DISCRETE_ETA, 1.0), *constants):
        finals[label] = {metrics.NORM: norm * noise, metrics.end(metrics.DIFFERENCES): norm * noise[::-1]}
        losses = np.tile(np.array([1.0, 0.1, 0.01]), (4, 1))
        series[label] = {metrics.LOSS: losses, metrics.NORM: norm * 10 * losses * noise[:, None]}
    found = cyclical.tension(SyntheticTable(finals, series))
    assert [word(of) for of in found[:3]] == [wider] * 3
    assert [word(of) for of in found[3:]] == [alike] * 3
    still = {label: of for label, of in finals.items() if label not in dict(constants)}
    still |= {label: {metrics.NORM: 3 * noise} for label, _ in constants}  # it does not
    of_all = cyclical.tension(SyntheticTable(still, series))
    assert [word(of) for of in of_all[3:]] == ["inconclusive" if alike == "supported" else alike] * 3


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({0.008: [0.5], 0.02: [0.6], 0.05: [0.7], 0.125: None}, 0.05),  # one seed: the best
        ({0.008: [0.5], 0.02: [0.7], 0.05: [0.7], 0.125: None}, 0.02),  # equal ones: the smallest eta
        # three seeds, a pooled sd of 0.03 and so a standard error of 0.0173: within that the smallest eta
        ({0.008: [0.5, 0.53, 0.56], 0.02: [0.66, 0.69, 0.72], 0.05: [0.67, 0.7, 0.73], 0.125: None}, 0.02),
        ({0.008: [0.5, 0.53, 0.56], 0.02: [0.65, 0.68, 0.71], 0.05: [0.67, 0.7, 0.73], 0.125: None}, 0.05),
    ],
)
def test_tuning_takes_the_smallest_eta_within_a_standard_error_of_the_best(scores, chosen):
    candidates = {c.label: c for c in tuning.candidates("quick")}
    label = {c.lr: name for name, c in candidates.items() if c.schedule == tuning.BASELINE}

    def of(scores):
        rows = [
            (label[lr], tuning.FIRST_SEED + i, {} if value is None else {metrics.VALID: value})
            for lr, values in scores.items()
            for i, value in enumerate(values or [None])
        ]
        return table(rows, factors={name: candidate.factors for name, candidate in candidates.items()})

    assert candidates[tuning.tuned(of(scores))[tuning.BASELINE]].lr == chosen
    assert tuning.at_the_edge(of(scores), tuning.BASELINE) == ""
    edge = of(scores | {0.008: [0.9] * len(scores[0.008])})
    assert candidates[tuning.tuned(edge)[tuning.BASELINE]].lr == 0.008
    assert "tuned to 0.008, at the edge" in tuning.at_the_edge(edge, tuning.BASELINE)
    assert tuning.BASELINE not in tuning.tuned(of(dict.fromkeys(scores)))


def test_a_run_that_diverged_does_not_move_the_tuning_of_other_schedules():
    tried = {c.label: c for c in tuning.candidates("gpu")}

    def of(lost):
        rows = [
            (
                label,
                tuning.FIRST_SEED + i,
                "diverged" if (label, i) == lost else "ok",
                0.1 if (label, i) == lost else of,
            )
            for label, candidate in tried.items()
            for i, of in enumerate(0.9 - 0.02 * abs(np.log(candidate.lr / 0.02)) + np.array([-0.001, 0.0, 0.001]))
        ]
        frame = pd.DataFrame(rows, columns=["label", "seed", "status", metrics.VALID])
        return tuning.tuned(Table(frame, {}, factors={label: of.factors for label, of in tried.items()}))

    fast = next(label for label, c in tried.items() if (c.schedule, c.lr) == (tuning.BASELINE, 0.05))
    assert {tried[label].lr for label in of(None).values()} == {0.02}
    assert of((fast, 0)) == of(None)


def test_of_cycles_that_are_alike_the_shortest_is_taken():
    tried = {c.label: c for c in tuning.candidates("gpu") if c.schedule == "discrete S" and c.lr == 0.005}
    rows = [(label, tuning.FIRST_SEED, {metrics.VALID: 0.5}) for label in reversed(tried)]
    made = table(rows, factors={label: candidate.factors for label, candidate in tried.items()})
    assert tried[tuning.tuned(made)["discrete S"]].period == 5
