"""Every figure script: runs at smoke scale, shares runs with its kin, has a power; what is run is in test_paper."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reproduce.figures import SCRIPTS, figure, plan, source
from tests.reproduce.script import run
from three_factors.datamodules.prepared import prepare
from three_factors.reproduce.engine.contract.networks import MLPNetwork, VGG11Network
from three_factors.reproduce.engine.judge.stored_claims import controls, own
from three_factors.reproduce.engine.launch import packing
from three_factors.reproduce.engine.options import InputError, Options
from three_factors.reproduce.engine.planning import FigurePlan

FILES = {"png", "svg", "csv", "json"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One results folder for all of them."""
    return tmp_path_factory.mktemp("figures")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_at_smoke_scale(name, out):
    stand_in = figure(name).substitute
    done = run(name, out, "--wandb", "disabled", data=stand_in)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    folder = out / name / f"smoke-{stand_in}"
    assert {p.suffix[1:] for p in folder.iterdir()} == FILES
    claims = json.loads((folder / "claims.json").read_text())
    assert claims
    assert {claim["verdict"] for claim in claims} <= {"not judged", "estimated"}
    assert {claim["id"] for claim in claims if claim["verdict"] == "not judged"} == set(figure(name).primary) & {
        claim["id"] for claim in claims
    }


@pytest.mark.slow
def test_a_figure_of_packs_has_the_keys_claims_and_files_of_one_without(tmp_path, out):
    stand_in = figure("fig1").substitute
    alone = run("fig1", out, "--wandb", "disabled", "--no-packs", data=stand_in)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    packed = run("fig1", tmp_path, "--wandb", "disabled", data=stand_in, env=os.environ | {packing.ALWAYS: "1"})
    assert packed.returncode == 0, packed.stdout + packed.stderr
    ours, theirs = (of / "fig1" / f"smoke-{stand_in}" for of in (tmp_path, out))
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    keys, wanted = (json.loads((of / "provenance.json").read_text())["runs"] for of in (ours, theirs))
    assert keys == wanted
    for key in keys.values():
        one, other = (of / "runs" / key for of in (tmp_path, out))
        assert json.loads((one / "result.json").read_text())["provenance"]["pack"] > 1
        kept = [{file.relative_to(of) for file in of.rglob("*") if file.is_file()} for of in (one, other)]
        assert kept[0] ^ kept[1] <= {Path("log.txt"), Path("progress.json"), Path("job.json")}
    claims, others = (json.loads((of / "claims.json").read_text()) for of in (ours, theirs))
    assert [claim["id"] for claim in claims] == [claim["id"] for claim in others]
    table, other = (pd.read_csv(of / "table.csv").drop(columns="seconds") for of in (ours, theirs))
    pd.testing.assert_frame_equal(table, other, rtol=1e-2)


@pytest.mark.slow
def test_a_script_with_several_data_sets_takes_the_network_that_fits_the_images(tmp_path):
    done = run("noise_only", tmp_path, "--plot-only", data="digits")
    assert done.returncode == 1, done.stdout + done.stderr  # there is nothing
    assert "NOT FASHIONMNIST OR CIFAR10" in done.stdout
    defined = figure("noise_only")
    for of, images in ((VGG11Network, "digits"), (MLPNetwork, "digits28")):
        planned = FigurePlan(defined, Options(scale="smoke"), prepare(images), defined.arm("epochs")).runs()
        assert {type(item.spec.network) for item in planned} == {of}


