"""What monitors say of the steps is of those that were made: their learning rates, examples and gradients."""

import contextlib
import math

import pytest
import torch
from pytorch_lightning.callbacks import Callback, StochasticWeightAveraging
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.strangers.monitors import hessian, noise
from tests.strangers.projects import Project, data, network, trainer

LR, BATCHES, SIZE = 0.05, 6, 8


class Small(Project):
    """48 examples in six batches of eight."""

    def __init__(self, net=None):
        super().__init__(net, examples=BATCHES * SIZE, batch_size=SIZE)


class Decayed(Small):
    """Plain SGD whose learning rate is LR / (1 + number), of the epoch or of the step."""

    def __init__(self, interval):
        super().__init__()
        self.interval = interval

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 1 / (1 + number))
        return [optimizer], [{"scheduler": schedule, "interval": self.interval}]


class ByHand(Small):
    """Steps itself, at every second batch: after its gradient has been added, or `before` that of the next comes."""

    def __init__(self, before=False):
        super().__init__()
        self.before, self.automatic_optimization = before, False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if self.before and batch_idx % 2 == 0:  # without gradients, at first, it does nothing
            optimizer.step()
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if not self.before and batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class Scaled(MixedPrecision):
    """A gradient scaler on a CPU, in full precision."""

    def __init__(self, scale):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    def forward_context(self):
        return contextlib.nullcontext()


def ratios(watch):
    """Returns the n = eta/S that the logged temperatures were made with; None where there is none."""
    q = 53
    rows = [(row.get("gradient_noise/temperature"), row["gradient_noise/trace"]) for row in watch.history]
    return [None if t is None else pytest.approx(2 * q * t / trace, rel=1e-9) for t, trace in rows]


def rates(watch):
    """Returns the eta of the logged eta λ; None where there is none."""
    rows = [(row.get("hessian/lr_top_eigenvalue"), row["hessian/top_eigenvalue"]) for row in watch.history]
    return [None if of is None else pytest.approx(of / top, rel=1e-9) for of, top in rows]


@pytest.mark.parametrize(
    ("interval", "in_mean", "last"),
    [
        ("epoch", [LR, LR / 2], [LR, LR / 2]),
        # of the five batches measured on, and of the sixth
        ("step", [sum(LR / (1 + i) for i in range(k, k + 5)) / 5 for k in (0, 6)], [LR / 6, LR / 12]),
    ],
)
def test_the_learning_rates_are_those_of_the_steps_and_not_of_the_next(interval, in_mean, last):
    sgd, curvature = noise(batches=5), hessian()
    trainer(sgd, curvature, epochs=2, precision="64-true").fit(Decayed(interval))
    assert [rate / SIZE for rate in in_mean] == ratios(sgd)
    assert last == rates(curvature)


@pytest.mark.parametrize("step", [2, 5])
def test_they_are_when_a_checkpoint_is_resumed_within_the_epoch(step, tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, run, *rest):
            if run.global_step == step:
                run.save_checkpoint(tmp_path / "a.ckpt")

    watches = [(noise(batches=5), hessian()) for _ in range(2)]
    trainer(*watches[0], Saves(), precision="64-true").fit(Decayed("step"))
    trainer(*watches[1], precision="64-true").fit(Decayed("step"), ckpt_path=tmp_path / "a.ckpt")
    found = [ratios(sgd) + rates(curvature) for sgd, curvature in watches]
    assert [one.expected for one in found[0]] == found[1]


@pytest.mark.parametrize(
    ("project", "options"),
    [
        (Small, {"accumulate_grad_batches": 2}),
        (ByHand, {}),
        (lambda: ByHand(before=True), {}),
    ],
)
def test_batches_that_are_accumulated_count_in_n_whoever_adds_them_up(project, options):
    watch = noise()
    trainer(watch, epochs=2, precision="64-true", **options).fit(project())
    assert ratios(watch) == [LR / (2 * SIZE)] * 2


def test_of_a_sum_the_trainer_accumulates_the_mean():
    class Sum(Small):
        def loss(self, output, target):
            return F.cross_entropy(output, target, reduction="sum")

    watch = noise(reduction="sum")
    trainer(watch, precision="64-true", accumulate_grad_batches=2).fit(Sum())
    assert ratios(watch) == [LR / 2]


