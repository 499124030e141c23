"""What follows the steps of SGD for its stationarity: what it goes by, when a series begins anew, what it refuses."""

import io
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.callbacks.fits import trainer
from tests.callbacks.noisy import Plain, Rows, fitted
from tests.ranks import as_torchrun, on_ranks
from three_factors.callbacks import GradientNoiseMonitor
from three_factors.callbacks.followed import Followed
from three_factors.callbacks.series import Series, Setting
from three_factors.datamodules import DigitsDataModule
from three_factors.lightning_modules import MLP


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.0}])
def test_where_they_are_not_it_is_followed(options):
    watch = GradientNoiseMonitor(batches=5)
    fitted(Rows(), watch, epochs=1, **options)
    assert watch.states[0][0].verdict != "clipped"
    assert len(watch._followed.groups[0].rows) == 10


def test_the_optimizers_state_stays_as_it_is():
    found = fitted(Rows(), GradientNoiseMonitor(batches=5), epochs=1)
    assert found.optimizers[0].state_dict()["state"] == {}


def steps(series, sizes, lr=0.1, start=0):
    for i, (size, last) in enumerate(sizes, start):
        weights = torch.full((2,), float(i), dtype=torch.float64)
        gradient = torch.ones(2, dtype=torch.float64)
        series.before([(weights, gradient)], Setting(lr))
        series.stepped([gradient], Setting(lr))
        series.after([], size, last)


def test_what_counts_as_a_change_of_s_is_decided_over_all_ranks():
    """S = 20, 20, 20, 17 over two ranks: one has 10, 10, 10, 9 of it, the other 10, 10, 10, 8."""
    ends = [False, False, False, True] * 2 + [False]
    ranks = [Series(), Series()]
    steps(ranks[0], zip([10, 10, 10, 9] * 2 + [10], ends))
    steps(ranks[1], zip([10, 10, 10, 8] * 2 + [10], ends))
    whole = [sum(part[0] for part in parts) for parts in zip(*(series.recent for series in ranks))]
    for series in ranks:
        series.settle(whole)
        assert series.rows[:, 2].sqrt().div(math.sqrt(2)).round().tolist() == [0, 1, 2, 4, 5, 6, 8]
        assert (series.size, series.recent) == (20, [])
        steps(series, [(20, False), (10, False), (10, True)], start=9)
        series.settle([40, 40, 40])  # the schedule has changed S
        assert series.rows[:, 2].sqrt().div(math.sqrt(2)).round().tolist() == [9, 10, 11]