@pytest.mark.parametrize("group", [("fig4", "fig13"), ("fig5", "fig14", "fig15"), ("fig10", "fig11", "fig12")])
@pytest.mark.parametrize("scale", ["smoke", "quick", "gpu", "paper"])
def test_figures_of_the_same_networks_share_their_runs_and_measurements(group, scale):
    first, *others = (figure(name) for name in group)
    runs = first.experiment.runs(scale, source(first.data[0]))
    for other in others:
        assert other.experiment.runs(scale, source(other.data[0])) == runs  # with what is measured of them
        assert other.experiment.lines == first.experiment.lines


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "gpu", "paper"])
def test_every_claim_is_known_before_anything_is_trained(name, scale):
    experiment = figure(name).experiment
    drawn = experiment.imagined(scale, 3, np.random.default_rng(0))
    runs = experiment.runs(scale, source(figure(name).data[0]))
    if experiment.tuning is not None:
        runs = experiment.tuning.choose(scale, runs, None)
    there = {label for label, line in experiment.lines.items() if {line.start, line.end} <= runs.keys()}
    assert set(drawn.labels) == (there if experiment.lines else set(runs))
    statements = [finding.about for finding in figure(name).check(drawn)]
    assert all(about.id and about.text and about.statistic for about in statements)
    assert set(figure(name).primary) <= {about.id for about in statements}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_figure_names_at_most_four_primary_claims(name):
    assert len(figure(name).primary) <= 4
    with pytest.raises(ValueError, match=f"primary: {name} names more than 4"):
        replace(figure(name), primary=tuple("abcde"))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "gpu", "paper"])
def test_verdicts_are_of_seeds_that_no_pilot_has(name, scale):
    planned = plan(name, scale)
    seeds = {item.seed for item in planned._of_claims()}
    first = 0 if scale == "smoke" else 100 * figure(name).edition  # the next hundred, where claims were changed
    assert seeds == set(range(first, first + planned.seeds))
    lines = planned.lines(planned.runs())
    assert {line.seed for line in lines} <= seeds


def test_an_arm_whose_runs_were_changed_has_seeds_and_rules_of_its_own():
    defined = figure("fig8")
    assert defined.later == {"time": 2}
    options = Options(scale="quick")
    judged = [list(FigurePlan(defined, options, source("cifar10"), defined.arm(of)).judged) for of in ("time", "no-bn")]
    assert [seeds[0] for seeds in judged] == [200, 100]
    assert defined.rules("time") == f"{defined.rules('no-bn')}.2"


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "gpu", "paper"])
def test_what_is_imagined_has_the_factors_of_what_is_run(name, scale):
    experiment = figure(name).experiment
    drawn = experiment.imagined(scale, 2, np.random.default_rng(0))
    for label, setting in experiment.runs(scale, source(figure(name).data[0])).items():
        assert drawn.factors.get(label, setting.factors) == setting.factors


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_control_is_of_a_claim_of_its_figure(name):
    found = []
    for scale in ("quick", "paper"):  # the paper scale has more controls
        imagined = figure(name).experiment.imagined(scale, 3, np.random.default_rng(0))
        found += [{"id": f.about.id, "control_of": f.about.control_of} for f in figure(name).check(imagined)]
    claims = own(found)
    paired = {control["id"] for claim in claims for control in controls(claim, found)}
    assert paired == {claim["id"] for claim in found if claim not in claims}


@pytest.mark.parametrize(("part", "there"), [("train", "32 train"), ("test", "16 test")])
def test_a_data_set_that_is_too_small_is_named(part, there):
    small = replace(source("cifar10"), name="pets", **{part: int(there.split()[0])})
    with pytest.raises(InputError, match=f"--data: 'pets' has {there} images, --scale quick takes"):
        figure("fig4").experiment.runs("quick", small)


def test_an_arm_that_leaves_no_run_is_refused_before_anything_is_counted():
    """At quick noise_only has no network with batch norm."""
    defined, options = figure("noise_only"), Options(arm="no-bn")
    with pytest.raises(InputError, match="--arm: 'no-bn' leaves no run at scale quick"):
        FigurePlan(defined, options, source("fashionmnist"), defined.arm("no-bn")).regime()


def of(name):
    settings = figure(name).experiment.runs("paper", source(figure(name).data[0]))
    return {label: setting.spec for label, setting in settings.items()}


def settings(specs):
    return {(spec.schedule.lr(0), spec.schedule.batch_size(0)) for spec in specs}


