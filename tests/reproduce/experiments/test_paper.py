"""What is run at paper and gpu scale, held against the numbers of the specification; nothing is trained."""

from dataclasses import replace

import pytest

from tests.reproduce.figures import SCRIPTS, figure, pair, plan, rounded, specs
from three_factors.datamodules.schedules import Constant, Cyclic, Steps, Triangle, as_schedule
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.steps import planned
from three_factors.reproduce.engine.regime import t_eta

VGG, RESNET, ARPIT = VGG11Network(), ResNet56Network(), MLPNetwork(hidden=(256, 256))
SHALLOW, DEEP = MLPNetwork(hidden=(512,) * 4, batch_norm=True), MLPNetwork(hidden=(50,) * 20)
GRID = {(eta, s) for eta in (0.005, 0.01, 0.02, 0.05, 0.1) for s in (25, 50, 100, 200, 500, 1000)}
LINES = {(0.1, 128), (0.1, 1024), (0.01, 128), (0.0125, 128), (0.0125, 512)}
NOISE_LABELS = {(eta, s, 0.0) for eta in (0.005, 0.01, 0.02, 0.05, 0.07, 0.1) for s in (50, 100, 200, 500, 1000)} | {
    (eta, s, 0.9) for eta in (0.005, 0.01, 0.02) for s in (50, 100, 200, 500, 1000)
}
BETAS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24)
# figure -> networks, N, epochs of the runs that are not stretched, seeds: at paper scale
PAPER = {
    "fig1": ([SHALLOW], {50_000}, 200, 5),
    "fig2": ([RESNET], {44_032}, 200, 5),
    "fig3": ([VGG], {44_200}, 200, 5),
    "fig4": ([VGG], {44_800}, 300, 5),
    "fig5": ([ARPIT], {50_000}, 300, 5),
    "fig6": ([VGG], {12_000, 21_600, 43_200}, 200, 5),
    "fig7": ([RESNET], {43_008}, 200, 5),
    "fig8": ([RESNET], {44_800}, 200, 5),
    "fig9": ([DEEP, replace(DEEP, init="glorot"), SHALLOW], {50_000}, 200, 5),
    "fig16": ([VGG], {44_800}, 300, 5),
    "table1": ([VGG], {44_800}, 300, 10),
    "noise_only": ([SHALLOW, replace(SHALLOW, batch_norm=False)], {50_000}, 200, 5),
    "when": ([VGG], {44_800}, 390, 5),  # of which the last 90 are the quench
}
SAME = {"fig10": "fig2", "fig11": "fig2", "fig12": "fig2", "fig13": "fig4", "fig14": "fig5", "fig15": "fig5"}


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in ("fingerprint", "rivals")])
def test_networks_data_epochs_and_seeds_are_the_papers(name):
    networks, sizes, epochs, seeds = PAPER[SAME.get(name, name)]
    runs = specs(name, "paper", **({"part": "dial"} if name == "noise_only" else {})).values()
    bare = {replace(spec.network, ghost_batch_size=None) for spec in runs}
    assert bare == set(networks)
    assert {spec.data.train for spec in runs} == sizes
    assert min(spec.epochs for spec in runs) == epochs
    assert plan(name, "paper").seeds == seeds
    kind = type(networks[0])
    assert {spec.data.augment for spec in runs} == {kind is not MLPNetwork}
    plain = {(spec.weight_decay, spec.stop_at_loss, spec.precision) for spec in runs}
    assert plain == {(0.0, None, "tf32")}
    if name != "noise_only":
        assert {(spec.sampling, spec.noise) for spec in runs} == {("shuffle", None)}
        assert {spec.momentum for spec in runs} == ({0.0, 0.9} if networks == [ARPIT] else {0.0})
    validation = 10_000 if kind is MLPNetwork else 5_000
    assert {(spec.data.validation, spec.data.test) for spec in runs} == {(validation, 10_000)}