def test_another_rate_starts_the_series_anew():
    series = Series()
    steps(series, [(16, False)] * 3)
    series.settle([16] * 3)
    steps(series, [(16, False)] * 2, lr=0.2)
    assert (len(series.rows), len(series.recent), series.size) == (2, 2, 0)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128],
)
def test_products_of_weights_and_gradients_are_those_of_float64_in_every_type(dtype):
    generator = torch.Generator().manual_seed(0)
    weights, gradient, buffer = (torch.randn(50, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    given = [scale * t for scale, t in zip((1, 1e-4, 300), (weights, gradient, buffer))]
    given = [(torch.view_as_complex(t) if dtype.is_complex else t).to(dtype) for t in given]
    p, g, v = ((torch.view_as_real(t) if dtype.is_complex else t).double() for t in given)
    series = Series()
    series.before([(given[0], given[1])], Setting(0.1, 0.9, 0.01))
    series.stepped([given[1]], Setting(0.1, 0.9, 0.01))
    series.after([given[2]], 16, False)
    square, power, product = (p * p).sum(), (g * g).sum(), (p * g).sum()
    cosine = product.abs() / (square * power).sqrt()
    wanted = torch.stack([2 * (product + 0.01 * square), 0.1 * 1.9 * (v * v).sum(), square, cosine])
    torch.testing.assert_close(series.rows[0], wanted, rtol=1e-5, atol=0)


class Thawing(Plain):
    """Trains its weights from the first epoch on and its biases, a parameter group of their own, from the second."""

    def __init__(self, **group):
        super().__init__()
        self.group = group

    def configure_optimizers(self):
        return torch.optim.SGD([self.network.weight], 0.05, momentum=0.5)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.optimizers().add_param_group({"params": [self.network.bias]} | self.group)


def test_a_parameter_group_that_is_added_in_the_training_is_followed_from_then_on():
    watch = GradientNoiseMonitor(batches=5)
    fitted(Thawing(), watch, epochs=2)
    assert [len(series.rows) for series in watch._followed.groups] == [20, 10]
    assert "gradient_noise/weight_drift_1" in watch.history[1]


class Changing(Plain):
    """Does something to its optimizer at the start of the second epoch, or within a step of the first."""

    def __init__(self, change, within_step=-1):
        super().__init__(momentum=0.5)
        self.change, self.within_step = change, within_step

    def on_train_epoch_start(self):
        if self.current_epoch == 1 and self.within_step < 0:
            self.change(self)

    def on_before_optimizer_step(self, optimizer):
        if self.global_step == self.within_step:
            self.change(self)


class Stepping(Changing):
    """Steps torch's own optimizer, of which Lightning tells nobody, once it has changed it."""

    def __init__(self, change):
        super().__init__(change)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer = self.optimizers(use_pl_optimizer=self.current_epoch == 0)
        optimizer.step()
        optimizer.zero_grad()


def adam(module):
    module.trainer.optimizers = [torch.optim.Adam(module.parameters(), 0.01)]


def other_sgd(module):
    module.trainer.optimizers = [torch.optim.SGD(module.parameters(), 0.05, momentum=0.5)]


def two_sgds(module):
    of = [torch.optim.SGD([p], 0.05, momentum=0.5) for p in module.network.parameters()]
    module.trainer.optimizers = of


def nesterov(module):
    module.trainer.optimizers[0].param_groups[0]["nesterov"] = True


def dampening(module):
    module.trainer.optimizers[0].param_groups[0]["dampening"] = 0.5


NOT_OF_THE_RELATION = [
    lambda: Thawing(nesterov=True),
    lambda: Thawing(dampening=0.5),
    lambda: Thawing(maximize=True),
    lambda: Changing(nesterov),
    lambda: Changing(dampening),
    lambda: Changing(adam),
    lambda: Changing(two_sgds),
    lambda: Changing(adam, within_step=5),
]


@pytest.mark.parametrize("make", NOT_OF_THE_RELATION)
def test_steps_that_the_relation_no_longer_holds_for_are_followed_no_longer_with_one_warning(make):
    watch = GradientNoiseMonitor(batches=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(make(), watch, epochs=3)
    assert len([w for w in caught if "stationarity: the relation is of one SGD" in str(w.message)]) == 1
    assert [len(states) for states in watch.states[1:]] == [0, 0]
    assert not any("stationarity" in name or "drift" in name for row in watch.history[1:] for name in row)
    assert all(math.isfinite(row["gradient_noise/trace"]) for row in watch.history)


@pytest.mark.parametrize("make", NOT_OF_THE_RELATION)
def test_on_demand_they_end_the_training(make):
    with pytest.raises(ValueError, match="stationarity: the relation is of one SGD"):
        fitted(make(), GradientNoiseMonitor(batches=5, on_error="raise"), epochs=3)


@pytest.mark.parametrize("change", [nesterov, dampening, other_sgd])
def test_a_step_before_which_the_optimizer_changes_at_the_last_moment_is_none_of_the_series(change):
    watch = GradientNoiseMonitor(batches=5)
    fitted(Changing(change, within_step=9), watch, epochs=1)
    assert len(watch._followed.groups[0].rows) == (10 if change is other_sgd else 9)  # its step is SGD's as ever


def test_another_sgd_in_the_optimizers_place_is_followed_anew():
    watch = GradientNoiseMonitor(batches=5)
    fitted(Changing(other_sgd), watch, epochs=2)
    assert [len(series.rows) for series in watch._followed.groups] == [10]


def test_steps_of_another_optimizer_that_nobody_tells_of_are_passed_over():
    watch = GradientNoiseMonitor(batches=5)
    fitted(Stepping(adam), watch, epochs=2)
    assert [len(series.rows) for series in watch._followed.groups] == [10]


class Alternating(Plain):
    """Trains in the second epoch other parameters of its one group than in the first."""

    def __init__(self, first, then):
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Linear(12, 12))
        self.trained = [first, then]

    def on_train_epoch_start(self):
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = name in self.trained[self.current_epoch]


@pytest.mark.parametrize(
    ("first", "then", "rows"),
    [
        (["1.weight"], ["0.weight", "1.weight"], 10),
        (["1.weight"], ["0.weight"], 10),  # as many
        (["1.weight"], ["1.weight"], 20),
    ],
)
def test_other_parameters_start_the_series_anew(first, then, rows):
    watch = GradientNoiseMonitor(batches=5)
    fitted(Alternating(first, then), watch, epochs=2)
    assert [len(series.rows) for series in watch._followed.groups] == [rows]


def test_series_of_another_number_of_groups_than_the_optimizers_are_begun_anew():
    module, followed = Plain(), Followed()
    followed.groups = [Series(count=1), Series(count=1)]
    run = SimpleNamespace(optimizers=[module.configure_optimizers()], gradient_clip_val=None)
    followed.start(run, module)
    assert [series.count for series in followed.groups] == [0]


class Streamed(Rows):
    """The same rows, from a loader without a length."""

    def train_dataloader(self):
        return DataLoader(Stream(self.pairs), 16)


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return (self.rows[i] for i in range(len(self.rows)))


@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 4}])
@pytest.mark.parametrize("kind", [Rows, Streamed])
def test_the_ragged_end_of_an_epoch_is_no_change_of_s_in_a_stream_either(kind, options):
    watch = GradientNoiseMonitor(batches=5)
    fitted(kind(rows=50), watch, epochs=4, **options)  # 16, 16, 16, 2
    (series,) = watch._followed.groups
    assert (len(series.rows), series.size) == (12, 16)