class Optimized(Small):
    """Trained by the optimizer that `make` gives for its parameters."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def configure_optimizers(self):
        return self.make(self.parameters())


@pytest.mark.parametrize(
    ("options", "rate"),
    [({"momentum": 0.9}, 10 * LR), ({"momentum": 0.9, "dampening": 0.9}, LR), ({"dampening": 0.9}, LR)],
)
def test_momentum_makes_the_noise_ratio_larger(options, rate):
    watch = noise()
    trainer(watch, epochs=2, precision="64-true").fit(Optimized(lambda p: torch.optim.SGD(p, LR, **options)))
    assert ratios(watch) == [rate / SIZE] * 2


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.Adam(p, LR), lambda p: torch.optim.SGD(p, LR, momentum=0.9, nesterov=True)]
)
def test_what_is_not_sgd_or_has_nesterovs_momentum_has_no_temperature(make):
    watch = noise()
    trainer(watch, precision="64-true").fit(Optimized(make))
    assert ratios(watch) == [None]


def test_where_nothing_is_trained_there_is_no_temperature():
    """Averaging runs through the data once more after the training, for batch norm."""
    module = Small(network(lambda: nn.Linear(6, 5), lambda: nn.BatchNorm1d(5), lambda: nn.Linear(5, 3)))
    watch, averaging = noise(), StochasticWeightAveraging(swa_lrs=LR, swa_epoch_start=1)
    trainer(averaging, watch, epochs=2, precision="64-true").fit(module)
    assert ["gradient_noise/temperature" in row for row in watch.history] == [True, True, False]


# -- stationarity


class Before(Small):
    """Does something with the gradients right before the step."""

    def __init__(self, does):
        super().__init__()
        self.does = does

    def on_before_optimizer_step(self, optimizer):
        self.does(list(self.parameters()))


def clips(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, 0.01)


def clamps(parameters):
    for parameter in parameters:
        parameter.grad.data.clamp_(-1e-3, 1e-3)


def looks(parameters):
    assert all(math.isfinite(float(parameter.grad.norm())) for parameter in parameters)


@pytest.mark.parametrize("does", [clips, clamps])
def test_gradients_that_are_changed_right_before_the_step_are_not_judged(does):
    watch = noise(stationarity=True)
    with pytest.warns(UserWarning, match="clipped, or changed otherwise, right before the step"):
        trainer(watch, epochs=2, precision="64-true").fit(Before(does))
    assert [state.verdict for states in watch.states for state in states] == ["clipped", "clipped"]
    assert not any("stationarity" in name for row in watch.history for name in row)


def test_gradients_that_are_looked_at_are_followed_as_ever():
    watches = [noise(stationarity=True), noise(stationarity=True)]
    for watch, does in zip(watches, (looks, lambda parameters: None)):
        trainer(watch, epochs=2, precision="64-true").fit(Before(does))
    assert torch.equal(*(watch._followed.groups[0].rows for watch in watches))
    assert len(watches[0]._followed.groups[0].rows) == 2 * BATCHES


def test_a_step_that_a_gradient_scaler_refuses_is_none():
    class Steep(Small):
        def loss(self, output, target):
            return 8 * super().loss(output, target)

    watch, module = noise(stationarity=True), Steep()
    module.pairs = TensorDataset(*(tensor.float() if tensor.is_floating_point() else tensor for tensor in data(48)))
    trainer(watch, epochs=3, plugins=[Scaled(2.0**127)]).fit(module.float())
    rows = watch._followed.groups[0].rows
    assert 0 < len(rows) < 3 * BATCHES
    assert bool(rows.isfinite().all())
    assert math.isfinite(watch.states[-1][0].value)


# -- batches that are none


def test_a_batch_that_the_loader_leaves_out_is_passed_over():
    class Skips(Small):
        def train_dataloader(self):
            loader = super().train_dataloader()
            usual, drawn = loader.collate_fn, iter(range(BATCHES))
            loader.collate_fn = lambda examples: None if next(drawn) == 2 else usual(examples)
            return loader

    watch, module = noise(stationarity=True), Skips()
    run = trainer(watch, precision="64-true")
    run.fit(module)
    assert (run.global_step, module.steps, len(watch._followed.groups[0].rows)) == (5, 5, 5)
    assert ratios(watch) == [LR / SIZE]
