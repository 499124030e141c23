"""GradientNoiseMonitor in ordinary and in awkward trainings: uneven batches, no noise, clipping, ranks."""

import math
import warnings

import numpy as np
import pytest
import torch

from tests.callbacks.fits import trainer
from tests.callbacks.noisy import Plain, Rows, fitted
from three_factors.callbacks import GradientNoiseMonitor
from three_factors.callbacks.common_size import common_size, share
from three_factors.callbacks.functional.noise import FEWEST
from three_factors.datamodules import DigitsDataModule, Triangle
from three_factors.lightning_modules import MLP

ALWAYS = {"top_eigenvalue"} | {
    name + end for name in ("trace", "mean_square", "isotropy", "temperature", "kurtosis") for end in ("", "_error")
}


def logged(row):
    return {k.removeprefix("gradient_noise/") for k in row if k.startswith("gradient_noise/")}


def numbers(row, names=ALWAYS):
    return [row[f"gradient_noise/{name}"] for name in names]


@pytest.mark.parametrize(("rows", "gradients"), [(159, 9), (163, 10), (90, 5), (79, 5)])
def test_under_batch_norm_the_ragged_last_batch_of_an_epoch_is_left_out(rows, gradients):
    watch = GradientNoiseMonitor()
    fitted(Rows(rows=rows), watch, epochs=1)
    (found,) = watch.measurements
    size = 15 if rows == 79 else 16  # 16, 16, 16, 16, 15: only cut to 15 are there five
    assert (found.estimator, found.gradients, found.batch_size) == ("batch_means", gradients, size)
    assert all(map(math.isfinite, numbers(watch.history[0])))


@pytest.mark.slow
def test_batches_of_a_schedule_are_cut_to_one_size_and_n_is_that_of_training():
    watch = GradientNoiseMonitor()
    data = DigitsDataModule(gray=True, train=2000, batch_size=Triangle(64, 32, 10))
    trainer([watch], epochs=2).fit(MLP(hidden=(8,), batch_norm=True, lr=0.05), data)
    for found, row in zip(watch.measurements, watch.history):
        assert found.gradients >= 20
        assert all(map(math.isfinite, numbers(row)))
    first = watch.measurements[0]
    assert first.batch_size == 32  # of 32, 33, 34 and 35
    n = 2 * first.num_params * first.temperature.value / first.trace.value
    assert 0.05 / 35 < n < 0.05 / 32


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([16] * 9 + [15], 16),
        ([16] * 4 + [15], 15),
        ([33, 33, 34, 34, 35, 35, 36, 36], 33),
        ([20, 30, 40, 50, 64, 64], 64),
        ([20, 20, 20, 17], 20),
        ([7], 7),
        ([], 0),
    ],
)
def test_the_common_size_is_the_most_frequent_or_what_most_can_be_cut_to(sizes, size):
    assert common_size(sizes) == size


def test_the_parts_of_a_batch_are_cut_to_the_common_size_over_all_ranks(monkeypatch):
    ranks = [[10, 9, 10, 8], [9, 9, 10]]
    found = []
    monkeypatch.setattr("three_factors.callbacks.common_size.distributed", lambda: True)
    for rank, sizes in enumerate(ranks):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        found.append([len(b[0]) for b in share([(torch.zeros(s), torch.zeros(s)) for s in sizes], ranks, 18)])
    assert [sum(parts) for parts in zip(*found)] == [18, 18, 18]
    assert len(found[0]) == len(found[1]) == 3


def test_the_fewest_batches_that_are_taken_work():
    watch = GradientNoiseMonitor(batches=FEWEST)
    fitted(Rows(), watch, epochs=1)
    assert watch.measurements[0].gradients == FEWEST
    assert all(map(math.isfinite, numbers(watch.history[0])))
    with pytest.raises(ValueError, match="batches: 4 are too few"):
        GradientNoiseMonitor(batches=FEWEST - 1)


def test_the_number_of_batches_may_be_numpys():
    watch = GradientNoiseMonitor(batches=np.int64(6))
    fitted(Rows(), watch, epochs=1)
    assert watch.measurements[0].gradients == 6
    assert all(map(math.isfinite, numbers(watch.history[0])))


@pytest.mark.parametrize("alignment", [False, True])
def test_too_few_batches_are_logged_as_nan_with_one_warning(alignment):
    watch = GradientNoiseMonitor(alignment=alignment)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(Rows(rows=48), watch, epochs=2)
    assert len([w for w in caught if "3 batches of one size among 3, fewer than the 5" in str(w.message)]) == 1
    other = GradientNoiseMonitor(alignment=alignment)
    fitted(Rows(rows=160), other, epochs=1)
    wanted = ALWAYS | (
        {"alignment", "alignment_error", "alignment_lift", "alignment_lift_error"} if alignment else set()
    )
    assert wanted <= logged(other.history[0])
    for row in watch.history:
        assert wanted <= logged(row)
        assert all(map(math.isnan, numbers(row, wanted)))