@pytest.mark.parametrize("scale", ["gpu", "paper"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_constant_batch_size_divides_n(name, scale):
    ragged = {}
    for label, spec in specs(name, scale).items():
        size = as_schedule(spec.schedule.batch_size)
        if isinstance(size, Constant) and spec.data.train % size.value:
            ragged[label] = spec.data.train % size.value
    assert ragged == {}


@pytest.mark.parametrize("name", ["fig1", "fig9"])
def test_the_grid_of_figures_1_and_9(name):
    assert {spec.key for spec in specs("fig1", "paper").values()} <= {s.key for s in specs(name, "paper").values()}
    for network in {spec.network for spec in specs(name, "paper").values()}:
        found = [pair(spec) for spec in specs(name, "paper").values() if spec.network == network]
        assert (len(found), set(found)) == (30, GRID)


@pytest.mark.parametrize("name", ["fig2", "fig10", "fig11", "fig12"])
def test_the_runs_of_the_interpolation_figures(name):
    runs = specs(name, "paper")
    assert {pair(spec) for spec in runs.values()} == LINES
    (quiet,) = (spec for spec in runs.values() if pair(spec) == (0.0125, 512))
    assert quiet.epochs == 800
    control = next(spec for spec in runs.values() if pair(spec) == (0.0125, 128))
    assert t_eta(quiet) == pytest.approx(t_eta(control))
    assert len(planned(quiet, 4).lr) == len(planned(control, 1).lr)
    decays = isinstance(as_schedule(control.schedule.lr), Steps)
    assert decays == (name != "fig2")
    if decays:
        half = control.epochs // 2
        rates = [as_schedule(control.schedule.lr)(t) for t in (0, half - 0.01, half, 3 * half / 2, control.epochs - 1)]
        assert rates == pytest.approx([0.0125, 0.0125, 0.00125, 0.000125, 0.000125])


def test_a_line_to_another_initialisation_keeps_the_split_of_the_data():
    items = {(item.label, item.seed): item.spec for item in plan("fig2", "paper").runs()}
    for seed in range(100, 105):
        own, other = items["baseline", seed], items["baseline, other initialisation", seed]
        assert (own.seed, other.seed) == (seed, seed + 1)
        assert own.data == other.data
        assert own.data.split_seed == seed
    lines = plan("fig2", "paper").lines(plan("fig2", "paper").runs())
    assert len({line.label for line in lines}) == 6
    assert all(len(line.spec.alphas) == 61 and line.spec.directions == 10 for line in lines)


def test_figure_3():
    runs = specs("fig3", "paper")
    assert {pair(spec)[1] for spec in runs.values()} == {13, 50, 200}
    assert sorted(spec.epochs for spec in runs.values()) == [200, 200, 200, 800]
    ratios = sorted(spec.schedule.noise_ratio(0.0) for spec in runs.values())
    assert ratios == pytest.approx([0.0005, 0.002, 0.002, 0.002])


def test_figures_4_and_13():
    runs = specs("fig4", "paper")
    assert [spec.key for spec in runs.values()] == [spec.key for spec in specs("fig13", "paper").values()]
    cyclic = runs["cyclic S"].schedule
    assert as_schedule(cyclic.lr) == Constant(0.005)
    assert as_schedule(cyclic.batch_size) == Cyclic(high=640, low=128, period=10, phase=0.5)
    eta = runs["cyclic eta"].schedule
    found = {(round(eta.setting(t, 128).lr, 9), round(as_schedule(eta.batch_size)(t))) for t in (1.0, 6.0)}
    assert found == {(0.005, 128), (0.001, 128)}
    assert pair(runs["constant, small S"]) == (0.001, 128)
    assert pair(runs["constant, large S"]) == (0.005, 640)
    assert (pair(runs["noise control"]), runs["noise control"].epochs) == ((0.001, 640), 1_500)
    assert pair(runs["mean noise"]) == (0.003, 128)
    root = runs["root rule, equal epochs"]
    assert pair(root) == (pytest.approx(0.001 * 5**0.5), 640)
    equal = runs["root rule, equal t_eta"]
    assert t_eta(equal) == pytest.approx(t_eta(runs["constant, small S"]), rel=0.01)


@pytest.mark.parametrize("name", ["fig5", "fig14", "fig15"])
def test_the_grid_of_label_noise(name):
    runs = specs(name, "paper").values()
    assert len(runs) == 90
    assert {spec.data.label_noise.kind for spec in runs} == {"uniform"}
    for fraction in (0.25, 0.5):
        cells = [(*pair(s), s.momentum) for s in runs if s.data.label_noise.fraction == fraction]
        assert (len(cells), set(cells)) == (45, NOISE_LABELS)


def test_figure_6():
    items = plan("fig6", "paper").runs()
    panels = {item.factors["panel"] for item in items}
    assert panels == {"a", "b", "c", "d", "a_time", "d_time"}
    wanted = {"a": (12_000, 0.1, 200), "b": (21_600, 0.1, 200), "c": (43_200, 0.1, 200), "d": (43_200, 0.05, 200)}
    wanted |= {"a_time": (12_000, 0.1, 720), "d_time": (43_200, 0.05, 400)}
    for panel, (n, eta, epochs) in wanted.items():
        own = [item.spec for item in items if item.factors["panel"] == panel and item.seed == 100]
        assert rounded(own) == sorted((round(eta * b, 9), 50 * b) for b in BETAS)
        assert {(spec.data.train, spec.epochs) for spec in own} == {(n, epochs)}
    times = {p: t_eta(next(i.spec for i in items if i.factors["panel"] == p)) for p in ("a_time", "c", "d_time")}
    assert times["a_time"] == pytest.approx(times["c"])
    assert times["d_time"] == pytest.approx(times["c"])


def test_figures_7_and_8():
    wanted = [(round(0.1 * b, 9), 128 * b) for b in (1, 2, 3, 4, 6, 8, 12)]
    assert rounded(specs("fig7", "paper").values()) == wanted
    cells = {pair(spec) for spec in specs("fig8", "paper").values()}
    assert {size for _, size in cells} == {32, 256}
    ratios = sorted({round(eta / size, 12) for eta, size in cells})
    assert (len(ratios), ratios[0], ratios[-1]) == (8, pytest.approx(1e-5), pytest.approx(2e-2))


def test_figure_16():
    runs = specs("fig16", "paper")
    assert {spec.watch.curvature.examples for spec in runs.values()} == {500}
    assert as_schedule(runs["discrete S"].schedule.batch_size) == Cyclic(high=640, low=128, period=15, phase=0.5)
    assert as_schedule(runs["triangle eta"].schedule.lr) == Triangle(high=0.005, low=0.001, period=15)
    assert pair(runs["constant, low eta"]) == (0.001, 128)
    assert pair(runs["constant, high eta"]) == (0.005, 128)


def test_table_1_is_tuned_at_gpu_scale_on_three_seeds_of_its_own():
    tuned, final, _ = plan("table1", "paper").foreseen()
    assert {item.spec.epochs for item in tuned.items} == {30}
    assert {item.spec.epochs for item in final.items if "quenched" not in item.label} == {300}
    assert {item.spec.epochs for item in final.items if "quenched" in item.label} == {390}  # 15 % more t_eta
    assert len({item.seed for item in tuned.items}) == 3
    assert not {item.seed for item in tuned.items} & {item.seed for item in final.items}
    assert len({item.label for item in tuned.items}) == 6 * 3 * 3 + 6
    assert [item.spec.key for item in tuned.items] == [i.spec.key for i in plan("table1", "gpu").foreseen()[0].items]


MLPS = ("fig1", "fig5", "fig9", "fig14", "fig15", "rivals")


@pytest.mark.parametrize("name", MLPS)
def test_for_networks_of_dense_layers_gpu_scale_is_paper_scale(name):
    gpu, paper = (plan(name, scale).runs() for scale in ("gpu", "paper"))
    assert [item.spec.key for item in gpu] == [item.spec.key for item in paper]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in (*MLPS, "noise_only", "when")])
