"""Every figure script: runs at smoke scale, shares runs with its kin, and at paper scale has the paper's grids."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.reproduce.figures import SCRIPTS, figure, source
from tests.reproduce.script import run
from three_factors.datamodules.schedules import Constant, Cyclic
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.experiment import PAPERS
from three_factors.reproduce.engine.judge.claims import controls, own
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
    assert {claim["verdict"] for claim in claims} == {"not judged"}


@pytest.mark.slow
def test_a_script_with_several_data_sets_takes_the_network_that_fits_the_images(out):
    done = run("noise_only", out, "--wandb", "disabled", data="digits")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT FASHIONMNIST OR CIFAR10" in done.stdout
    keys = json.loads((out / "noise_only" / "smoke-digits" / "provenance.json").read_text())["runs"].values()
    networks = [json.loads((out / "runs" / key / "spec.json").read_text())["network"]["type"] for key in keys]
    assert set(networks) == {"reproduce.engine.spec:VGG11Network"}


@pytest.mark.parametrize("group", [("fig4", "fig13"), ("fig5", "fig14", "fig15"), ("fig10", "fig11", "fig12")])
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_figures_of_the_same_networks_share_their_runs_and_measurements(group, scale):
    first, *others = (figure(name) for name in group)
    runs = first.experiment.runs(scale, source(first.data[0]))
    for other in others:
        assert other.experiment.runs(scale, source(other.data[0])) == runs  # with what is measured of them
        assert other.experiment.lines == first.experiment.lines


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_every_claim_has_a_power_before_anything_is_trained(name, scale):
    experiment = figure(name).experiment
    drawn = experiment.imagined(scale, 3, np.random.default_rng(0))
    runs = experiment.runs(scale, source(figure(name).data[0]))
    if experiment.tuning is not None:
        runs = experiment.tuning.choose(scale, runs, None)
    assert set(drawn.labels) == set(experiment.lines or runs)
    assert all(claim.id and claim.claim and claim.statistic for claim in figure(name).check(drawn))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
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
        found += [claim.as_json() for claim in figure(name).check(imagined)]
    claims = own(found)
    paired = {control["id"] for claim in claims for control in controls(claim, found)}
    assert paired == {claim["id"] for claim in found if claim not in claims}


@pytest.mark.parametrize(("part", "there"), [("train", "32 train"), ("test", "16 test")])
def test_a_data_set_that_is_too_small_is_named(part, there):
    small = replace(source("cifar10"), name="pets", **{part: int(there.split()[0])})
    with pytest.raises(InputError, match=f"--data: 'pets' has {there} images, --scale quick takes"):
        figure("fig4").experiment.runs("quick", small)


def of(name):
    settings = figure(name).experiment.runs("paper", source(figure(name).data[0]))
    return {label: setting.spec for label, setting in settings.items()}


def settings(specs):
    return {(spec.schedule.lr(0), spec.schedule.batch_size(0)) for spec in specs}


VGG, RESNET = VGG11Network(), ResNet56Network()
# name -> seeds, epochs, training images, network; PAPER's [P] where it says, its [C] elsewhere.
PROTOCOL = {
    "fig1": (5, {200}, {50_000}, {MLPNetwork((512,) * 4, batch_norm=True)}),
    "fig2": (5, {200}, {44_032}, {RESNET}),
    "fig3": (5, {200}, {44_200}, {VGG}),
    "fig4": (5, {300, 671, 1500}, {44_800}, {VGG}),  # the root rule at equal t_eta; the noise control
    "fig5": (5, {300}, {50_000}, {MLPNetwork((256, 256))}),
    "fig6": (5, {200}, {12_000, 22_500, 45_000}, {VGG}),
    "fig7": (5, {200}, {44_000}, {RESNET}),
    "fig8": (5, {200}, {44_800}, {RESNET}),
    "fig10": (5, {200}, {44_032}, {RESNET}),
    "fig16": (5, {300}, {44_800}, {VGG}),
    "table1": (10, {300}, {44_800}, {VGG}),
}


@pytest.mark.parametrize("name", PROTOCOL)
def test_seeds_epochs_images_and_network_at_paper_scale_are_the_papers(name):
    seeds, epochs, images, networks = PROTOCOL[name]
    specs = of(name).values()
    experiment, own = figure(name).experiment, source(figure(name).data[0])
    assert experiment.scales["paper"].seeds == seeds
    assert {spec.epochs for spec in specs} == epochs
    assert {spec.data.train for spec in specs} == images
    assert {spec.network for spec in specs} == {
        replace(n, in_features=784) if isinstance(n, MLPNetwork) else n for n in networks
    }
    for spec in specs:  # plain SGD on the whole of the images, crop and flip on CIFAR-10 alone
        assert (spec.weight_decay, spec.sampling, spec.noise, spec.stop_at_loss) == (0, "shuffle", None, None)
        assert spec.momentum in ((0, 0.9) if name == "fig5" else (0,))
        assert spec.data.augment == (own.name == "cifar10")
        assert spec.data.validation == (5_000 if own.name == "cifar10" else 10_000)
        assert spec.data.test == 10_000


def test_the_arms_of_figure_4_and_the_ratios_of_figures_7_and_3_are_the_papers():
    fourth = of("fig4")
    assert settings([fourth["mean noise"]]) == {(0.003, 128)}
    equal_epochs, equal_time = fourth["root rule, equal epochs"], fourth["root rule, equal t_eta"]
    for spec in (equal_epochs, equal_time):
        ((lr, size),) = settings([spec])
        assert (lr / size**0.5, size) == (pytest.approx(0.001 / 128**0.5), 640)
    assert (equal_epochs.epochs, equal_time.epochs) == (300, round(300 * 0.001 / 128 * 640 / (0.001 * 5**0.5)))
    for spec in of("fig7").values():
        assert spec.schedule.noise_ratio(0) == pytest.approx(0.1 / 128, rel=1e-12)
    assert sorted(spec.schedule.batch_size(0) for spec in of("fig3").values()) == [13, 50, 200]


def test_figure_1_at_paper_scale_is_the_papers():
    specs = of("fig1").values()
    assert settings(specs) == {
        (eta, s) for eta in (0.005, 0.01, 0.02, 0.05, 0.1) for s in (25, 50, 100, 200, 500, 1000)
    }
    assert {(spec.epochs, spec.data.train, spec.momentum, spec.weight_decay) for spec in specs} == {(200, 50_000, 0, 0)}
    assert {(spec.network.hidden, spec.network.batch_norm) for spec in specs} == {((512,) * 4, True)}
    assert figure("fig1").experiment.scales["paper"].seeds == 5


def test_figure_9_at_paper_scale_is_the_papers_beside_figure_1s_network():
    specs = of("fig9")
    networks = [spec.network for label, spec in specs.items() if not label.startswith("Fig. 1")]
    assert {(n.hidden, n.batch_norm, n.init_std) for n in networks} == {((50,) * 20, False, i) for i in (None, 0.1)}
    assert len(networks) == 60
    assert set(of("fig1").values()) < set(specs.values())  # trained once


def test_figures_2_and_10_to_12_at_paper_scale_are_the_papers():
    for name in ("fig2", "fig10"):
        specs = of(name)
        arms = {name: (spec.schedule.lr(0), spec.schedule.batch_size(0)) for name, spec in specs.items()}
        assert arms["baseline"] == (0.1, 128)
        assert arms["large batch"] == (0.1, 1024)
        assert arms["small eta"] == (0.01, 128)
        assert arms.get("small eta, equal eta/S") == ((0.0125, 128) if name == "fig2" else None)
        assert {(s.network.depth, s.network.width, s.network.form, s.epochs) for s in specs.values()} == {
            (56, 1.0, "preactivation", 200)
        }
        plan = FigurePlan(figure(name), Options(scale="paper"), source("cifar10"), PAPERS)
        for path in (item.spec for item in plan.lines(plan.runs())):
            assert (len(path.alphas), path.alphas[0], path.alphas[-1], path.directions) == (61, -1, 2, 10)
    decayed = of("fig10")["baseline"].schedule.lr
    assert [round(decayed(t), 9) for t in (0, 99, 100, 149, 150)] == [0.1, 0.1, 0.01, 0.01, 0.001]


def test_figure_3_at_paper_scale_is_the_papers():
    specs = of("fig3")
    assert settings([specs["b = 1"], specs["b = 4"]]) == {(0.1, 50), (0.4, 200)}
    ratios = [spec.schedule.noise_ratio(0) for spec in specs.values()]
    assert ratios == pytest.approx([0.1 / 50] * 3, rel=1e-12)


def test_figures_6_and_7_at_paper_scale_are_the_papers():
    panels = figure("fig6").experiment.scales["paper"].panels
    assert [(p.train, p.lr, p.batch_size) for p in panels] == [
        (12_000, 0.1, 50), (22_500, 0.1, 50), (45_000, 0.1, 50), (45_000, 0.05, 50)
    ]  # fmt: skip
    assert set(panels[0].betas) == {2 ** (k / 2) for k in range(10)} | {1 / 5, 1 / 10, 1 / 25, 1 / 50}
    for label, spec in of("fig6").items():
        assert spec.schedule.noise_ratio(0) == pytest.approx(0.001 if "half the noise" in label else 0.002, rel=1e-12)
    assert {s.schedule.batch_size(0) for s in of("fig7").values()} == {128 * b for b in (1, 2, 3, 5, 7, 9, 11)}


def test_figure_8_at_paper_scale_has_twelve_ratios_by_two_pairs_each():
    ratios = [spec.schedule.noise_ratio(0) for spec in of("fig8").values()]
    assert (len(ratios), len({round(x, 12) for x in ratios})) == (24, 12)
    assert (min(ratios), max(ratios)) == (pytest.approx(1e-5), pytest.approx(2e-2))


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


def test_figures_4_and_13_at_paper_scale_are_the_papers():
    specs = of("fig4")
    assert {spec.data.train for spec in specs.values()} == {44_800}  # divisible by 128 and 640
    assert specs["cyclic S"].schedule.batch_size == Cyclic(high=640, low=128, period=10, phase=0.5)
    assert specs["cyclic S"].schedule.lr == Constant(0.005)
    assert specs["cyclic eta"].schedule.batch_size == Constant(128)
    assert {specs["cyclic eta"].schedule.lr(t) for t in (0, 5)} == {0.001, 0.005}
    assert settings([specs["constant, small S"]]) == {(0.001, 128)}
    assert settings([specs["constant, large S"]]) == {(0.005, 640)}
    control = specs["noise control"]
    assert (settings([control]), control.epochs) == ({(0.001, 640)}, 1500)
    assert {spec.epochs for label, spec in specs.items() if label in ("cyclic S", "constant, small S")} == {300}
    assert {spec.network.width for spec in specs.values()} == {1.0}


def test_figures_5_14_and_15_at_paper_scale_are_the_papers():
    specs = list(of("fig5").values())
    assert len(specs) == 90
    sizes = (50, 100, 200, 500, 1000)
    for fraction in (0.25, 0.5):
        chosen = [spec for spec in specs if spec.data.label_noise.fraction == fraction]
        plain, heavy = ([s for s in chosen if s.momentum == beta] for beta in (0.0, 0.9))
        assert settings(plain) == {(eta, s) for eta in (0.005, 0.01, 0.02, 0.05, 0.07, 0.1) for s in sizes}
        assert settings(heavy) == {(eta, s) for eta in (0.005, 0.01, 0.02) for s in sizes}
    assert {(s.epochs, s.data.train, s.network.hidden, s.network.batch_norm) for s in specs} == {
        (300, 50_000, (256, 256), False)
    }
    assert {s.data.label_noise.kind for s in specs} == {"uniform"}


def test_table_1_at_paper_scale_tunes_what_the_paper_tunes_and_shares_figure_16s_runs():
    specs, tuning = of("table1"), figure("table1").experiment.tuning
    assert len(specs) == 3 * 6 * 3 + 6
    highest = {round(max(spec.schedule.lr(t / 8) for t in range(121)), 9) for spec in specs.values()}
    assert (len(highest), min(highest), max(highest)) == (6, pytest.approx(1e-3), pytest.approx(5e-2))
    for label, spec in specs.items():
        noise = [spec.schedule.noise_ratio(t / 8) for t in range(121)]
        assert max(noise) / min(noise) == pytest.approx(1 if "constant" in label else 5), label
    assert figure("table1").experiment.scales["paper"].seeds == 10
    assert not set(tuning.seeds("paper")) & set(range(1000))
    assert {spec.epochs for spec in specs.values()} == {300}
    for scale in ("quick", "paper"):
        final = tuning.choose(scale, figure("table1").experiment.runs(scale, source("cifar10")), None)
        others = figure("fig16").experiment.runs(scale, source("cifar10"))
        assert [final[name] == others[name] for name in ("discrete S", "discrete eta", "triangle eta")] == [True] * 3


@pytest.mark.parametrize("data", ["fashionmnist", "cifar10"])
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_the_noise_dial_changes_the_noise_alone(data, scale):
    from three_factors.reproduce.experiments import noise_dial

    found = figure("noise_only").experiment.runs(scale, source(data))
    specs = {label: setting.spec for label, setting in found.items()}
    eta, s = next(iter(settings([specs[noise_dial.SGD]])))
    for label, spec in specs.items():
        size = spec.schedule.batch_size(0)
        assert settings([spec]) == {(eta, s if label == noise_dial.SGD else 4 * s)}
        assert spec.epochs * (spec.data.train // size) == specs[noise_dial.SGD].epochs * (spec.data.train // s)
        assert spec.data.train % size == 0  # no shorter batch, no example left out
        factor = spec.noise.factor if spec.noise is not None else 0.0
        covariance = (1 + factor**2) / size
        assert covariance == pytest.approx(1 / (4 * s) if label == noise_dial.QUIET else 1 / s)
        assert spec.network.ghost_batch_size == s
        assert spec.sampling == "replacement"  # else a batch's noise is not C/S over an epoch
        assert (spec.network, spec.data, spec.momentum, spec.weight_decay) == (
            specs[noise_dial.SGD].network, specs[noise_dial.SGD].data, 0, 0
        )  # fmt: skip
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
