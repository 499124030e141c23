"""B8: layers that have no second derivative in torch, or a wrong one."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.strangers.monitors import fit, hessian
from tests.strangers.projects import Project, data, network
from three_factors.callbacks.functional import HessianOperator
from three_factors.callbacks.functional.equivalents import EQUIVALENTS


class Once(torch.autograd.Function):
    """A function of somebody's own, with a first derivative in both modes and no second."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 3 * ctx.saved_tensors[0] ** 2 * slope

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] ** 2 * tangent


class Cubed(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Bag(nn.Module):
    """Words by the signs of the inputs."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(12, 5, mode="mean")

    def forward(self, x):
        return self.bag((x > 0).long() + 2 * torch.arange(6))


LAYERS = {"'net.1' (Cubed)": (lambda: nn.Linear(6, 5), Cubed), "'net.0.bag' (EmbeddingBag)": (Bag, nn.Tanh)}


@pytest.mark.parametrize("named", LAYERS)
def test_a_layer_without_a_second_derivative_is_named_before_the_first_step(named):
    project = Project(network(*LAYERS[named], lambda: nn.Linear(5, 3)))
    with pytest.raises(ValueError, match=re.escape(f"module: {named} has no second derivative in torch; GGNOperator")):
        fit(project, hessian())
    assert project.steps == 0


def gauss_newton(project, x, y):
    output, weights = project(x), list(project.parameters())
    rows = [torch.autograd.grad(o, weights, retain_graph=True) for o in output.flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    of_outputs = torch.autograd.functional.hessian(
        lambda o: F.cross_entropy(o.view_as(output), y), output.detach().flatten()
    )
    return jacobian.T @ of_outputs @ jacobian


def test_gauss_newton_does_without_second_derivatives_of_the_network():
    project = Project(network(*LAYERS["'net.1' (Cubed)"], lambda: nn.Linear(5, 3)))
    watch = hessian(curvature="gauss_newton")
    fit(project, watch)
    x, y = (torch.cat([b[i] for b in watch.batches]) for i in (0, 1))
    truth = float(torch.linalg.eigvalsh(gauss_newton(project, x, y))[-1])
    assert watch.history[0]["gauss_newton/top_eigenvalue"] == pytest.approx(truth, rel=1e-3)


@pytest.mark.parametrize("named", LAYERS)
def test_finite_differences_do_without_second_derivatives(named):
    watch = hessian(measures=("finite_difference",))
    fit(Project(network(*LAYERS[named], lambda: nn.Linear(5, 3))), watch)
    assert watch.history[0]["hessian/finite_difference"] > 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize(
    "layers",
    [
        (lambda: nn.Linear(6, 5), nn.Hardsigmoid),
        (lambda: nn.Linear(6, 5), lambda: nn.Hardsigmoid(inplace=True)),
        (lambda: nn.utils.weight_norm(nn.Linear(6, 5)), nn.Tanh),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh),
    ],
)
def test_what_torch_has_not_or_has_wrong_is_that_of_finite_differences(layers):
    operator = HessianOperator(network(*layers, lambda: nn.Linear(5, 3)), F.cross_entropy, data())
    unit = torch.eye(operator.num_params, dtype=torch.float64)
    slopes = [(operator.gradient(1e-5 * e) - operator.gradient(-1e-5 * e)) / 2e-5 for e in unit]
    torch.testing.assert_close(operator.matmat(unit), torch.stack(slopes, 1), rtol=0, atol=1e-8)


def test_second_derivatives_that_are_not_symmetric_end_the_fit_at_its_start(monkeypatch):
    monkeypatch.delitem(EQUIVALENTS, torch._weight_norm)  # torch 2.14's own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        project = Project(network(lambda: nn.utils.weight_norm(nn.Linear(6, 5)), nn.Tanh, lambda: nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="module: its second derivatives are not symmetric"):
        fit(project, hessian())
    assert project.steps == 0
