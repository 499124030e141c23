"""A4: what a loss does with examples is tried; no number depends on how data are split, nor on a memory argument."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.strangers.projects import batches, data, dense_hessian, gradient, network
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor
from three_factors.callbacks.functional import GGNOperator, HessianOperator, gradient_noise, interpolate

WEIGHTS = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
SPLITS = [(24,), (12, 12), (5, 9, 10), (1, 20, 3)]


def weighted(output, target):
    return F.cross_entropy(output, target, weight=WEIGHTS)


def ignoring(output, target):
    return F.cross_entropy(output, target, ignore_index=1)


def smoothed(output, target):
    return F.cross_entropy(output, target, label_smoothing=0.2)


def contrastive(output, target):
    """Each example against all others of its batch."""
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("loss", [weighted, ignoring, smoothed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_hessian_is_that_of_the_loss_of_all_data_in_one_batch(loss, sizes, dtype):
    module, (x, y) = network(), data()
    truth = dense_hessian(lambda: loss(module(x), y), module)
    if dtype == torch.float32:
        module, x = module.float(), x.float()
    v = torch.randn(len(truth), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = HessianOperator(
        module, loss if dtype == torch.float64 else lambda o, t: loss(o.double(), t), batches(x, y, *sizes)
    ).matvec(v.to(dtype))
    torch.testing.assert_close(found.double(), truth @ v, rtol=0, atol=(1e-10 if dtype == torch.float64 else 1e-4))


@pytest.mark.parametrize("loss", [weighted, ignoring])
def test_a_batch_loss_with_weights_of_its_own_is_followed_too(loss):
    module, (x, y) = network(), data()
    truth = dense_hessian(lambda: loss(module(x), y), module)
    operator = HessianOperator(module, None, batches(x, y, 5, 9, 10), batch_loss=lambda m, b: loss(m(b[0]), b[1]))
    found = operator.matmat(torch.eye(len(truth), dtype=torch.float64))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-8)


def test_a_batch_whose_targets_are_all_ignored_counts_nothing():
    module, (x, y) = network(), data()
    y[:8] = 1
    truth = dense_hessian(lambda: ignoring(module(x), y), module)
    operator = HessianOperator(module, ignoring, batches(x, y, 8, 8, 8))
    torch.testing.assert_close(operator.matmat(torch.eye(len(truth), dtype=torch.float64)), truth)


def test_weights_where_outputs_are_all_equal_are_found_from_gradients():
    module, (x, y) = network(), data()
    nn.init.zeros_(module[2].weight)  # as many heads begin: every example has the loss log 3
    nn.init.zeros_(module[2].bias)
    truth = dense_hessian(lambda: weighted(module(x), y), module)
    operator = HessianOperator(module, weighted, batches(x, y, 5, 9, 10))
    torch.testing.assert_close(operator.matmat(torch.eye(len(truth), dtype=torch.float64)), truth)


@pytest.mark.parametrize("sizes", [(24,), (12, 12)])
@pytest.mark.parametrize(("is_now", "said", "way"), [("sum", "mean", "sum"), ("mean", "sum", "mean")])
def test_a_sum_that_is_called_a_mean_is_refused_and_the_other_way_round(is_now, said, way, sizes):
    module, (x, y) = network(), data()
    with pytest.raises(ValueError, match=f"reduction: '{said}', but .* is the {way} of theirs; pass reduction='{way}'"):
        HessianOperator(
            module, lambda o, t: F.cross_entropy(o, t, reduction=is_now), batches(x, y, *sizes), reduction=said
        )


@pytest.mark.parametrize("measure", ["hessian", "interpolation"])
def test_a_loss_over_a_batch_is_refused_unless_it_is_said_to_be_one(measure):
    module, (x, y) = network(), data()
    split = batches(x, y, 12, 12)

    def measured(**options):
        if measure == "hessian":
            return HessianOperator(module, contrastive, split, **options)
        state = module.state_dict()
        return interpolate(module, contrastive, split, state, state, alphas=[1], **options)

    with pytest.raises(ValueError, match=r"loss: of two batches in one is neither .* pass reduction='batch'"):
        measured()
    found = measured(reduction="batch")
    truth = sum(contrastive(module(x[i : i + 12]), y) for i in (0, 12)) / 2
    if measure == "interpolation":
        assert found.values == pytest.approx([float(truth)])
    else:
        dense = dense_hessian(lambda: sum(contrastive(module(x[i : i + 12]), y) for i in (0, 12)) / 2, module)
        torch.testing.assert_close(found.matmat(torch.eye(len(dense), dtype=torch.float64)), dense)


def test_weights_are_believed_if_they_fit_and_refused_if_they_do_not():
    module, (x, y) = network(), data()
    truth = dense_hessian(lambda: weighted(module(x), y), module)
    split = batches(x, y, 5, 9, 10)
    operator = HessianOperator(module, weighted, split, weights=lambda batch: float(WEIGHTS[batch[1]].sum()))
    torch.testing.assert_close(operator.matmat(torch.eye(len(truth), dtype=torch.float64)), truth)
    with pytest.raises(ValueError, match="weights: the loss of two batches in one is not the mean"):
        HessianOperator(module, weighted, split, weights=lambda batch: len(batch[1]))


def test_the_gauss_newton_matrix_has_the_same_weights():
    module, (x, y) = network(lambda: nn.Linear(6, 3)), data()  # linear: it is the Hessian
    truth = dense_hessian(lambda: weighted(module(x), y), module)
    operator = GGNOperator(module, weighted, batches(x, y, 5, 9, 10))
    torch.testing.assert_close(operator.matmat(torch.eye(len(truth), dtype=torch.float64)), truth)


@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("loss", [weighted, ignoring, smoothed])
def test_the_loss_on_a_line_is_that_of_all_data_in_one_batch(loss, sizes):
    module, other, (x, y) = network(), network(seed=2), data()
    found = interpolate(module, loss, batches(x, y, *sizes), module.state_dict(), other.state_dict(), alphas=[0, 1])
    with torch.no_grad():
        assert found.values == pytest.approx([float(loss(m(x), y)) for m in (module, other)], rel=1e-9)
        assert found.accuracy == pytest.approx([float((m(x).argmax(1) == y).double().mean()) for m in (module, other)])


def test_of_a_sum_the_line_and_the_hessian_are_the_sum():
    module, (x, y) = network(), data()

    def total(o, t):
        return F.cross_entropy(o, t, reduction="sum")

    state, split = module.state_dict(), batches(x, y, 5, 9, 10)
    found = interpolate(module, total, split, state, state, alphas=[1], reduction="sum")
    assert found.values == pytest.approx([float(total(module(x), y))])
    truth = dense_hessian(lambda: total(module(x), y), module)
    operator = HessianOperator(module, total, split, reduction="sum")
    torch.testing.assert_close(operator.matmat(torch.eye(len(truth), dtype=torch.float64)), truth)


def noise_of_batches(module, loss, split):
    rows = torch.stack([gradient(loss(module(x), y), module) for x, y in split])
    return float(len(split[0][0]) * ((rows - rows.mean(0)) ** 2).sum() / (len(rows) - 1))


@pytest.mark.parametrize("loss", [weighted, ignoring, contrastive])
def test_gradient_noise_of_a_loss_over_a_batch_is_what_sgd_makes(loss):
    module, (x, y) = network(), data(160)
    split = batches(x, y, *[8] * 20)
    with pytest.warns(UserWarning, match="measured on batch means, since the loss of a batch"):
        found = gradient_noise(module, loss, split)
    assert found.estimator == "batch_means"
    assert found.value == pytest.approx(noise_of_batches(module, loss, split), rel=1e-9)
    for asked in ("per_example", "loop"):
        with pytest.raises(ValueError, match=f"estimator: '{asked}' is not to be had, .*; take 'batch_means'"):
            gradient_noise(module, loss, split, estimator=asked)


def test_gradient_noise_of_a_sum_is_that_of_the_mean():
    module, (x, y) = network(), data(40)

    def total(o, t):
        return F.cross_entropy(o, t, reduction="sum")

    split = batches(x, y, *[8] * 5)
    of_mean = gradient_noise(module, F.cross_entropy, split)
    for estimator in ("per_example", "loop"):
        found = gradient_noise(module, total, split, reduction="sum", estimator=estimator)
        assert found.value == pytest.approx(of_mean.value, rel=1e-9)
    means = [
        gradient_noise(module, f, split, estimator="batch_means", reduction=r).value
        for f, r in ((total, "sum"), (F.cross_entropy, "mean"))
    ]
    assert means[0] == pytest.approx(means[1], rel=1e-9)
    with pytest.raises(ValueError, match="estimator: 'loop' is not to be had, since the loss of a batch"):
        gradient_noise(module, total, split, estimator="loop")


@pytest.mark.parametrize("argument", [{"chunk": 3}, {"chunk": 17}, {"max_bytes": 20_000}, {"max_bytes": 1}])
def test_gradient_noise_with_dropout_depends_on_no_memory_argument(argument):
    module, (x, y) = network(lambda: nn.Linear(6, 5), lambda: nn.Dropout(0.5), lambda: nn.Linear(5, 3)), data(16)
    found = [gradient_noise(module.train(), F.cross_entropy, (x, y), **options).value for options in ({}, argument)]
    assert found[1] == pytest.approx(found[0], rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 7, 24])
@pytest.mark.parametrize("kind", [HessianMonitor, InterpolationMonitor])
def test_a_monitors_values_do_not_depend_on_its_batch_size(kind, batch_size):
    module, (x, y) = network(), data()
    split = [(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    if kind is HessianMonitor:
        of_one, of_split = (
            HessianMonitor(loss=weighted, measures=("top_eigenvalue", "trace")).measure(module, b)
            for b in ([(x, y)], split)
        )
        assert of_split["hessian/top_eigenvalue"] == pytest.approx(of_one["hessian/top_eigenvalue"], rel=1e-6)
        assert of_split["hessian/trace"] == pytest.approx(of_one["hessian/trace"], rel=1e-6)
    else:
        of_one, of_split = (
            InterpolationMonitor(loss=weighted, alphas=[0, 1]).measure(module, b, network(seed=2).state_dict())
            for b in ([(x, y)], split)
        )
        assert of_split.values == pytest.approx(of_one.values, rel=1e-9)


def test_a_loss_that_has_come_to_zero_is_not_taken_for_another_kind():
    module, (x, y) = network(), data()
    with torch.no_grad():
        module[2].weight.mul_(0)
        module[2].bias.copy_(torch.tensor([1e3, 0.0, 0.0]))
    y[:] = 0
    operator = HessianOperator(module, F.cross_entropy, batches(x, y, 12, 12))
    assert float(operator.matvec(torch.ones(operator.num_params, dtype=torch.float64)).abs().max()) == 0


def test_a_module_whose_examples_meet_has_no_gradients_of_examples():
    class Centred(nn.Module):
        """Subtracts the batch's mean, as batch norm does."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3).double()

        def forward(self, x):
            return self.layer(x - x.mean(0))

    module, (x, y) = Centred(), data(80)
    split = batches(x, y, *[8] * 10)
    with pytest.warns(UserWarning, match="measured on batch means"):
        found = gradient_noise(module, F.cross_entropy, split)
    assert found.value == pytest.approx(noise_of_batches(module, F.cross_entropy, split), rel=1e-9)