def test_gpu_scale_takes_less_only_of_epochs_seeds_and_cells(name):
    gpu, paper, regime = specs(name, "gpu"), specs(name, "paper"), plan(name, "gpu").regime()
    assert gpu.keys() <= paper.keys()
    fewest = {"fig8": 2, "fingerprint": 1}.get(name, 3)
    assert fewest <= plan(name, "gpu").seeds <= plan(name, "paper").seeds
    for label, spec in gpu.items():
        own = paper[label]
        assert (spec.network, spec.data, spec.momentum, spec.sampling) == (
            own.network,
            own.data,
            own.momentum,
            own.sampling,
        )
        assert pair(spec) == pair(own)
        assert t_eta(spec) >= 0.0999 * t_eta(own)
    assert regime.time >= 0.0999
    assert regime.noise == pytest.approx(1)
    assert figure(name).reductions("gpu")


@pytest.mark.parametrize("data", ["fashionmnist", "cifar10"])
def test_noise_only_at_gpu_scale(data):
    gpu, paper = specs("noise_only", "gpu", data), specs("noise_only", "paper", data)
    for label, spec in gpu.items():
        assert bare(spec) == bare(paper[label])


def bare(spec):
    return replace(spec, epochs=1, evaluate_every=1, keep=None, evaluations=None)


