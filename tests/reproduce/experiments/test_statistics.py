"""The experiments' own statistics, on curves made up so that the answer is known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from three_factors.reproduce.engine.contract.steps import STEP_VARIANCE
from three_factors.reproduce.engine.judge.claims import Statement, holm
from three_factors.reproduce.engine.judge.seedwise import Direction, over_seeds
from three_factors.reproduce.engine.judge.table import NOISE, SyntheticTable, Table
from three_factors.reproduce.experiments import (
    cycles,
    cyclical,
    loss_levels,
    memorisation,
    metrics,
    noise_grid,
    tuning,
    valleys,
)
from three_factors.reproduce.experiments.breaking_point import DATA_SIZES, HIGHEST
from three_factors.reproduce.experiments.fingerprints import CONSTANT, CYCLIC, FORMS, readings
from three_factors.reproduce.experiments.metrics import LOSS, STEP_LOSS, TEST
from three_factors.reproduce.experiments.noise_dial import exponents
from three_factors.reproduce.experiments.switching import HIGH, LOW, kept, switched
from three_factors.reproduce.noise_only import equal_exponents
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulate import Gaussian, Simulation, simulate


def table(rows, curves=None, factors=None):
    """A table of (label, seed, values); one without values diverged."""
    found = [
        {"label": label, "seed": seed, "status": "ok" if values else "diverged"} | values
        for label, seed, values in rows
    ]
    return Table(pd.DataFrame(found), curves or {}, factors=factors or {})


# -- memorisation


def epochs(noisy, clean, wrong=None):
    wrong = [0.1] * len(noisy) if wrong is None else wrong
    columns = {memorisation.NOISY: noisy, metrics.VALID: clean, memorisation.WRONG: wrong}
    return pd.DataFrame(columns, index=range(1, len(noisy) + 1))


memorised = memorisation.MEMORISATION.derive


def test_accuracies_at_a_crossing_are_interpolated_between_the_epochs_about_it():
    found = memorised(epochs([0.7, 0.78, 0.88, 0.88], [0.9, 0.8, 0.7, 0.6]))
    assert found["val/accuracy at train_subset/accuracy 0.8"] == pytest.approx(0.8 - 0.1 * 0.02 / 0.10)
    assert found["val/accuracy at train_subset/accuracy 0.85"] == pytest.approx(0.8 - 0.1 * 0.07 / 0.10)
    assert "val/accuracy at train_subset/accuracy 0.9" not in found


def test_a_level_crossed_at_the_first_epoch_or_met_exactly_has_that_epochs_accuracy():
    first = memorised(epochs([0.86, 0.5, 0.9], [0.4, 0.5, 0.6]))
    assert first["val/accuracy at train_subset/accuracy 0.85"] == 0.4
    assert first["val/accuracy at train_subset/accuracy 0.9"] == 0.6
    twice = memorised(epochs([0.7, 0.81, 0.7, 0.9], [0.1, 0.2, 0.3, 0.4]))
    assert twice["val/accuracy at train_subset/accuracy 0.8"] == pytest.approx(0.1 + 0.1 * 10 / 11)  # the first of two


def test_memorisation_begins_two_points_above_the_lowest_and_is_counted_from_the_best_epoch():
    found = memorised(epochs([0.5] * 5, [0.5, 0.9, 0.8, 0.7, 0.6], [0.10, 0.05, 0.06, 0.08, 0.30]))
    assert (found["memorisation begins"], found["memorisation after best"]) == (4, 2)
    early = memorised(epochs([0.5] * 3, [0.5, 0.6, 0.9], [0.05, 0.2, 0.3]))
    assert early["memorisation after best"] == -1
    assert "memorisation begins" not in memorised(epochs([0.5] * 3, [0.1] * 3, [0.3, 0.2, 0.1]))


def test_late_memorisation_is_supported_and_early_is_not():
    cells = {cell.label: cell.factors for cell in memorisation.MEMORISATION._cells("quick")}

    def claim(late):
        rows = [
            (label, seed, {"memorisation after best": late + seed % 2, metrics.BEST_LOSS: 0.1})
            for label in cells
            for seed in range(4)
        ]
        return memorisation.begins_late(table(rows, factors=cells), 0.25)

    assert claim(3.0).verdict == "supported"
    assert claim(-3.0).verdict == "not supported"
    assert claim(3.0).note.startswith("0 of ")


# -- equal loss


def test_norms_at_a_crossing_are_compared_with_the_overshoot_taken_out():
    log_n = np.log(np.arange(1.0, 9))
    labels = [f"run {i}" for i in range(8)]
    noise = np.random.default_rng(0).permutation(8) / 1e3

    def rho(norm, loss):
        rows = [
            (label, 0, {loss_levels.at(0.1): norm[i], loss_levels.at(0.1, metrics.LOSS): loss[i], metrics.LOSS: 0.01})
            for i, label in enumerate(labels)
        ]
        return loss_levels.correlation(table(rows), labels, log_n, 0.1)

    random_losses = 0.1 - noise
    falling, _ = rho(np.exp(-log_n), random_losses)
    assert falling[0] < -0.9
    overshoot = 0.1 - 0.001 * np.exp(log_n)  # the norm follows the loss, which follows n
    confounded, note = rho(overshoot, overshoot)
    assert math.isnan(confounded[0]) or abs(confounded[0]) < 1e-6
    assert note == "0 of 8 runs that trained never cross it; evaluated at losses from 0.092 to 0.099"


def test_runs_that_never_cross_a_level_are_counted_and_named_but_not_those_that_diverged():
    rows = [
        ("a", 0, {loss_levels.at(0.1): 5.0, loss_levels.at(0.1, metrics.LOSS): 0.09, metrics.LOSS: 0.01}),
        ("b", 0, {metrics.LOSS: 0.7}),
        ("c", 0, {}),
    ]
    _, note = loss_levels.correlation(table(rows), ["a", "b", "c"], np.arange(3.0), 0.1)
    assert note.startswith("1 of 2 runs that trained never cross it, all seeds of: b; evaluated")


def test_the_ratio_of_norms_is_over_the_levels_that_both_runs_cross():
    def run(*norms):
        return {
            name: value
            for level, norm in zip(loss_levels.LEVELS, norms)
            for name, value in ((loss_levels.at(level), norm), (loss_levels.at(level, metrics.LOSS), level))
        }

    rows = [("a", 0, run(8.0, 2.0, 1.0)), ("b", 0, run(4.0, 1.0)), ("a", 1, run(1.0)), ("b", 1, {"x": 1.0})]
    ratio, note = loss_levels.ratio(table(rows), "a", "b")
    assert ratio[0] == pytest.approx(2.0)
    assert math.isnan(ratio[1])
    assert "0.3 in 1, 0.1 in 1, 0.03 in 0" in note
    assert note.endswith("the losses' own ratio there is 1.00")


# -- cyclical schedules


def phases(norms, noise):
    rows = pd.DataFrame({metrics.NORM: norms, NOISE: noise}, index=np.arange(1.0, len(norms) + 1))
    return cyclical.CYCLICAL_SCHEDULES.derive(rows).get(cyclical.PHASES)


def test_phases_differ_by_what_they_were_made_to_differ_by_whatever_the_trend():
    high = np.array([1, 1, 0, 0] * 4, dtype=bool)
    noise = np.where(high, 5e-3, 1e-3)
    for trend in (0.0, 0.2, -0.3):
        norms = np.exp(3 + trend * np.arange(16) - 0.7 * high)
        assert phases(norms, noise) == pytest.approx(-0.7, abs=1e-9)
    assert phases(np.ones(16), np.full(16, 1e-3)) is None  # no phases


def points(label, losses, norms, seed=0):
    index = np.arange(1.0, len(losses) + 1)
    return {(label, seed): pd.DataFrame({metrics.LOSS: losses, metrics.NORM: norms, "t_eta": index}, index=index)}


def test_at_matched_loss_norms_are_compared_where_the_baseline_has_that_loss():
    losses = np.array([1.0, 0.1, 0.01])
    curves = points("base", losses, 10 * losses) | points("run", [0.5, 0.05, 1e-6], [2.5, 0.25, 99.0])
    found = cyclical.at_matched_loss(table([("base", 0, {"x": 1}), ("run", 0, {"x": 1})], curves), "run", "base")
    assert found == pytest.approx([0.5])  # the point that the baseline never reached is left out


@pytest.mark.parametrize(
    ("ratio", "wider", "alike"), [(0.4, "supported", "not supported"), (1.0, "not supported", "supported")]
)
def test_the_two_claims_in_tension_exclude_one_another(ratio, wider, alike):
    finals, series = {}, {}
    noise = np.array([0.99, 1.0, 1.01, 1.0])
    for label, norm in ((cyclical.DISCRETE_S, ratio), (cyclical.DISCRETE_ETA, 1.0)):
        finals[label] = {metrics.NORM: norm * noise, metrics.end(metrics.DIFFERENCES): norm * noise[::-1]}
        losses = np.tile(np.array([1.0, 0.1, 0.01]), (4, 1))
        series[label] = {metrics.LOSS: losses, metrics.NORM: norm * 10 * losses * noise[:, None]}
    found = cyclical.tension(SyntheticTable(finals, series))
    assert [claim.verdict for claim in found[:3]] == [wider] * 3
    assert [claim.verdict for claim in found[3:]] == [alike] * 3


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


def test_of_cycles_that_are_alike_the_shortest_is_taken():
    tried = {c.label: c for c in tuning.candidates("gpu") if c.schedule == "discrete S" and c.lr == 0.005}
    rows = [(label, tuning.FIRST_SEED, {metrics.VALID: 0.5}) for label in reversed(tried)]
    made = table(rows, factors={label: candidate.factors for label, candidate in tried.items()})
    assert tried[tuning.tuned(made)["discrete S"]].period == 5


# -- cycles, scaling, grids, valleys


def test_the_variance_of_steps_is_compared_where_the_noisier_run_has_the_smaller_batches():
    index = np.arange(1.0, 5)

    def curve(variance):
        return pd.DataFrame({STEP_VARIANCE: variance, "t_eta": index}, index=index)

    def steps(sizes):
        return pd.DataFrame({"epoch": index, "batch_size": sizes})

    made = Table(
        pd.DataFrame({"label": ["a", "b"], "seed": 0, "status": "ok"}),
        {("a", 0): curve([5.0, 5, 1, 1]), ("b", 0): curve([1.0, 1, 1, 1])},
        {("a", 0): steps([128, 128, 640, 640]), ("b", 0): steps([640, 640, 640, 640])},
    )
    assert cycles.step_variance_ratio(made, "a", "b") == pytest.approx([5.0])


def test_small_batches_lose_what_they_were_made_to_lose_and_chance_when_they_diverge():
    places = {place.label: place for place in DATA_SIZES._places("quick")}
    factors = {label: place.factors for label, place in places.items()}
    finals = {label: {HIGHEST: np.full(3, 0.7 if place.beta < 1 else 0.8)} for label, place in places.items()}
    drop = DATA_SIZES.drop_at_small_batches(SyntheticTable(finals, factors=factors))
    assert drop == pytest.approx(np.full(3, 0.1))
    rows = [
        (label, seed, {} if place.beta < 1 else {HIGHEST: 0.8}) for label, place in places.items() for seed in range(3)
    ]
    assert DATA_SIZES.drop_at_small_batches(table(rows, factors=factors)) == pytest.approx(np.full(3, 0.7))


def test_a_weaker_correlation_is_judged_on_the_cells_that_both_networks_have():
    grid, good, reference = noise_grid.DEEP_MLP, noise_grid.GOOD, noise_grid.REFERENCE
    random = np.random.default_rng(0)
    world = grid.imagined("quick", 3, random)
    rows = []
    for label, drawn in world.finals.items():
        of = world.factors[label]
        for seed in range(3):
            values = {name: float(column[seed]) for name, column in drawn.items()} | {metrics.LOSS: 0.01}
            if of["network"] == good:
                values[metrics.END_NORM] = math.exp(-0.5 * math.log(of["eta"] / of["S"]) + random.normal(0, 2.0))
            rows.append((label, seed, values))

    def weaker(rows):
        return grid.weaker(table(rows, factors=world.factors), good, reference, Statement("weaker", ""))

    whole = weaker(rows)
    assert whole.value > 0
    first, other = (world.select(network=network)[0] for network in (good, reference))  # of one cell
    found, expected = (weaker([row for row in rows if row[0] not in left]) for left in ([first], [first, other]))
    assert found.value == expected.value
    assert found.value != whole.value


def test_a_wider_minimum_is_not_supported_where_the_narrower_ones_width_is_censored():
    line = next(iter(valleys.CONSTANT.lines))

    def claim(theta1):
        ends = {"loss θ1": np.full(4, 0.1), "loss θ2": np.full(4, 0.1)}
        for kind in valleys.KINDS:
            for rise in valleys.RISES:
                for end, values in (("θ1", theta1), ("θ2", np.array([2.0, 2.1, 2.0, 1.9]))):
                    edge = np.where(np.isnan(values), 1.0, values)
                    ends |= {
                        valleys.width(kind, end, rise): values,
                        valleys.width(kind, end, rise, at_least=True): edge,
                    }
        return valleys.CONSTANT.wider(SyntheticTable({line: ends}), line)[0]

    assert claim(np.array([1.0, 1.1, 1.0, 0.9])).verdict == "supported"
    assert claim(np.array([1.0, math.nan, 1.0, 0.9])).verdict == "inconclusive"


def test_controls_do_not_make_the_papers_claims_harder_to_support():
    about = Statement("own", "own", "s")
    own = over_seeds(about, np.array([1.0, 1.3, 0.7, 1.2]), Direction(1, smallest=0.1))
    assert own.verdict == "supported"
    controls = [replace(own, id=f"own.control_{i}", control_of="own") for i in range(40)]
    assert holm([own, *controls])[0].verdict == "supported"
    assert holm([replace(own, id=str(i)) for i in range(40)])[0].verdict == "inconclusive"


def test_the_three_exponents_of_a_quadratics_excess_loss_are_one_each():
    """<L> - L* = n tr(C)/4 at stationarity: it rises as eta, as 1/S, and as the covariance."""
    finals, factors = {}, {}
    for eta in (0.01, 0.04):
        for size in (10, 40):
            for c in (1, 4, 16):
                label = f"{eta} {size} {c}"
                potential, noise = Quadratic(((1.0, 0.0), (0.0, 3.0))), Gaussian(c**0.5)
                record = tuple(range(600, 1_200, 60))
                theta = simulate(Simulation(potential, eta, size, noise, record[-1], record, (0.0, 0.0), 2_000))
                excess = potential.loss(theta.reshape(-1, 2)).reshape(len(record), 4, 500).mean(axis=(0, 2))
                finals[label] = {"end hessian/frobenius": excess}  # a seed is 500 chains
                factors[label] = {"network": "mlp", "part": "exponents", "eta": eta, "S": size, "C": c}
    found = exponents(SyntheticTable(finals, factors=factors), "mlp", "end hessian/frobenius")
    np.testing.assert_allclose(found, -np.ones((4, 3)), atol=0.05)
    claims = {
        claim.id.split(".")[-1]: claim for claim in equal_exponents(SyntheticTable(finals, factors=factors), "mlp")
    }
    assert {name: claim.verdict for name, claim in claims.items()} == dict.fromkeys(claims, "supported")
    for claim in claims.values():
        assert claim.value == pytest.approx(1, abs=0.05)


def test_what_the_end_remembers():
    """y = w y_first + (1 - w) y_second: φ is w."""
    random = np.random.default_rng(0)
    for w in (0.0, 0.3, 1.0):
        y = {HIGH: random.normal(0, 0.05, 6), LOW: random.normal(1, 0.05, 6)}
        finals = {label: {LOSS: np.exp(values)} for label, values in y.items()}
        for first, second in ((HIGH, LOW), (LOW, HIGH)):
            for share in (15, 85):
                finals[switched(first, share)] = {LOSS: np.exp(w * y[first] + (1 - w) * y[second])}
        table = SyntheticTable(finals)
        for first in (HIGH, LOW):
            above, below = kept(table, first, 15, LOSS)
            np.testing.assert_allclose(above / below, w, atol=1e-9)


@pytest.mark.parametrize(("gap", "loss", "matches"), [(0.028, 0.05, True), (0.028, 0.08, False), (0.01, 0.05, False)])
def test_a_fingerprint_is_the_gap_and_the_training_loss(gap, loss, matches):
    form, epochs = FORMS[0], 301
    low = np.full((1, epochs), 0.8)
    series = {form.label(CONSTANT): {TEST: low, STEP_LOSS: low}}
    series[form.label(CYCLIC)] = {TEST: low + gap, STEP_LOSS: np.full((1, epochs), loss)}
    table = SyntheticTable({label: {TEST: np.full(1, 0.8)} for label in series}, series)
    found = readings(table, form)
    assert [of.epoch for of in found] == [105, 210, 300]
    assert [of.matches for of in found] == [matches] * 3
    assert not any(of.same_accuracies for of in found)
