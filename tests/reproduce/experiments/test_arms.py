"""The arms take one confound away each, and leave everything else of a run as it was."""

from dataclasses import replace

import numpy as np
import pytest

from tests.reproduce.figures import SCRIPTS, figure, source
from tests.reproduce.script import run
from tests.reproduce.specs import NoRuns
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, exchange
from three_factors.reproduce.engine.contract.networks import MLPNetwork, VGG11Network
from three_factors.reproduce.engine.contract.spec import Data, RunSpec
from three_factors.reproduce.engine.contract.steps import planned
from three_factors.reproduce.engine.definition import Figure
from three_factors.reproduce.engine.experiment import PAPERS, Setting
from three_factors.reproduce.engine.judge.looks import look
from three_factors.reproduce.engine.judge.table import SyntheticTable
from three_factors.reproduce.engine.judge.verdicts import judge
from three_factors.reproduce.engine.options import InputError
from three_factors.reproduce.engine.regime import t_eta as whole_time
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.arms import CAP

SPEC = RunSpec(
    VGG11Network(width=1 / 32),
    Data("digits", "-", train=480, validation=50, test=100),
    NoiseSchedule(0.1, 24),
    epochs=12,
    seed=0,
)
GRID = {
    f"eta {lr:g}, S {size}": Setting(replace(SPEC, schedule=NoiseSchedule(lr, size)), {"eta": lr, "S": size})
    for lr in (0.001, 0.01, 0.1)
    for size in (24, 48, 240)
}
FIGURE = Figure(
    name="figx",
    title="",
    doc="",
    data=("digits",),
    experiment=NoRuns(),
    check=list,
    draw=print,
    arms=(arms.TIME, arms.SVAG),
)


def changed(arm, **specs):
    """The specs that an arm makes of these."""
    return specs_of(arm.change({label: Setting(spec) for label, spec in specs.items()}))


def specs_of(settings):
    return {label: setting.spec for label, setting in settings.items()}


def t_eta(spec):
    """Sum of eta over the steps, with a momentum's factor."""
    lr, size = arms.constants(spec)
    return spec.epochs * spec.data.train / size * lr / (1 - spec.momentum)


def test_at_equal_time_all_runs_end_at_one_t_eta_near_the_grids_middle():
    found, grid = specs_of(arms.TIME.change(GRID)), specs_of(GRID)
    middle = np.sqrt(min(map(t_eta, grid.values())) * max(map(t_eta, grid.values())))
    assert 0 < len(found) < len(GRID)
    ends = [t_eta(spec) for spec in found.values()]
    assert max(ends) / min(ends) <= 1.05
    assert middle / 1.55 <= min(ends) <= max(ends) <= 1.55 * middle
    for label, spec in found.items():
        assert replace(spec, epochs=12, evaluate_every=grid[label].evaluate_every) == grid[label]
        assert spec.epochs % spec.evaluate_every == 0
    left_out = {label: t_eta(spec) / middle for label, spec in grid.items() if label not in found}
    assert all(not 1 / CAP <= factor <= CAP for factor in left_out.values())


def test_equal_time_counts_momentum_and_keeps_whole_evaluations():
    plain, heavy = SPEC, replace(SPEC, momentum=0.9, schedule=NoiseSchedule(0.01, 24))
    found = changed(arms.TIME, plain=plain, heavy=heavy)
    assert [spec.epochs for spec in found.values()] == [12, 12]
    found = changed(arms.TIME, low=replace(plain, evaluate_every=4), high=replace(plain, evaluate_every=4))
    assert [(spec.epochs, spec.evaluate_every) for spec in found.values()] == [(12, 4), (12, 4)]


@pytest.mark.parametrize("every", [1, 3, 4, 6, 12])
def test_evaluations_that_are_too_rare_for_one_t_eta_come_more_often(every):
    found = specs_of(arms.TIME.change({k: v.changed(evaluate_every=every) for k, v in GRID.items()}))
    ends = [t_eta(spec) for spec in found.values()]
    assert max(ends) / min(ends) <= 1.05
    assert all(spec.epochs % spec.evaluate_every == 0 and spec.evaluate_every <= every for spec in found.values())


def test_a_stretched_control_ends_with_the_others_and_does_not_set_where():
    high, low = SPEC, replace(SPEC, schedule=NoiseSchedule(0.025, 24))
    control = replace(SPEC, schedule=NoiseSchedule(0.00625, 24), epochs=4 * SPEC.epochs, evaluate_every=4)
    alone = changed(arms.TIME, high=high, low=low)
    found = changed(arms.TIME, high=high, low=low, control=control)
    assert [found[label] for label in alone] == [*alone.values()]
    ends = [t_eta(spec) for spec in found.values()]
    assert len(ends) == 3
    assert max(ends) / min(ends) <= 1.05


