"""Losses that reach parameters past the module, where other tensors cannot be put in their place."""

import pytest
import torch
from torch.nn import functional as F

from tests.strangers.monitors import KINDS, fit
from tests.strangers.projects import Project, batches, data, dense_hessian, network
from three_factors.callbacks.functional import GGNOperator, HessianOperator, gradient_noise, interpolate


class Decaying(Project):
    """Adds half the squares of weights that it keeps in a list of its own."""

    def __init__(self):
        super().__init__()
        self.decayed = [p for n, p in self.named_parameters() if n.endswith("weight")]

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + sum(p.square().sum() for p in self.decayed) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_reads_parameters_from_a_list_is_refused_before_the_first_step(kind):
    project = Decaying()
    with pytest.raises(ValueError, match=r"loss: reads 'net\.\d\.weight' past the module"):
        fit(project, KINDS[kind](batch_loss=lambda module, batch: module.training_step(batch, 0)))
    assert project.steps == 0


@pytest.mark.parametrize("measure", [HessianOperator, GGNOperator])
def test_a_loss_with_parameters_in_a_closure_is_refused_in_the_first_product(measure):
    module, pair = network(), data()
    own = module[0].weight
    operator = measure(module, lambda output, target: F.cross_entropy(output, target) + own.square().sum(), [pair])
    with pytest.raises(ValueError, match=r"loss: reads '0\.weight' past the module"):
        operator.matvec(operator.weights())


@pytest.mark.parametrize("estimator", ["per_example", "loop", "batch_means"])
def test_gradient_noise_of_a_loss_with_parameters_in_a_closure_is_refused(estimator):
    module = network()
    own = module[0].weight
    with pytest.raises(ValueError, match=r"loss: reads '0\.weight' past the module"):
        gradient_noise(
            module,
            lambda output, target: F.cross_entropy(output, target) + own.square().sum(),
            batches(*data(40), *[8] * 5),
            estimator=estimator,
        )


def test_a_line_of_a_loss_with_parameters_in_a_closure_is_refused():
    module, end = network(), network(seed=2).state_dict()
    own = module[0].weight
    with pytest.raises(ValueError, match=r"loss: reads '0\.weight' past the module"):
        interpolate(module, lambda o, t: F.cross_entropy(o, t) + own.square().sum(), [data()], end, end, alphas=[1])


def test_a_parameter_that_is_not_measured_may_come_from_anywhere():
    module, pair = network(), data()
    bias = module[2].bias
    loss = lambda output, target: F.cross_entropy(output + bias, target)  # noqa: E731
    found = HessianOperator(module, loss, [pair], params=["0.weight"])
    dense = dense_hessian(lambda: loss(module(pair[0]), pair[1]), module, {"0.weight"})
    torch.testing.assert_close(found.matmat(torch.eye(30, dtype=torch.float64)), dense)
