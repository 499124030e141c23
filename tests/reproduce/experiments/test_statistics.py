"""The experiments' own statistics, on curves made up so that the answer is known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.figures import source
from three_factors.reproduce.engine.contract.spec import RISES
from three_factors.reproduce.engine.contract.steps import STEP_VARIANCE
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.table import NOISE, SyntheticTable, Table
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.experiments import (
    cycles,
    cyclical,
    loss_levels,
    memorisation,
    metrics,
    mlp_grids,
    random_labels,
    resnet_valleys,
    tuning,
    vgg_valleys,
    widths,
)
from three_factors.reproduce.experiments.fingerprints import CONSTANT, CYCLIC, FORMS, readings
from three_factors.reproduce.experiments.metrics import LOSS, STEP_LOSS, TEST
from three_factors.reproduce.experiments.noise_dial import exponents
from three_factors.reproduce.experiments.switching import HIGH, LOW, kept, switched
from three_factors.reproduce.noise_only import equal_exponents
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulate import simulate
from three_factors.reproduce.theory.simulation import Gaussian, Simulation


def table(rows, curves=None, factors=None):
    """A table of (label, seed, values); one without values diverged."""
    found = [
        {"label": label, "seed": seed, "status": "ok" if values else "diverged"} | values
        for label, seed, values in rows
    ]
    return Table(pd.DataFrame(found), curves or {}, factors=factors or {})


def word(finding, seeds=4):
    """What a finding alone in its figure is judged to be at its first look."""
    alone = replace(finding, about=replace(finding.about, control_of=""))
    return judge([alone], look(seeds, seeds), [finding.about.id])[0].verdict


# -- memorisation


def epochs(noisy, clean, wrong=None):
    wrong = [0.1] * len(noisy) if wrong is None else wrong
    index = range(1, len(noisy) + 1)
    columns = {
        memorisation.NOISY: noisy,
        metrics.VALID: clean,
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
    clean = [0.5, 0.8, 0.8, 0.8] + [0.7] * 16
    wrong = [0.0, 0.02, 0.04, 0.1] + [0.2] * 14 + [0.7, 0.9]
    found = memorised(epochs([0.8] * 20, clean, wrong))
    assert found[memorisation.EARLY] == pytest.approx(0.04 / 0.8)
    assert memorisation.EARLY not in memorised(epochs([0.8] * 20, clean, [0.1] * 20))  # it never memorises
    seldom = replace(SPEC, evaluations=None)  # once an epoch: which came first is not known
    assert memorisation.EARLY not in memorisation.MEMORISATION.derive(epochs([0.8] * 20, clean, wrong), seldom)


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


# -- equal loss


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


# -- cyclical schedules


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


def test_a_weaker_slope_is_over_the_cells_in_which_no_pilot_diverged():
    grid, good = mlp_grids.DEEP_MLP, mlp_grids.GOOD
    world = grid.imagined("quick", 3, np.random.default_rng(0))
    left_out = grid.unstable["quick"]
    assert all(world.factors[label]["unstable"] == 1 for label in left_out)
    whole = grid.slopes(world, good, metrics.END_NORM)
    wild = {label: {name: 1e6 * values for name, values in world.finals[label].items()} for label in left_out}
    np.testing.assert_array_equal(
        grid.slopes(SyntheticTable(world.finals | wild, factors=world.factors), good, metrics.END_NORM), whole
    )
    assert whole == pytest.approx(-0.5, abs=0.15)


def ends(theta1, theta2):
    """The columns of a line between minima of these widths in every kind."""
    found = {"loss θ1": np.full(4, 0.1), "loss θ2": np.full(4, 0.1)}
    for kind in widths.KINDS:
        for rise in RISES:
            for end, values in (("θ1", theta1), ("θ2", theta2)):
                edge = np.where(np.isnan(values), 1.0, values)
                found |= {widths.width(kind, end, rise): values, widths.width(kind, end, rise, at_least=True): edge}
    return found


def test_a_width_that_is_not_reached_bounds_the_ratio():
    wide, narrow = np.array([2.0, 2.1, 2.0, 1.9]), np.array([1.0, 1.1, 1.0, 0.9])
    line = resnet_valleys.LARGE_TO_BASE

    def wider(theta1, theta2):
        return resnet_valleys.CONSTANT.wider(SyntheticTable({line: ends(theta1, theta2)}), [line])[0]

    assert word(wider(narrow, wide)) == "supported"
    lost = np.array([1.0, math.nan, 1.0, 0.9])
    censored = wider(lost, wide)  # the narrower one may be wider than was seen
    assert word(censored) == "inconclusive"
    assert "rises not reached: of θ1 in 1 seeds" in censored.about.note
    beyond = wider(narrow, np.array([2.0, math.nan, 2.0, 1.9]))
    assert beyond.estimate.interval(0.95)[1] == math.inf


def triplet(lines, r, q, of):
    """Lines of a triplet in which S alone acts by r and eta and S together by q, both in log width and log loss."""
    random, finals = np.random.default_rng(0), {}
    for label, signed in of.equal.items():
        finals[label] = q * signed + random.normal(0, 0.01, 4)
    finals[of.quiet] = r * np.log(of.less) + random.normal(0, 0.01, 4)
    found = {}
    for label, apart in finals.items():
        found[label] = ends(np.ones(4), np.exp(-apart)) | {"loss θ2": 0.1 * np.exp(-apart)}
    return lines.alike(SyntheticTable(found), of)[:2]


@pytest.mark.parametrize(
    ("lines", "of"), [(resnet_valleys.CONSTANT, resnet_valleys.EQUAL), (vgg_valleys.SCALED, vgg_valleys.ALIKE)]
)
@pytest.mark.parametrize(("r", "q", "g", "verdict"), [(0.4, 0.0, 1.0, "supported"), (0.2, 0.2, 0.5, "not supported")])
def test_the_exponent_of_a_triplet_is_found_and_judged(lines, of, r, q, g, verdict):
    for found in triplet(lines, r, q, of):
        assert found.estimate.value == pytest.approx(g, abs=0.05)
        assert word(found) == verdict


def test_noise_that_acts_against_its_direction_shows_nothing():
    for found in triplet(resnet_valleys.CONSTANT, -0.4, 0.0, resnet_valleys.EQUAL):
        assert word(found) != "supported"


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
                finals[label] = {"end hessian/frobenius": 1 / excess}  # a seed is 500 chains
                factors[label] = {"network": "mlp", "part": "exponents", "eta": eta, "S": size, "C": c}
    found = exponents(SyntheticTable(finals, factors=factors), "mlp", "end hessian/frobenius")
    np.testing.assert_allclose(found, np.ones((4, 3)), atol=0.05)
    for of in equal_exponents(SyntheticTable(finals, factors=factors), "mlp"):
        assert word(of) == "supported"
        assert of.estimate.value == pytest.approx(1, abs=0.05)


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