@pytest.mark.parametrize("scale", ["quick", "gpu", "paper"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_watched_is_measured_at_the_end_in_every_arm_too(name, scale):
    settings = figure(name).experiment.runs(scale, source(figure(name).data[0]))
    for arm in (PAPERS, *figure(name).arms):
        for label, setting in (settings if arm.change is None else arm.change(settings)).items():
            watch = setting.spec.watch
            assert watch is None or setting.spec.epochs % watch.every == 0, (arm.name, label)


@pytest.mark.parametrize("scale", ["quick", "gpu", "paper"])
def test_the_three_exponents_end_at_one_t_eta(scale):
    settings = figure("noise_only").experiment.runs(scale, source("fashionmnist"))
    ends = [t_eta(of.spec) for of in settings.values() if of.factors["part"] == "exponents"]
    assert len(ends) >= 8
    assert max(ends) / min(ends) <= 1.051


@pytest.mark.parametrize("scale", ["quick", "gpu", "paper"])
def test_runs_whose_noise_is_switched_end_at_one_t_eta_after_one_quench(scale):
    specs = [setting.spec for setting in figure("when").experiment.runs(scale, source("cifar10")).values()]
    steps = [planned(spec) for spec in specs]
    quenches = [of.lr[of.lr < spec.schedule.lr(0.0)].sum() for of, spec in zip(steps, specs)]
    wholes = [of.lr.sum() for of in steps]
    assert max(quenches) / min(quenches) <= 1.07  # the first step of a quench has the whole eta
    assert max(wholes) / min(wholes) <= 1.051


@pytest.mark.parametrize("scale", ["quick", "gpu", "paper"])
@pytest.mark.parametrize("name", [name for name in SCRIPTS if "time" in {arm.name for arm in figure(name).arms}])
def test_figures_have_one_t_eta_in_the_arm_of_equal_t_eta(name, scale):
    settings = figure(name).experiment.runs(scale, source(figure(name).data[0]))
    panels = {}
    for setting in arms.TIME.change(settings).values():
        panels.setdefault((setting.spec.network, setting.spec.data), []).append(t_eta(setting.spec))
    assert panels
    assert all(max(ends) / min(ends) <= 1.051 for ends in panels.values())


def test_a_schedule_that_varies_has_no_equal_time():
    with pytest.raises(InputError, match="--arm: only for constant eta and S"):
        changed(arms.TIME, x=replace(SPEC, schedule=NoiseSchedule(0.1, Cyclic(48, 24, 2))))


def test_the_other_arms_change_one_thing():
    assert changed(arms.LOSS, x=SPEC)["x"] == replace(SPEC, epochs=60, stop_at_loss=0.1)
    assert changed(arms.L2, x=SPEC)["x"] == replace(SPEC, weight_decay=5e-4)
    assert arms.GHOST.change(GRID)["eta 0.1, S 240"].spec.network == VGG11Network(width=1 / 32, ghost_batch_size=24)
    assert changed(arms.NO_BN, x=SPEC)["x"].network == VGG11Network(width=1 / 32, batch_norm=False)
    without = replace(SPEC, network=MLPNetwork(in_features=3072))
    assert changed(arms.NO_BN, x=SPEC, y=without).keys() == {"x"}  # y is without already
    assert PAPERS.change is None


def test_svag_keeps_t_eta_and_the_noise_of_the_trajectory():
    """l steps of eta/l with covariance l C/S move as far as one of eta with C/S: eta^2 C/S in all."""
    for level in arms.LEVELS:
        spec = changed(arms.SVAG, x=SPEC)[f"x, l {level}"]
        lr, size = arms.constants(spec)
        steps = spec.epochs * spec.data.train / size
        factor = spec.noise.factor if spec.noise else 0.0
        assert lr == pytest.approx(0.1 / level)
        assert steps * lr == pytest.approx(t_eta(SPEC))
        assert steps * lr**2 * (1 + factor**2) / size == pytest.approx(12 * 20 * 0.1**2 / 24)
        assert spec.sampling == "replacement"
        assert level == 1 or spec.network.ghost_batch_size == 24


def test_svag_claims_compare_every_level_with_the_first():
    seeds = 6
    random = np.random.default_rng(0)

    def world(shift):
        finals, factors = {}, {}
        for level in arms.LEVELS:
            for cell in ("a", "b"):
                factors[f"{cell}, l {level}"] = {"cell": cell, "level": level}
                accuracy = 0.8 + shift * (level == 4) + random.normal(0, 0.001, seeds)
                norm = np.exp(random.normal(0, 0.02, seeds))
                finals[f"{cell}, l {level}"] = {"val/accuracy": accuracy, "end hessian/frobenius": norm}
        found = arms.SVAG.check(SyntheticTable(finals, factors=factors))
        return [claim.verdict for claim in judge(found, look(seeds, seeds), [of.about.id for of in found])]

    assert world(0.0) == ["supported"] * 4
    assert world(0.05) == ["supported", "supported", "not supported", "supported"]


def test_an_arm_that_a_figure_does_not_have_is_refused_in_one_line():
    assert FIGURE.arm("time") is arms.TIME
    with pytest.raises(InputError, match="--arm: figx has no arm 'ghost', only epochs, time, svag"):
        FIGURE.arm("ghost")


def test_a_figures_script_refuses_an_arm_before_it_reads_anything(tmp_path):
    done = run("fig4", tmp_path / "out", "--arm", "time")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --arm: fig4 has no arm 'time', only epochs, ghost, no-bn, l2, quench"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["time", "loss", "ghost", "no-bn", "l2", "svag"])
def test_figure_1_runs_in_every_arm(arm, tmp_path_factory):
    out = tmp_path_factory.getbasetemp() / "arms"
    done = run("fig1", out, "--arm", arm, "--wandb", "disabled", data="digits28")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = out / "fig1" / f"smoke-digits28-{arm}"
    assert (folder / "fig1.png").is_file()


CYCLIC = NoiseSchedule(0.1, Cyclic(high=96, low=24, period=4, phase=0.5))


@pytest.mark.parametrize("schedule", [NoiseSchedule(0.1, 24), CYCLIC, exchange(CYCLIC)])
def test_a_quench_goes_on_for_fifteen_percent_more_time_with_eta_falling_to_nothing(schedule):
    spec = replace(SPEC, schedule=schedule, momentum=0.9)
    found = changed(arms.QUENCHED, run=spec)["run"]
    before, after = planned(spec), planned(found)
    whole = len(before.lr)
    assert np.array_equal(after.lr[:whole], before.lr)
    assert np.array_equal(after.batch_size[:whole], before.batch_size)
    assert after.lr[whole:].sum() == pytest.approx(arms.QUENCH * before.lr.sum(), rel=0.15)  # whole epochs
    assert set(after.batch_size[whole:]) == {before.batch_size[-1]}
    falls = np.diff(after.lr[whole:])
    assert falls == pytest.approx(np.full(len(falls), falls.mean()), rel=1e-6)  # in a straight line
    assert after.lr[whole] == pytest.approx(before.lr[-1], rel=0.05)
    assert 0 < after.lr[-1] <= 2 * abs(falls.mean())
    assert replace(found, schedule=schedule, epochs=spec.epochs) == spec


@pytest.mark.parametrize("scale", ["quick", "gpu", "paper"])
@pytest.mark.parametrize("name", [name for name in SCRIPTS if "quench" in {arm.name for arm in figure(name).arms}])
def test_runs_of_one_t_eta_have_one_quench(name, scale):
    before = figure(name).experiment.runs(scale, source(figure(name).data[0]))
    after = arms.QUENCHED.change(before)
    panels = {}
    for label, setting in before.items():
        spec = setting.spec
        time = whole_time(spec)
        near = [of for of in panels if of[:2] == (spec.network, spec.data) and abs(np.log(of[2] / time)) < 0.06]
        panels.setdefault(near[0] if near else (spec.network, spec.data, time), []).append(
            whole_time(after[label].spec) - time
        )
    assert max(map(len, panels.values())) > 1
    for (_, _, time), quenches in panels.items():
        assert max(quenches) / min(quenches) <= 1.051
        assert np.mean(quenches) / time == pytest.approx(arms.QUENCH, rel=0.35 if scale == "quick" else 0.02)


@pytest.mark.slow
def test_a_quench_takes_the_excess_out_of_a_quadratic_but_not_of_directions_that_are_too_flat():
    """The loss h θ²/2, noise of variance 1/S a step: stationary excess n tr(C)/4, with C = 1, and 0 in the basin."""
    data = replace(SPEC.data, train=1_000)
    spec = replace(SPEC, data=data, schedule=NoiseSchedule(0.1, 10), epochs=20)
    steps, random = planned(changed(arms.QUENCHED, run=spec)["run"]), np.random.default_rng(0)
    tau = arms.QUENCH * 0.1 * 2_000
    curvature = np.array([1.0, 10 / tau, 1.0 / tau])
    n = 0.01
    theta = random.normal(0, np.sqrt(n / (2 * curvature)), (20_000, 3))  # stationary already
    excess = []
    for i, lr in enumerate(steps.lr):
        if i == len(planned(spec).lr):
            excess.append((curvature * theta**2 / 2).mean(axis=0))
        theta -= lr * (curvature * theta + random.normal(0, 1 / np.sqrt(10), theta.shape))
    excess.append((curvature * theta**2 / 2).mean(axis=0))
    hot, cold = excess
    assert hot == pytest.approx(np.full(3, n / 4), rel=0.06)
    variance = n / (2 * curvature)
    for lr in steps.lr:
        variance = (1 - lr * curvature) ** 2 * variance + lr**2 / 10
    assert cold == pytest.approx(curvature * variance / 2, rel=0.05)
    assert cold[0] < hot[0] / 8
    assert cold[2] > hot[2] / 3
    assert "3/τ = 0.1," in arms.QUENCHED.tell({"run": Setting(spec)})


def test_runs_are_stopped_where_the_noisy_labels_are_memorised():
    (spec,) = changed(arms.MEMORISED_ALL, run=SPEC).values()
    assert (spec.stop_at_accuracy, spec.epochs) == (0.999, 60)
    assert replace(spec, stop_at_accuracy=None, epochs=12) == SPEC