@pytest.mark.slow
def test_a_long_series_makes_a_small_checkpoint_that_can_be_resumed():
    series, watch, again = Series(), GradientNoiseMonitor(), GradientNoiseMonitor()
    steps(series, [(16, False)] * 20_000)
    series.settle([16] * 20_000)
    watch._followed.groups = [series]
    buffer = io.BytesIO()
    torch.save(watch.state_dict(), buffer)
    assert buffer.tell() < 20_000 * 4 * 8 + 10_000
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    for one in (series, again._followed.groups[0]):
        steps(one, [(16, False)] * 3, start=20_000)
        one.settle([16] * 3)
    assert torch.equal(series.rows, again._followed.groups[0].rows)
    assert (series.setting, series.size) == (again._followed.groups[0].setting, again._followed.groups[0].size)


def test_a_resumed_training_goes_on_with_its_series(tmp_path):
    whole, first, second = (GradientNoiseMonitor(batches=5) for _ in range(3))
    torch.manual_seed(3)
    fitted(Rows(momentum=0.9), whole, epochs=2)
    half = fitted(Rows(momentum=0.9), first, epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    trainer([second], epochs=2).fit(Rows(momentum=0.9), ckpt_path=tmp_path / "half.ckpt")
    assert len(second._followed.groups[0].rows) == len(whole._followed.groups[0].rows) == 20
    assert torch.equal(second._followed.groups[0].rows[:10], first._followed.groups[0].rows)


def fit_unevenly(rank, world_size, train):
    """S = 20 with a ragged end, whose parts are within a tenth of S on one rank and not on the other."""
    as_torchrun(rank, world_size)
    watch = GradientNoiseMonitor(alignment=True)
    torch.manual_seed(3)
    data = DigitsDataModule(gray=True, train=train, batch_size=20, drop_last=False)
    fit = trainer([watch], world_size, 2, use_distributed_sampler=False)
    fit.fit(MLP(hidden=(8,), batch_norm=True, lr=0.05), data)
    return watch.history, len(watch._followed.groups[0].rows), [m.batch_size for m in watch.measurements]


@pytest.mark.ddp
@pytest.mark.parametrize(("train", "steps", "sizes"), [(77, 6, []), (117, 10, [20, 20])])
def test_ranks_with_other_local_sizes_decide_alike(train, steps, sizes):
    one, two = on_ranks(2, fit_unevenly, train)
    assert one[1:] == two[1:] == (steps, sizes)
    for mine, other in zip(one[0], two[0]):
        assert mine.keys() == other.keys()
        for name in mine.keys() - {"gradient_noise/seconds"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-9, nan_ok=True), name
