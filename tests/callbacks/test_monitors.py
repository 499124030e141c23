"""Monitors: training is bit-equal with and without them; what they log is what the functions measure."""

import math
from functools import cache

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.callbacks.fits import Own, fit, fit_on_rank, monitor, trainer
from tests.ranks import as_torchrun, on_ranks
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor
from three_factors.callbacks.functional import HessianOperator, top_eigenvalues, trace
from three_factors.callbacks.series import Setting
from three_factors.datamodules import DigitsDataModule, PlannedBatchSampler
from three_factors.lightning_modules import MLP

OF_THE_BATCHES = {  # two ranks have other batches than one
    "hessian/batch_sharpness",
    "hessian/batch_sharpness_error",
    "interpolation/reference_loss_error",
    "interpolation/current_loss_error",
}
# A width is logged as it is or as at least so much, a noise scale and a stationarity where they are defined.
OF_NOT_EVERY_SUCCESS = ("interpolation/width", "gradient_noise/noise_scale", "gradient_noise/stationarity")
OF_NOT_EVERY_SUCCESS += ("gradient_noise/weight_drift",)
KINDS = ("hessian", "pyhessian", "noise", "interpolation")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@cache
def unwatched(project):
    """The weights of a training without a monitor."""
    return fit(project, [])[0]


@pytest.mark.parametrize("project", ["own", "mlp", pytest.param("vgg", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("hessian", "noise"))) for kind in KINDS]
)
def test_training_is_bit_equal_with_and_without_a_monitor(project, kind):
    watch = monitor(kind)
    weights, trainer = fit(project, [watch])
    assert equal(weights, unwatched(project))
    assert len(watch.history) == 2
    logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(watch.prefix)}
    last = {k: v for k, v in watch.history[-1].items() if k not in ("epoch", "step")}
    assert logged.keys() == last.keys()
    assert all(math.isnan(last[k]) or logged[k] == pytest.approx(last[k], rel=1e-5) for k in last)


class OwnGenerator(Own):
    """A loader that draws from a generator of its own."""

    def train_dataloader(self):
        if not hasattr(self, "drawing"):
            self.drawing = torch.Generator().manual_seed(1)
        return DataLoader(self.pairs, 16, shuffle=True, generator=self.drawing)


class OwnPlan(Own):
    """A loader that follows a plan; a second pass over an epoch would be warned of."""

    def train_dataloader(self):
        sampler = PlannedBatchSampler(len(self.pairs), 16, epoch=self.trainer.current_epoch)
        return DataLoader(self.pairs, batch_sampler=sampler)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:PlannedBatchSampler")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("project", [OwnGenerator, OwnPlan])
def test_a_loader_with_random_numbers_of_its_own_goes_on_as_without_a_monitor(project, kind):
    weights = []
    for callbacks in ([monitor(kind)], []):
        torch.manual_seed(3)
        module = project()
        fitted = trainer(callbacks, use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1)
        fitted.fit(module)
        weights.append({k: v.clone() for k, v in module.state_dict().items()})
    assert equal(*weights)


