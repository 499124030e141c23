"""What strangers found when they tried the monitors: further members of the kinds, each with its right value."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.strangers.projects import Project, batches, data, network, trainer
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor, InterpolationMonitor
from three_factors.callbacks.functional import HessianOperator, gradient_noise, interpolate


def root(output, target):
    return F.mse_loss(output, F.one_hot(target, 3).to(output.dtype)).sqrt()


def logarithm(output, target):
    return F.mse_loss(output, F.one_hot(target, 3).to(output.dtype)).log()


def explained(output, target):
    truth = F.one_hot(target, 3).to(output.dtype)
    return F.mse_loss(output, truth) / (truth - truth.mean(0)).square().mean()


@pytest.mark.parametrize("loss", [root, logarithm, explained])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_a_mean_are_no_weighted_mean(loss, dtype):
    module, (x, y) = network().to(dtype), data(40, dtype=dtype)
    split = batches(x, y, 8, 12, 20)
    with pytest.raises(ValueError, match="pass reduction='batch'"):
        HessianOperator(module, loss, split)
    with pytest.raises(ValueError, match="pass reduction='batch'"):
        interpolate(module, loss, split, module.state_dict(), module.state_dict(), alphas=[1])


class OwnNorm(nn.Module):
    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize("layer", [OwnNorm, Centred])
def test_a_module_in_which_examples_meet_is_refused_unless_batches_are_what_is_meant(layer):
    module, (x, y) = network(lambda: nn.Linear(6, 4), layer, nn.Tanh, lambda: nn.Linear(4, 3)), data(40)
    with pytest.raises(ValueError, match="pass reduction='batch'"):
        HessianOperator(module, F.cross_entropy, batches(x, y, 20, 20))
    HessianOperator(module, F.cross_entropy, batches(x, y, 20, 20), reduction="batch")


class Cached(nn.Module):
    """Keeps its weight in evaluation until it trains again."""

    def __init__(self):
        super().__init__()
        self.layer, self.weight = nn.Linear(6, 3), None

    def train(self, mode=True):
        self.weight = None
        return super().train(mode)

    def forward(self, x):
        weight = self.layer.weight / self.layer.weight.norm()
        if not self.training:
            self.weight = weight = weight if self.weight is None else self.weight
        return x @ weight.T


def test_a_weight_that_a_pass_caches_is_of_that_pass_alone():
    module, (x, y) = Cached().double(), data()
    start = {k: v + 0.3 for k, v in module.state_dict().items()}
    found = interpolate(module, F.cross_entropy, batches(x, y, 12, 12), start, module.state_dict(), alphas=[0, 0.5, 1])
    truth = []
    for a in (0, 0.5, 1):
        fresh = Cached().double()
        fresh.load_state_dict({k: (1 - a) * start[k] + a * v for k, v in module.state_dict().items()})
        truth.append(float(F.cross_entropy(fresh(x), y).detach()))
    assert found.values == pytest.approx(truth, rel=1e-9)


class Autoencoder(Project):
    """Batches that are bare tensors."""

    def __init__(self):
        super().__init__(network(lambda: nn.Linear(6, 6)))
        self.pairs = data()[0]

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch), batch)


@pytest.mark.parametrize("kind", [HessianMonitor, GradientNoiseMonitor, InterpolationMonitor])
def test_a_batch_may_be_one_tensor(kind):
    watch = kind(batch_loss=lambda module, batch: F.mse_loss(module(batch), batch))
    trainer(watch, precision="64-true", epochs=2).fit(Autoencoder())
    assert len(watch.history) == 2


def of_one_tensor(module, batch):
    assert isinstance(batch, torch.Tensor)
    return F.mse_loss(module(batch), batch)


def test_two_batches_of_one_tensor_each_are_no_pair():
    """They look like (input, target), and the second would not be measured on."""
    found = []
    for batch_size in (12, 8):
        watch = HessianMonitor(batch_loss=of_one_tensor, batch_size=batch_size, measures=("top_eigenvalue",), tol=1e-6)
        trainer(watch, precision="64-true").fit(Autoencoder())
        found.append(watch.history[0]["hessian/top_eigenvalue"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_two_batches_that_training_draws_are_no_pair():
    project, watch = Autoencoder(), GradientNoiseMonitor(batch_loss=of_one_tensor, alignment=True, on_error="raise")
    project.batch_size = 12
    trainer(watch, precision="64-true").fit(project)
    assert watch.measurements[0].gradients == 24


def test_one_pair_is_one_batch_for_every_function():
    module, pair = network(), data()
    assert gradient_noise(module, F.cross_entropy, pair).gradients == 24
    assert GradientNoiseMonitor(loss=F.cross_entropy).measure(module, list(pair)).gradients == 24
    line = InterpolationMonitor(loss=F.cross_entropy, alphas=[0, 1]).measure(module, pair, module.state_dict())
    assert line.values[0] == pytest.approx(float(F.cross_entropy(module(pair[0]), pair[1])))


@pytest.mark.parametrize("given", [list, tuple, lambda pair: lambda trainer: pair])
def test_one_pair_that_a_monitor_is_given_is_one_batch(given):
    watch = HessianMonitor(batches=given(data()), measures=("top_eigenvalue",), on_error="raise")
    trainer(watch, precision="64-true").fit(Project())
    assert [len(batch) for batch in watch.batches] == [2]


class Coded(Project):
    """Has a parameter of whole numbers, frozen, as quantised layers do."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.arange(4), requires_grad=False)


