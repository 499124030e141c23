"""B3, B4: monitors where batches are not (input, target), and outputs no tensors."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tests.strangers.monitors import KINDS, Named, fit
from tests.strangers.projects import Project, data, dense_hessian

# -- B3: batches that are not (tensor, tensor)


def named_loss(module, batch):
    return F.cross_entropy(module(batch["x"]), batch["y"])


def the_step(module, batch):
    return module.training_step(batch, 0)


@pytest.mark.parametrize("f", [named_loss, the_step])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_any_batch_is_measured_as_that_of_pairs(kind, f):
    named, pairs = KINDS[kind](batch_loss=f), KINDS[kind]()
    project = fit(Named(), named)
    assert "train" in project.trainer.callback_metrics
    fit(Project(), pairs)
    own, other = named.history[0], pairs.history[0]
    assert own.keys() == other.keys()
    for key in own.keys() - {f"{named.prefix}/seconds"}:
        assert own[key] == pytest.approx(other[key], rel=1e-6, nan_ok=True), key


def test_a_step_that_is_measured_logs_nothing_and_updates_no_metric():
    import torchmetrics

    class Metric(Named):
        def __init__(self):
            super().__init__()
            self.mean, self.calls = torchmetrics.MeanMetric(), []

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.mean.update(loss.detach())
            self.calls.append(batch_idx)
            self.log("mean", self.mean, on_epoch=True, on_step=False)
            return loss

    found = []
    for callbacks in ([], [make(batch_loss=the_step) for make in KINDS.values()]):
        project = fit(Metric(), *callbacks, epochs=2)
        logged = project.trainer.callback_metrics
        found.append((float(logged["mean"]), float(logged["train"]), project.calls, project.steps))
    assert found[0] == found[1]


class TwoInputs(Project):
    """(inputs…, target), and a module with several inputs."""

    def __init__(self):
        super().__init__()
        x, y = data()
        self.pairs = TensorDataset(x[:, :2], x[:, 2:], y)

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))

    def training_step(self, batch, batch_idx):
        return self.loss(self(*batch[:-1]), batch[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_several_inputs_go_to_the_module_as_they_stand_in_the_batch(kind):
    two, one = KINDS[kind](), KINDS[kind]()
    fit(TwoInputs(), two)
    fit(Project(), one)
    for key in one.history[0].keys() - {f"{one.prefix}/seconds"}:
        assert two.history[0][key] == pytest.approx(one.history[0][key], rel=1e-6, nan_ok=True), key


class TwoLoaders(Project):
    """A dictionary of loaders."""

    def train_dataloader(self):
        return {name: super(TwoLoaders, self).train_dataloader() for name in ("labelled", "more")}

    def training_step(self, batch, batch_idx):
        return two_losses(self, batch)


def two_losses(module, batch):
    return sum(F.cross_entropy(module(x), y) for x, y in batch.values()) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_of_loaders_is_measured_by_a_loss_of_its_batches(kind):
    several, one = KINDS[kind](batch_loss=two_losses), KINDS[kind]()
    fit(TwoLoaders(), several)  # both loaders draw the same
    fit(Project(), one)
    for key in one.history[0].keys() - {f"{one.prefix}/seconds"}:
        assert several.history[0][key] == pytest.approx(one.history[0][key], rel=1e-6, nan_ok=True), key


# -- B4: outputs that are no tensors


class Structured(Project):
    def forward(self, x):
        return {"out": self.net(x), "aux": self.net(x).pow(2).mean()}

    def loss(self, output, target):
        return F.cross_entropy(output["out"], target) + 0.1 * output["aux"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_may_return_anything_that_its_loss_takes(kind):
    watch, project = KINDS[kind](), Structured()
    fit(project, watch)
    assert all(math.isfinite(v) for k, v in watch.history[0].items() if "accuracy" not in k and "noise_scale" not in k)
    x, y = data()
    if kind == "hessian":
        x, y = (torch.cat([b[i] for b in watch.batches]) for i in (0, 1))
        dense = dense_hessian(lambda: project.loss(project(x), y), project)
        assert watch.history[0]["hessian/top_eigenvalue"] == pytest.approx(
            float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-3
        )
    if kind == "line":
        assert math.isnan(watch.profiles[0].accuracy[0])