class Mixed(nn.Module):
    """Mixes each example of a batch with another one, in train mode."""

    def __init__(self, drawn):
        super().__init__()
        self.layer, self.drawn = nn.Linear(6, 3).double(), drawn

    def loss(self, batch):
        x, y = batch
        share, others = self.drawn(len(x)) if self.training else (1.0, torch.arange(len(x)))
        output = self.layer(share * x + (1 - share) * x[others])
        return share * F.cross_entropy(output, y) + (1 - share) * F.cross_entropy(output, y[others])


class TrainsCentred(nn.Module):
    """Subtracts the batch's mean in train mode alone, as batch norm does."""

    def forward(self, x):
        return x - x.mean(0) if self.training else x


class Jittered(nn.Module):
    """Adds to each example what numpy draws."""

    def forward(self, x):
        if not self.training:
            return x
        return x + torch.from_numpy(np.random.standard_normal(x.shape))  # noqa: NPY002


def drawn_by_torch(examples):
    return torch.distributions.Beta(1.0, 1.0).sample().double(), torch.randperm(examples)


def drawn_by_both(examples):
    return np.random.beta(0.2, 0.2), torch.randperm(examples)  # noqa: NPY002


@pytest.mark.parametrize("size", [2, 16])
@pytest.mark.parametrize("drawn", [drawn_by_torch, drawn_by_both])
def test_examples_that_are_mixed_in_train_mode_have_no_gradients_of_their_own(drawn, size):
    split, module = batches(*data(6 * size), *[size] * 6), Mixed(drawn).train()
    loss = {"batch_loss": lambda module, batch: module.loss(batch)}
    with pytest.warns(UserWarning, match="measured on batch means, since in train mode the loss of a batch"):
        found = gradient_noise(module, None, split, **loss)
    assert found.value == gradient_noise(module, None, split, **loss, estimator="batch_means").value
    with pytest.raises(ValueError, match="estimator: 'loop' is not to be had, since in train mode"):
        gradient_noise(module, None, split, **loss, estimator="loop")