@pytest.mark.parametrize("kind", [HessianMonitor, GradientNoiseMonitor, InterpolationMonitor])
def test_a_parameter_of_whole_numbers_has_no_part_in_it(kind):
    found = []
    for make in (Coded, Project):
        watch = kind()
        trainer(watch, precision="64-true").fit(make())
        found.append({k: v for k, v in watch.history[0].items() if "seconds" not in k})
    assert found[0] == pytest.approx(found[1], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("estimator", ["auto", "loop"])
def test_a_metric_within_the_step_is_no_hindrance(estimator):
    from torchmetrics.classification import MulticlassAccuracy

    class Metric(Project):
        def __init__(self):
            super().__init__()
            self.accuracy = MulticlassAccuracy(num_classes=3)

        def training_step(self, batch, batch_idx):
            output = self(batch[0])
            self.accuracy(output, batch[1])
            return self.loss(output, batch[1])

    watch = GradientNoiseMonitor(estimator=estimator, batch_loss=lambda module, batch: module.training_step(batch, 0))
    plain = GradientNoiseMonitor()
    project = Metric()
    trainer(watch, precision="64-true").fit(project)
    trainer(plain, precision="64-true").fit(Project())
    own, other = (w.history[0]["gradient_noise/trace"] for w in (watch, plain))
    assert own == pytest.approx(other, rel=1e-9)
    assert int(project.accuracy._update_count) == 3


@pytest.mark.parametrize(
    "batch",
    [
        {"labelled": torch.zeros(8, 6), "more": torch.zeros(12, 6)},
        (torch.zeros(6, 4, 5), torch.zeros(4)),
        [torch.zeros(6, 5), torch.zeros(4, 5)],
    ],
)
def test_noise_of_batches_whose_examples_cannot_be_counted_is_refused(batch):
    with pytest.raises(ValueError, match=r"batches: tensors of .* entries in a batch; gradient noise"):
        gradient_noise(nn.Linear(5, 2), None, [batch] * 6, batch_loss=lambda m, b: m.weight.sum())


def test_a_loader_of_dictionaries_still_works_for_a_loss_of_its_own():
    class Dicts(Project):
        def train_dataloader(self):
            x, y = data()
            return DataLoader([{"x": a, "y": b} for a, b in zip(x, y)], 8)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["x"]), batch["y"])

    watch = HessianMonitor(batch_loss=lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), measures=("top_eigenvalue",))
    trainer(watch, precision="64-true").fit(Dicts())
    assert watch.history[0]["hessian/top_eigenvalue"] > 0