@pytest.mark.parametrize("network", ["mlp", "mlp_bn"])
def test_the_three_exponents(network):
    runs = specs("noise_only", "paper", network=network, part="exponents").values()
    cells = {(*pair(spec), round(1 + spec.noise.factor**2) if spec.noise else 1) for spec in runs}
    assert len(runs) == 18
    assert cells == {(eta, s, c) for eta in (0.025, 0.1) for s in (50, 200, 400) for c in (1, 4, 16)}
    assert {round(t_eta(spec)) for spec in runs} == {4_000}
    assert {spec.sampling for spec in runs} == {"replacement"}
    assert {spec.network.ghost_batch_size for spec in runs} == {25 if network == "mlp_bn" else None}


def test_the_shapes_of_noise():
    runs = specs("noise_only", "paper", network="mlp", part="dial")
    assert len(runs) == 8
    renewals = [spec.noise.renewal for spec in runs.values() if spec.noise and spec.noise.renewal]
    found = {(r.examples, r.batch_size, r.until, r.every, r.eigenvectors) for r in renewals}
    assert (len(renewals), found) == (3, {(2_000, 100, 10, 10, 10)})
    assert {getattr(spec.noise, "part", None) for spec in runs.values()} == {None, "all", "top", "rest"}


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["gpu", "paper"])
def test_when_switches_at_equal_steps_and_equal_eta(scale):
    runs = specs("when", scale)
    epochs = 30 if scale == "gpu" else 300
    steps = {label: planned(spec) for label, spec in runs.items()}
    wanted = epochs * 44_800 // 128
    for label, spec in runs.items():
        hot = int((steps[label].lr == 0.001).sum())
        assert hot == pytest.approx(wanted, rel=0.01), label
        assert len(steps[label].lr) == pytest.approx(1.3 * wanted, rel=0.02)  # the quench: 15 % of t_eta
        assert spec.network.ghost_batch_size == 128
        sizes = steps[label].batch_size[:wanted]
        share = (sizes == sizes[0]).mean()
        expected = next((float(n) / 100 for n in (15, 85) if f"{n} %" in label), 1.0)
        assert share == pytest.approx(expected, abs=0.005)
        assert set(steps[label].batch_size) <= {128, 640}
    assert len(runs) == 6


def test_the_fingerprint_has_every_form_on_both_schedules():
    runs = specs("fingerprint", "paper")
    forms = {(spec.network.dropout, spec.network.dense_batch_norm, spec.data.augment) for spec in runs.values()}
    assert forms == {(p, dense, augment) for p in (0.0, 0.5) for dense in (False, True) for augment in (False, True)}
    assert len(runs) == 16
    assert {pair(spec) for spec in runs.values()} == {(0.001, 128), (0.005, 128)}
    assert {spec.epochs for spec in runs.values()} == {300}
    assert plan("fingerprint", "paper").seeds == 1
    plain = {spec.key for label, spec in runs.items() if label.startswith("crop and flip")}
    own = specs("fig16", "paper")
    same = {
        replace(own[name], watch=None, keep=None, evaluate_every=1, evaluations=None).key
        for name in ("discrete S", "constant, low eta")
    }
    assert plain == same
