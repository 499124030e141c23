"""Gradients and curvatures are derivatives of the losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from three_factors.reproduce.theory.potentials import SWITCH, DoubleWell, Quadratic, Quartic

POTENTIALS = {
    "quadratic, q = 1": Quadratic(((2.5,),)),
    "quadratic, q = 3": Quadratic(((2.0, 0.3, -0.1), (0.3, 1.0, 0.2), (-0.1, 0.2, 0.5))),
    "quartic": Quartic(0.7, 1.3),
    "double well, q = 1": DoubleWell(0.45, -0.1),
    "double well, q = 3": DoubleWell(0.6, -0.2, (0.5, 2.0), (4.0, 1.0)),
}
WELLS = [p for p in POTENTIALS.values() if isinstance(p, DoubleWell)]
each = pytest.mark.parametrize("potential", POTENTIALS.values(), ids=POTENTIALS)


def points(dim):
    return arrays.arrays(float, (4, dim), elements=st.floats(-2, 2))


def in_torch(potential, theta):
    """The same loss, written a second time after its docstring."""
    if isinstance(potential, Quadratic):
        h = torch.tensor(potential.hessian, dtype=theta.dtype)
        return torch.einsum("ci,ij,cj->c", theta, h, theta) / 2
    if isinstance(potential, Quartic):
        return potential.stiffness * theta[:, 0] ** 2 / 2 + potential.quartic * theta[:, 0] ** 4 / 4
    x, y = theta[:, 0], theta[:, 1:]
    a, b = (torch.tensor(k, dtype=theta.dtype) for k in (potential.stiffness_a, potential.stiffness_b))
    k = a + (b - a) * torch.sigmoid(x / SWITCH)[:, None]
    return potential.barrier * (x**2 - 1) ** 2 + potential.tilt * x + (k * y**2).sum(dim=1) / 2


@each
@settings(max_examples=25)
@given(data=st.data())
def test_the_gradient_is_autograds_of_the_loss(potential, data):
    theta = data.draw(points(potential.dim))
    tensor = torch.tensor(theta, requires_grad=True)
    loss = in_torch(potential, tensor)
    (expected,) = torch.autograd.grad(loss.sum(), tensor)
    np.testing.assert_allclose(potential.loss(theta), loss.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(potential.gradient(theta), expected, rtol=1e-11, atol=1e-11)


@each
@settings(max_examples=25)
@given(data=st.data())
def test_the_gradient_is_the_losss_finite_difference(potential, data):
    theta, step = data.draw(points(potential.dim)), 1e-5
    for i, direction in enumerate(np.eye(potential.dim) * step):
        difference = (potential.loss(theta + direction) - potential.loss(theta - direction)) / (2 * step)
        np.testing.assert_allclose(potential.gradient(theta)[:, i], difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("potential", WELLS, ids=repr)
def test_at_its_minima_and_its_top_a_double_well_is_flat_and_as_curved_as_it_says(potential):
    for x, sign in ((potential.minima[0], 1), (potential.top, -1), (potential.minima[1], 1)):
        theta = torch.tensor([[x, *[0.0] * (potential.dim - 1)]], dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda t: in_torch(potential, t).sum(), theta)
        assert np.abs(potential.gradient(theta.numpy())).max() < 1e-12
        determinant = torch.linalg.det(hessian.reshape(potential.dim, potential.dim)).item()
        assert np.sign(determinant) == sign
        assert potential.determinant(x) == pytest.approx(determinant, rel=1e-9)
    assert potential.minima[0] < potential.top < potential.minima[1]


@pytest.mark.parametrize("potential", [p for p in POTENTIALS.values() if not isinstance(p, DoubleWell)], ids=repr)
def test_the_others_have_the_curvature_they_name_at_the_origin(potential):
    theta = torch.zeros(1, potential.dim, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda t: in_torch(potential, t).sum(), theta)
    expected = potential.matrix if isinstance(potential, Quadratic) else potential.stiffness
    np.testing.assert_allclose(
        hessian.reshape(potential.dim, potential.dim), np.reshape(expected, (potential.dim,) * 2)
    )


@pytest.mark.parametrize("potential", WELLS, ids=repr)
def test_a_double_well_far_away_has_a_finite_gradient_and_warns_of_nothing(potential):
    far = np.array([[-1e30, *[1e30] * (potential.dim - 1)], [1e30, *[-1e30] * (potential.dim - 1)]])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(potential.gradient(far)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic(((1.0, 2.0), (2.0, 1.0))), r"hessian: \(\(1.0, 2.0\), .* positive definite"),
        (lambda: Quadratic(((1.0, 0.5), (0.0, 1.0))), "hessian: .* is not symmetric"),
        (lambda: Quadratic(((1.0, 0.0),)), "hessian: .* is not symmetric"),
        (lambda: Quadratic(((float("nan"),),)), "hessian: .*nan.* is not finite"),
        (lambda: Quartic(quartic=-1.0), "quartic: -1.0 leaves no single minimum"),
        (lambda: Quartic(0.0, 0.0), "stiffness: 0.0 leaves no single minimum"),
        (lambda: Quartic(float("inf")), "stiffness: inf is not finite"),
        (lambda: DoubleWell(1.0, -2.0), "tilt: -2.0 leaves a single minimum at barrier 1.0"),
        (lambda: DoubleWell(-1.0, 0.0), "tilt: 0.0 leaves a single minimum at barrier -1.0"),
        (lambda: DoubleWell(1.0, 0.0, (1.0,), ()), r"stiffness_a, stiffness_b: \(1.0,\), \(\) are not positive pairs"),
        (lambda: DoubleWell(1.0, 0.0, (1.0,), (0.0,)), "stiffness_a, stiffness_b: .* are not positive pairs"),
        (lambda: DoubleWell(1.0, 0.0, (1.0,), (float("nan"),)), "stiffness_b: .*nan.* is not finite"),
    ],
)
def test_a_bad_field_is_refused_by_name_and_value_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
