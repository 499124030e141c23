"""Rescaled Hessians, batch sharpness, finite differences and Gauss-Newton, against dense truth and invariances."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from tests.callbacks.functional.dense import KINDS, batches, data, hessian, network
from three_factors.callbacks.functional import (
    GGNOperator,
    HessianOperator,
    RescaledHessian,
    batch_sharpness,
    finite_difference_norm,
    frobenius_norm,
    top_eigenvalues,
    trace,
)


def largest(module, scale=None):
    operator = HessianOperator(module, F.cross_entropy, data())
    return float(top_eigenvalues(operator if scale is None else RescaledHessian(operator, scale), tol=1e-9).values[0])


def refreshed(module):
    """With the running statistics of its present weights."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.reset_running_stats()
            part.momentum = None
    module.train()
    with torch.no_grad():
        module(data()[0])
    return module.eval()


def test_sharpness_in_units_of_the_filters_does_not_see_the_scale_that_batch_norm_hides():
    module = refreshed(network("batch norm"))
    module[1].eps = 1e-12
    scaled = copy.deepcopy(module)
    with torch.no_grad():
        scaled[0].weight.mul_(3)
        scaled[0].bias.mul_(3)
    refreshed(module), refreshed(scaled)
    assert largest(scaled) != pytest.approx(largest(module), rel=0.1)
    assert largest(scaled, "filter") == pytest.approx(largest(module, "filter"), rel=1e-6)


def test_adaptive_sharpness_does_not_see_the_rescaling_of_relu_units():
    module = network("relu")
    scaled = copy.deepcopy(module)
    with torch.no_grad():
        scaled[0].weight.mul_(4)
        scaled[0].bias.mul_(4)
        scaled[2].weight.div_(4)
    assert largest(scaled) != pytest.approx(largest(module), rel=0.1)
    assert largest(scaled, "adaptive") == pytest.approx(largest(module, "adaptive"), rel=1e-8)


@pytest.mark.parametrize("scale", ["filter", "tensor", "adaptive"])
def test_a_rescaled_hessian_is_d_h_d(scale):
    module = network("conv")
    operator = RescaledHessian(HessianOperator(module, F.cross_entropy, data()), scale)
    dense = operator.scale[:, None] * hessian(module) * operator.scale
    v = torch.randn(len(dense), 2, dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(v), (dense @ v).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [1, 5])
def test_a_scale_of_another_length_is_refused(length):
    operator = HessianOperator(network("tanh"), F.cross_entropy, data())
    with pytest.raises(ValueError, match=rf"scale: shape \({length},\), not \({operator.num_params},\)"):
        RescaledHessian(operator, torch.ones(length))


def test_batch_sharpness_is_its_definition():
    module, parts = network("tanh"), batches(10, 10, 10, 10)
    above = below = 0.0
    for inputs, targets in parts:
        dense = hessian(module, inputs=inputs, targets=targets)
        g = HessianOperator(module, F.cross_entropy, (inputs, targets)).gradient()
        above, below = above + float(g @ dense @ g), below + float(g @ g)
    found = batch_sharpness(HessianOperator(module, F.cross_entropy, parts))
    assert found.value == pytest.approx(above / below, rel=1e-10)
    assert found.low < found.value < found.high


def test_batch_sharpness_of_two_batches_is_refused():
    with pytest.raises(ValueError, match="batches: 2 are too few"):
        batch_sharpness(HessianOperator(network("tanh"), F.cross_entropy, batches(20, 20)))


def test_a_ragged_last_batch_is_left_out_of_batch_sharpness():
    module, parts = network("tanh"), batches(13, 13, 13, 1)
    ragged, whole = (batch_sharpness(HessianOperator(module, F.cross_entropy, part)) for part in (parts, parts[:3]))
    assert ragged == whole


def test_batches_without_a_common_size_all_count_but_for_small_ones():
    module, parts = network("tanh"), batches(14, 12, 10, 4)
    found, alike = (batch_sharpness(HessianOperator(module, F.cross_entropy, part)) for part in (parts, parts[:3]))
    assert found == alike


def test_fewer_than_three_batches_of_like_sizes_are_refused():
    message = (
        "batches: 2 of like sizes among 3 are too few .* 3 of one size, or of half the largest one's examples or more"
    )
    with pytest.raises(ValueError, match=message):
        batch_sharpness(HessianOperator(network("tanh"), F.cross_entropy, batches(18, 18, 4)))


def test_finite_differences_agree_on_smooth_networks():
    module = network("tanh")
    found = finite_difference_norm(HessianOperator(module, F.cross_entropy, data()), vectors=64)
    assert found.low <= float(hessian(module).norm()) <= found.high
    assert found.r == 1e-6


def test_finite_differences_on_relu_networks_depend_on_the_step():
    """Kinks: gradients jump, so smaller steps see larger 'curvature': (ratio² - 1) ∝ 1/step."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).double()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    operator = HessianOperator(module, F.cross_entropy, (inputs, data(200)[1]))
    exact = frobenius_norm(operator, tol=0.02).value
    excess = {r: (finite_difference_norm(operator, r=r, vectors=64).value / exact) ** 2 - 1 for r in (1e-3, 1e-2, 0.1)}
    assert excess[0.1] > 0.5
    assert excess[1e-3] / excess[1e-2] == pytest.approx(10, rel=0.3)
    assert excess[1e-2] / excess[0.1] == pytest.approx(10, rel=0.4)


@pytest.mark.parametrize(("options", "message"), [({"r": 0.0}, "r: 0.0 is not"), ({"vectors": 1}, "vectors: 1 give")])
def test_bad_steps_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        finite_difference_norm(HessianOperator(network("tanh"), F.cross_entropy, data()), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gauss_newton_operator_is_dense_gauss_newton_and_fisher(kind):
    module, inputs = network(kind).eval(), data()[0]
    names = list(dict(module.named_parameters()))
    jacobian = torch.func.jacrev(lambda p: functional_call(module, p, (inputs,)))(
        {k: v.detach() for k, v in module.named_parameters()}
    )
    rows = torch.cat([jacobian[n].reshape(len(inputs), 4, -1) for n in names], 2)
    p = module(inputs).softmax(1).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    dense = torch.einsum("bcq,bcd,bdr->qr", rows, curvature, rows) / len(inputs)
    operator = GGNOperator(module, F.cross_entropy, batches(25, 15))
    v = torch.randn(operator.num_params, 2, dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(v), dense @ v, rtol=1e-9, atol=1e-12)
    found = trace(operator, tol=0.1)
    assert found.low <= float(dense.trace()) <= found.high