@pytest.mark.parametrize("size", [16, 256])
def test_a_norm_over_the_batch_is_seen_beside_dropout(size):
    module = network(lambda: nn.Linear(6, 5), TrainsCentred, lambda: nn.Dropout(0.1), lambda: nn.Linear(5, 3)).train()
    split = batches(*data(8 * size), *[size] * 8)
    with pytest.warns(UserWarning, match="measured on batch means, since in train mode the loss of a batch"):
        found = gradient_noise(module, F.cross_entropy, split)
    assert found.estimator == "batch_means"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [F.cross_entropy, lambda o, t: F.cross_entropy(o, t) - 1.09])
def test_what_is_drawn_for_each_example_leaves_it_its_gradient(loss, dtype):
    module = network(lambda: nn.Linear(6, 5), nn.Tanh, lambda: nn.Dropout(0.5), lambda: nn.Linear(5, 3)).to(dtype)
    x, y = data(128)
    found = gradient_noise(module.train(), loss, batches(x.to(dtype), y, 64, 64))
    assert found.estimator == "per_example"


def test_what_numpy_draws_is_drawn_for_each_example_and_is_the_same_again():
    module = network(Jittered, lambda: nn.Dropout(0.5), lambda: nn.Linear(6, 3)).train()
    found = [gradient_noise(module, F.cross_entropy, data(12), **few) for few in ({}, {"max_bytes": 1_000})]
    assert [one.estimator for one in found] == ["loop", "loop"]
    assert found[1].value == pytest.approx(found[0].value, rel=1e-12)


def test_the_temperature_of_a_sum_is_that_of_the_step():
    monitor = GradientNoiseMonitor(reduction="sum", loss=lambda o, t: F.cross_entropy(o, t, reduction="sum"))
    found = monitor.measure(network(), batches(*data(40), *[8] * 5), noise_ratio=0.1)
    assert math.isfinite(found.temperature.value)