def test_figure_16_at_paper_scale_is_the_papers():
    specs = of("fig16")
    assert list(specs) == ["discrete S", "discrete eta", "triangle eta", "constant, low eta", "constant, high eta"]
    assert settings([specs["constant, low eta"], specs["constant, high eta"]]) == {(0.001, 128), (0.005, 128)}
    for t in (0, 7, 8, 14.9):  # a cycle of 15 epochs, at high noise first
        ratio = specs["discrete S"].schedule.noise_ratio(t)
        assert specs["discrete eta"].schedule.noise_ratio(t) == pytest.approx(ratio, rel=1e-12)
        assert ratio == pytest.approx((0.005 if t < 7.5 else 0.001) / 128)
    triangle = specs["triangle eta"].schedule.lr
    assert (triangle(0), triangle(7.5), triangle(15)) == pytest.approx((0.001, 0.005, 0.001))  # ends at low noise


def test_table_1_at_paper_scale_tunes_what_the_paper_tunes_and_shares_figure_16s_runs():
    specs, tuning = of("table1"), figure("table1").experiment.tuning
    assert len(specs) == 3 * 6 * 3 + 6
    highest = {round(max(spec.schedule.lr(t / 8) for t in range(121)), 9) for spec in specs.values()}
    assert (len(highest), min(highest), max(highest)) == (6, pytest.approx(1e-3), pytest.approx(5e-2))
    for label, spec in specs.items():
        noise = [spec.schedule.noise_ratio(t / 8) for t in range(121)]
        assert max(noise) / min(noise) == pytest.approx(1 if "constant" in label else 5), label
    assert not set(tuning.seeds("paper")) & set(range(1000))
    for scale in ("quick", "gpu", "paper"):
        final = tuning.choose(scale, figure("table1").experiment.runs(scale, source("cifar10")), None)
        others = figure("fig16").experiment.runs(scale, source("cifar10"))
        assert [final[name] == others[name] for name in ("discrete S", "discrete eta", "triangle eta")] == [True] * 3
        plain, quenched = (final[name].spec for name in ("constant eta", "constant eta, quenched"))
        assert quenched.schedule.lr(plain.epochs - 1e-9) == plain.schedule.lr(0)
        assert quenched.schedule.lr(quenched.epochs - 1e-9) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("data", ["fashionmnist", "cifar10"])
@pytest.mark.parametrize("scale", ["smoke", "quick", "gpu", "paper"])
def test_the_noise_dial_changes_the_noise_alone(data, scale):
    from three_factors.reproduce.experiments import noise_dial

    found = figure("noise_only").experiment.runs(scale, source(data))
    dial = {label: setting for label, setting in found.items() if setting.factors["part"] == noise_dial.DIAL}
    specs = {label: setting.spec for label, setting in dial.items()}
    eta, s = next(iter(settings([specs[noise_dial.SGD]])))
    for label, spec in specs.items():
        way, reference = dial[label].factors["way"], specs[noise_dial.SGD]
        size = spec.schedule.batch_size(0)
        assert settings([spec]) == {(eta, s if way == noise_dial.SGD else 4 * s)}
        assert spec.epochs * (spec.data.train // size) == reference.epochs * (spec.data.train // s)
        assert spec.data.train % size == 0  # no shorter batch, no example left out
        factor = spec.noise.factor if spec.noise is not None else 0.0
        covariance = (1 + factor**2) / size
        assert covariance == pytest.approx(1 / (4 * s) if way == noise_dial.QUIET else 1 / s)
        assert spec.network.ghost_batch_size == (s if spec.network.batch_norm else None)
        assert spec.sampling == "replacement"  # else a batch's noise is not C/S over an epoch
        assert (spec.data, spec.momentum, spec.weight_decay) == (reference.data, 0, 0)
    if scale == "paper":
        own = {"fashionmnist": ((0.1, 25), 200), "cifar10": ((0.005, 128), 300)}[data]
        assert ((eta, s), specs[noise_dial.SGD].epochs) == own


def test_every_cycle_ends_at_low_noise_and_is_measured_at_both_ends():
    for name in ("fig16", "table1"):
        for label, spec in of(name).items():
            if "constant" in label or ("cycle" in label and "cycle 15" not in label):
                continue
            measured = [spec.schedule.noise_ratio(epoch - 1e-6) for epoch in range(3, 301, 3)]
            assert measured[-1] == pytest.approx(min(measured), rel=1e-4), label
            assert max(measured) / min(measured) > 4, label