class Normalising(Own):
    """Scales its inputs when they reach the device, as many do."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return 3 * batch[0], batch[1]


@pytest.mark.parametrize(("project", "scale"), [(Own, 1), (Normalising, 3)])
def test_it_measures_on_the_data_that_the_network_sees(project, scale):
    watch = HessianMonitor(measures=("top_eigenvalue",), examples=160, batch_size=160)
    module = project()
    trainer([watch], epochs=1).fit(module)
    inputs, targets = module.pairs.tensors
    truth = top_eigenvalues(HessianOperator(module, F.cross_entropy, (scale * inputs, targets)))
    assert watch.history[0]["hessian/top_eigenvalue"] == pytest.approx(float(truth.values[0]), rel=1e-4)


@pytest.mark.parametrize("kind", ["hessian", "interpolation"])
def test_double_precision_reaches_the_measurement_with_ones_own_loader(kind):
    watch = monitor(kind)
    trainer([watch], epochs=1, precision="64-true").fit(Own())
    assert len(watch.history) == 1


@pytest.mark.parametrize("kind", ["hessian", "interpolation"])
def test_weights_that_are_not_finite_are_logged_as_nan_and_end_no_training(kind):
    watch = monitor(kind)

    class Diverging(Own):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                torch.nn.init.constant_(self.network[0].weight, math.nan)

    with pytest.warns(UserWarning, match="epoch 2: weights are not finite"):
        trainer([watch], epochs=2).fit(Diverging())
    first, second = watch.history
    assert first.keys() == second.keys()
    assert all(math.isnan(v) for k, v in second.items() if k.startswith(watch.prefix) and not k.endswith("seconds"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_that_fails_is_logged_under_every_name_that_one_which_does_not_has(kind):
    watches = [monitor(kind), monitor(kind)]
    for watch, weight in zip(watches, (0.1, math.nan)):
        module = Own()
        torch.nn.init.constant_(module.network[-1].weight, weight)
        trainer([watch], epochs=1).fit(module)
    found, failed = ({name for name in watch.history[0] if watch.logs(name)} for watch in watches)
    sometimes = {name for name in found ^ failed if name.startswith(OF_NOT_EVERY_SUCCESS)}
    assert found - sometimes == failed - sometimes
    assert all(math.isnan(v) for k, v in watches[1].history[0].items() if k in failed and not k.endswith("seconds"))


@pytest.mark.parametrize("kind", [HessianMonitor, InterpolationMonitor])
def test_a_training_that_is_stopped_early_by_a_value_goes_on_before_there_is_one(kind):
    watch, module = kind(examples=32), Own()
    name = {"hessian": "hessian/top_eigenvalue", "interpolation": "interpolation/width_0.1"}[watch.prefix]
    torch.nn.init.constant_(module.network[0].weight, math.nan)
    stop = EarlyStopping(name, check_finite=False, check_on_train_epoch_end=True)
    fitted = trainer([watch, stop], epochs=2)
    fitted.fit(module)
    assert fitted.current_epoch == 2


def test_a_monitor_used_again_measures_the_new_fits_data():
    watch = HessianMonitor(measures=("top_eigenvalue",), examples=160)
    for scale in (1, 2):
        module = Own()
        module.pairs = TensorDataset(scale * module.pairs.tensors[0], module.pairs.tensors[1])
        trainer([watch], epochs=1).fit(module)
    truth = top_eigenvalues(HessianOperator(module, F.cross_entropy, module.pairs.tensors))
    assert len(watch.history) == 1  # it begins anew
    assert watch.history[0]["hessian/top_eigenvalue"] == pytest.approx(float(truth.values[0]), rel=1e-3)


def test_what_is_logged_is_what_the_functions_measure_on_the_final_weights():
    torch.manual_seed(0)
    watch = HessianMonitor(measures=("top_eigenvalue", "trace"), examples=96, batch_size=48, trace_tol=0.5)
    _, trainer = fit("mlp", [watch])
    operator = HessianOperator(
        trainer.lightning_module, F.cross_entropy, trainer.datamodule.measurement_batches(96, 48)
    )
    top, total = top_eigenvalues(operator), trace(operator, tol=0.5)
    found = watch.history[-1]
    assert found["hessian/top_eigenvalue"] == pytest.approx(float(top.values[0]), rel=1e-5)
    assert found["hessian/trace"] == pytest.approx(total.value, rel=1e-5)
    assert found["hessian/trace_error"] == pytest.approx(total.error, rel=1e-5)
    assert found["hessian/lr_top_eigenvalue"] == pytest.approx(0.05 * found["hessian/top_eigenvalue"])
    assert found["hessian/products"] == max(top.products, 16) + len(total.samples)  # of one Lanczos run


@pytest.mark.parametrize("measure", ["top_eigenvalue", "trace", "frobenius"])
def test_a_measure_does_not_depend_on_what_else_is_measured(measure):
    torch.manual_seed(0)
    module = Own().double()
    inputs, targets = module.pairs.tensors
    together, alone = (
        HessianMonitor(measures=measures, k=2, seed=3).measure(module, (inputs.double(), targets))
        for measures in (("frobenius", "trace", "top_eigenvalue"), (measure,))
    )
    assert {k: together[k] for k in alone if k != "hessian/products"} == pytest.approx(
        {k: v for k, v in alone.items() if k != "hessian/products"}, rel=1e-9
    )
    assert together["hessian/products"] > alone["hessian/products"]


def test_it_measures_when_it_is_due_and_without_a_trainer():
    watch = HessianMonitor(every_n_epochs=2, measures=("trace",), examples=32, trace_tol=0.5)
    _, trainer = fit("mlp", [watch], epochs=5)
    assert [row["epoch"] for row in watch.history] == [2, 4]
    alone = watch.measure(trainer.lightning_module, trainer.datamodule.measurement_batches(32, 32))
    assert set(alone) == {"hessian/trace", "hessian/trace_error", "hessian/weight_norm", "hessian/products"}


def test_the_interpolation_runs_from_the_first_weights_to_the_last_and_survives_a_checkpoint(tmp_path):
    watch = InterpolationMonitor(alphas=[0, 1], examples=96)
    _, trainer = fit("mlp", [watch])
    profile, found = watch.profiles[-1], watch.history[-1]
    assert found["interpolation/current_loss"] < found["interpolation/reference_loss"]
    assert found["interpolation/distance"] == profile.distance > 0
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    again = InterpolationMonitor(alphas=[0, 1], examples=96)
    again.load_state_dict(watch.state_dict())
    assert all(torch.equal(v, again._initial[k]) for k, v in watch._initial.items())
    there = InterpolationMonitor(reference=tmp_path / "c.ckpt", alphas=[0, 1], examples=96)
    fit("mlp", [there])
    assert there.profiles[-1].distance == pytest.approx(0, abs=1e-6)


def test_stationarity_is_followed_per_parameter_group_and_restarts_when_the_rate_changes():
    watch = GradientNoiseMonitor(batches=6)
    fit("own", [watch], epochs=3)
    (series,) = watch._followed.groups
    assert len(series.rows) == 30  # three epochs of ten steps at one rate and one batch size
    assert watch.states[-1][0].verdict in ("too short", "not stationary", "stationary")
    series.before([(torch.ones(2), torch.ones(2))], Setting(0.01, 0.9))
    assert len(series.rows) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HessianMonitor(every_n_epochs=0), "every_n_epochs: 0"),
        (lambda: GradientNoiseMonitor(every_n_epochs=True), "every_n_epochs: True is not a positive whole number"),
        (lambda: HessianMonitor(measures=("norm",)), "measures: 'norm'"),
        (lambda: HessianMonitor(backend="scipy"), "backend: 'scipy'"),
        (lambda: HessianMonitor(k=0), "k: 0"),
        (lambda: GradientNoiseMonitor(batches=3), "batches: 3 are too few"),
        (lambda: InterpolationMonitor(reference="nowhere.ckpt"), "reference: 'nowhere.ckpt'"),
        (lambda: InterpolationMonitor(alphas=[0, 0.5]), "alphas: a = 0 and a = 1"),
        (lambda: InterpolationMonitor(rises=(0,)), "rises: "),
        (
            lambda: InterpolationMonitor(batch_norm="reestimate"),
            "batch_norm: 'reestimate' is none of 're-estimate', 'int",
        ),
        (lambda: InterpolationMonitor(alphas=[0, 1, math.nan]), "alphas: .* holds a number that is not finite"),
        (lambda: HessianMonitor(name="h/"), "name: 'h/' ends in the '/'"),
        (lambda: HessianMonitor(examples=1e3), "examples: 1000.0 is not a positive whole number"),
        (lambda: InterpolationMonitor(batch_size=16.0), "batch_size: 16.0 is not a positive whole number"),
        (lambda: HessianMonitor(k=2.0), "k: 2.0 is not a positive whole number"),
        (lambda: HessianMonitor(max_vectors=64.0), "max_vectors: 64.0 is not a positive whole number"),
        (lambda: HessianMonitor(max_products=-5), "max_products: -5 is not a positive whole number"),
        (lambda: HessianMonitor(max_products=0), "max_products: 0 is not a positive whole number"),
        (lambda: HessianMonitor(tol=math.nan), "tol: nan is not a positive number"),
        (lambda: HessianMonitor(trace_tol=-1), "trace_tol: -1 is not a positive number"),
        (lambda: HessianMonitor(norm_tol=math.inf), "norm_tol: inf is not a positive number"),
        (lambda: HessianMonitor(dtype=torch.bfloat16), "dtype: torch.bfloat16 is none of"),
        (lambda: GradientNoiseMonitor(batches=24.0), "batches: 24.0 is not a positive whole number"),
        (lambda: GradientNoiseMonitor(max_bytes="1e9"), "max_bytes: '1e9' is not a positive whole number"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_number_of_epochs_may_be_numpys():
    watch = HessianMonitor(every_n_epochs=np.int64(2), measures=("top_eigenvalue",), examples=32)
    trainer([watch], epochs=2).fit(Own())
    assert [row["epoch"] for row in watch.history] == [2]


def fit_in_batches(examples, options, ours, callbacks=(), ranks=1):
    """A training set of so many examples, of our data module or of an ordinary loader, of which a part is measured."""
    watch = HessianMonitor(**{"measures": ("batch_sharpness",), "on_error": "raise"} | options)
    run = trainer([watch, *callbacks], ranks, epochs=1, use_distributed_sampler=not ours)
    torch.manual_seed(3)
    if ours:
        data = DigitsDataModule(gray=True, train=examples, batch_size=20, watch=["val"])
        run.fit(MLP(hidden=(8,), batch_norm=True, lr=0.05), data)
    else:
        module = Own()
        module.pairs = TensorDataset(*(torch.cat([t, t])[:examples] for t in module.pairs.tensors))
        run.fit(module)
    return watch


class Begun(pl.Callback):
    """Notes whether a batch was trained on."""

    trained = False

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        self.trained = True


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        (
            100,
            {"examples": 36, "batch_size": 16},
            "examples: 36 in batches of 16: .*2 of like sizes among 3 are too few",
        ),
        (150, {"examples": 1000, "batch_size": 100}, "examples: 150 in batches of 100: .*2 are too few"),
        (100, {"training": True, "examples": 61, "batch_size": 20}, "examples: 61 in .* leave one of a single example"),
        (301, {"training": True, "examples": 1000, "batch_size": 100}, "examples: 301 in .* leave one of a single"),
    ],
)
def test_a_subset_that_cannot_be_measured_in_its_batches_is_refused_before_the_first_step(
    examples, options, message, ours
):
    begun = Begun()
    with pytest.raises(ValueError, match=message):
        fit_in_batches(examples, options, ours, [begun])
    assert not begun.trained


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    ("examples", "options"),
    [
        (300, {"training": True, "examples": 401, "batch_size": 100}),
        (300, {"examples": 100, "batch_size": 40}),  # 40, 40, 20
        (100, {"examples": 1000, "batch_size": 40}),
    ],
)
def test_a_subset_that_can_be_is_measured(examples, options, ours):
    watch = fit_in_batches(examples, options, ours)
    assert math.isfinite(watch.history[0][f"{watch.prefix}/batch_sharpness"])


class Views(Own):
    """Two views of each of 75 examples in a batch."""

    def train_dataloader(self):
        def twice(pairs):
            return tuple(torch.stack([*part, *part]) for part in zip(*pairs))

        return DataLoader(TensorDataset(*(t[:75] for t in self.pairs.tensors)), 16, collate_fn=twice)


def test_a_subset_with_several_views_of_an_example_is_measured():
    watch = HessianMonitor(measures=("batch_sharpness",), batch_size=50, on_error="raise")
    trainer([watch], epochs=1).fit(Views())
    assert math.isfinite(watch.history[0]["hessian/batch_sharpness"])  # 50, 50, 50 and not 50, 25


def fit_a_part_on_rank(rank, world_size, examples):
    as_torchrun(rank, world_size)
    return fit_in_batches(examples, {"examples": 1000, "batch_size": 50}, True, ranks=world_size).history


@pytest.mark.ddp
def test_batches_of_all_ranks_count_where_it_is_decided_whether_a_subset_can_be_measured():
    found = on_ranks(2, fit_a_part_on_rank, 149)  # 50 and 25, 50 and 24: alone the second would have two
    assert [math.isfinite(history[0]["hessian/batch_sharpness"]) for history in found] == [True, True]


def test_a_module_without_a_loss_is_told_so():
    with pytest.raises(ValueError, match="loss: Linear has no loss"):
        HessianMonitor().measure(torch.nn.Linear(2, 2), [(torch.ones(2, 2), torch.zeros(2).long())])


@pytest.mark.ddp
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_measure_what_one_does_and_train_on_bit_equal(kind):
    watch = monitor(kind)
    fit("mlp", [watch], precision="64-true")
    with_monitor = on_ranks(2, fit_on_rank, "mlp", kind, "64-true")
    without = on_ranks(2, fit_on_rank, "mlp", None, "64-true")
    for rank in range(2):
        assert equal(with_monitor[rank][0], without[rank][0])
        for one, two in zip(watch.history, with_monitor[rank][1]):
            assert one.keys() == two.keys()
            for name in one.keys() - {f"{watch.prefix}/seconds", *OF_THE_BATCHES}:
                # the weights of one rank and two agree to rounding, and with them what is measured on them
                assert two[name] == pytest.approx(one[name], rel=1e-6, abs=1e-9, nan_ok=True), name