class Diverging(Rows):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            torch.nn.init.constant_(self.network[0].weight, math.nan)


class DivergingLoss(Rows):
    def loss(self, output, target):
        return super().loss(output, target) * (1 if self.training_loss else math.inf)

    training_loss = True

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def on_train_epoch_end(self):
        self.training_loss = True

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.training_loss = batch_idx + 1 < 10 or self.current_epoch == 0


@pytest.mark.slow
@pytest.mark.parametrize("alignment", [False, True])
@pytest.mark.parametrize("kind", [Diverging, DivergingLoss])
def test_what_is_not_finite_is_logged_as_nan_with_one_warning_and_training_goes_on(kind, alignment):
    watch = GradientNoiseMonitor(alignment=alignment)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(kind(), watch, epochs=3)
    first, second, _ = watch.history
    assert len([w for w in caught if "not finite" in str(w.message)]) == 1
    assert all(logged(row) >= ALWAYS for row in watch.history)
    assert all(map(math.isfinite, numbers(first)))
    assert all(map(math.isnan, numbers(second)))
    assert not alignment or math.isnan(second["gradient_noise/alignment"])


def test_weights_that_are_not_finite_from_the_start_are_logged_under_the_same_names():
    module, watch = Rows(), GradientNoiseMonitor(alignment=True)
    torch.nn.init.constant_(module.network[0].weight, math.nan)
    with pytest.warns(UserWarning, match="not finite"):
        fitted(module, watch, epochs=1)
    assert ALWAYS | {"alignment", "alignment_lift"} <= logged(watch.history[0])


@pytest.mark.parametrize("alignment", [False, True])
@pytest.mark.parametrize("kind", [Rows, Plain])
def test_without_noise_the_ratios_are_nan_and_training_goes_on(kind, alignment):
    module, watch = kind(), GradientNoiseMonitor(alignment=alignment)
    module.loss = lambda output, target: 0 * output.sum()
    with pytest.warns(UserWarning, match="gradients do not differ"):
        fitted(module, watch, epochs=1)
    row = watch.history[0]
    assert numbers(row, ["trace", "mean_square", "temperature", "top_eigenvalue"]) == [0, 0, 0, 0]
    ratios = ["isotropy", "kurtosis", *(["alignment", "alignment_lift"] if alignment else [])]
    assert all(map(math.isnan, numbers(row, ratios)))


@pytest.mark.parametrize("kind", [Rows, Plain])
def test_accumulated_batches_count_in_the_temperature_and_as_one_step(kind):
    watch = GradientNoiseMonitor()
    fitted(kind(), watch, epochs=2, accumulate_grad_batches=2)
    found = watch.measurements[-1]
    assert found.temperature.value == pytest.approx(0.05 / 32 * found.trace.value / (2 * found.num_params))
    (series,) = watch._followed.groups
    assert (len(series.rows), series.size) == (10, 32)


class Clipping(Rows):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)


@pytest.mark.parametrize(("kind", "options"), [(Rows, {"gradient_clip_val": 1e-3}), (Clipping, {})])
def test_where_gradients_are_clipped_the_stationarity_is_not_followed(kind, options):
    watch = GradientNoiseMonitor(batches=5)
    with pytest.warns(UserWarning, match="gradients are clipped"):
        fitted(kind(), watch, epochs=2, **options)
    assert [state.verdict for states in watch.states for state in states] == ["clipped", "clipped"]
    assert not any("stationarity" in name or "drift" in name for name in watch.history[-1])
    assert math.isfinite(watch.history[-1]["gradient_noise/trace"])


class ClippingFirst(Rows):
    """Clips before Lightning would: what watches the steps finds it out."""

    def on_before_optimizer_step(self, optimizer):
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1e-3)


@pytest.mark.parametrize(
    ("kind", "options", "stationarity", "weight"),
    [
        (Rows, {"gradient_clip_val": 1e-3}, True, 0.1),
        (Rows, {"gradient_clip_val": 1e-3}, False, 0.1),
        (Rows, {"gradient_clip_val": 1e-3}, False, math.nan),  # where nothing is measured, under the same names
        (Clipping, {}, False, 0.1),
        (ClippingFirst, {}, True, 0.1),
    ],
)
def test_clipped_gradients_have_no_temperature(kind, options, stationarity, weight):
    module, watch = kind(), GradientNoiseMonitor(batches=5, stationarity=stationarity)
    torch.nn.init.constant_(module.network[-1].weight, weight)
    fitted(module, watch, epochs=1, **options)
    found = logged(watch.history[0])
    assert "trace" in found
    assert not found & {"temperature", "temperature_error"}
