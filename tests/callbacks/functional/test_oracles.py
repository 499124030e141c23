"""Agreement with curvlinops, and with PyHessian where that is right: one device, mean loss, nothing stale or unused."""

import copy

import curvlinops
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.callbacks.functional.dense import KINDS, batches, hessian, network
from three_factors.callbacks.functional import HessianOperator, top_eigenvalues
from three_factors.callbacks.pyhessian_backend import PyHessian


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_curvlinops(kind):
    module, pairs = network(kind).eval(), batches(25, 15)
    operator = HessianOperator(module, F.cross_entropy, pairs)
    theirs = curvlinops.HessianLinearOperator(module, nn.CrossEntropyLoss(), list(module.parameters()), pairs)
    v = torch.randn(operator.num_params, 3, dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(v), (theirs @ v).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_eigenvalues_and_trace_are_those_of_pyhessian_itself(kind):
    """Its own class on its own product, in float32, as it can; then its algorithms on our product."""
    from pyhessian import hessian as Original

    module = network(kind).float().eval()
    pairs = [(x.float(), y) for x, y in batches(25, 15)]
    torch.manual_seed(0)
    values, _ = Original(copy.deepcopy(module), F.cross_entropy, dataloader=pairs, cuda=False).eigenvalues(300, 1e-6)
    torch.manual_seed(0)
    samples = Original(copy.deepcopy(module), F.cross_entropy, dataloader=pairs, cuda=False).trace(20, 0.0)
    backend = PyHessian(HessianOperator(module, F.cross_entropy, pairs), seed=0)
    assert backend.eigenvalues(300, 1e-6)[0][0] == pytest.approx(values[0], rel=1e-3)
    assert backend.trace(20, 0.0) == pytest.approx(samples, rel=1e-3, abs=1e-3)


def test_the_backend_finds_what_lanczos_finds():
    module = network("tanh").float()
    pairs = [(x.float(), y) for x, y in batches(25, 15)]
    operator = HessianOperator(module, F.cross_entropy, pairs)
    values, vectors = PyHessian(operator).eigenvalues(maxIter=2000, tol=1e-7, top_n=2)
    found = top_eigenvalues(operator, k=2, which="magnitude")
    assert values == pytest.approx(found.values.tolist(), rel=2e-2)
    assert [p.shape for p in vectors[0]] == operator.shapes


def test_the_backend_leaves_gradients_modes_and_random_numbers_alone():
    module = network("batch norm").float().train()
    pairs = [(x.float(), y) for x, y in batches(25, 15)]
    F.cross_entropy(module(pairs[0][0]), pairs[0][1]).backward()
    before = [p.grad.clone() for p in module.parameters()]
    state = torch.get_rng_state()
    backend = PyHessian(HessianOperator(module, F.cross_entropy, pairs))
    backend.eigenvalues(maxIter=3), backend.trace(maxIter=3)
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), before))
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training


def test_its_sum_losses_and_unused_parameters_work():
    module = network("tanh").float()
    module.register_parameter("unused", nn.Parameter(torch.ones(3)))
    pairs = [(x.float(), y) for x, y in batches(25, 15)]
    operator = HessianOperator(module, lambda o, t: F.cross_entropy(o, t, reduction="sum"), pairs, reduction="sum")
    mean = np.mean(PyHessian(operator).trace(maxIter=200, tol=0.0))
    dense = hessian(network("tanh"))
    assert mean == pytest.approx(40 * float(dense.trace().detach()), abs=4 * 40 * float(dense.norm().detach()) / 10)


def test_what_cannot_run_says_what_to_use():
    operator = HessianOperator(network("tanh"), F.cross_entropy, batches(20))
    with pytest.raises(NotImplementedError, match="spectral_density"):
        PyHessian(operator).density()
