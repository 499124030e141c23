"""A11: parameters that are complex, sparse, without values, or of several precisions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.strangers.projects import data, network
from three_factors.callbacks.functional import HessianOperator, gradient_noise, interpolate


class Phases(nn.Module):
    """A complex weight, as in spectral layers."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(6, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(2)))
        self.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        return (x.to(torch.complex128) @ self.turn).abs() + self.bias


def test_a_complex_weight_goes_along_a_line_with_both_its_parts():
    module, (x, y) = Phases(), data()
    start = {k: v.clone() for k, v in module.state_dict().items()}
    end = {"turn": start["turn"] * 1j + 0.5, "bias": start["bias"] + 1}
    found = interpolate(module, F.cross_entropy, (x, y), start, end, alphas=[0, 0.5, 1])
    middle = ((x.to(torch.complex128) @ (start["turn"] + end["turn"]) / 2).abs()) + 0.5
    assert found.values[1] == pytest.approx(float(F.cross_entropy(middle, y)))
    shift = torch.cat([torch.view_as_real(end["turn"] - start["turn"]).flatten(), torch.ones(3)])
    assert found.distance == pytest.approx(float(shift.norm()))


@pytest.mark.parametrize(
    "measure",
    [
        lambda m, b, **o: HessianOperator(m, F.cross_entropy, b, **o).num_params,
        lambda m, b, **o: gradient_noise(m, F.cross_entropy, b, **o).num_params,
    ],
)
def test_a_complex_weight_is_refused_by_name_where_it_has_no_measure(measure):
    with pytest.raises(ValueError, match="params: 'turn' is complex"):
        measure(Phases(), data())
    assert measure(Phases(), data(), params=["bias"]) == 3


def test_sparse_gradients_are_those_of_a_dense_embedding():
    words, y = torch.randint(0, 7, (24, 4), generator=torch.Generator().manual_seed(0)), data()[1]
    dense, sparse = (
        nn.Sequential(nn.Embedding(7, 3, sparse=s), nn.Flatten(), nn.Linear(12, 3)).double() for s in (False, True)
    )
    sparse.load_state_dict(dense.state_dict())
    for estimator in ("loop", "batch_means"):
        split = [(words[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)]
        found = [gradient_noise(m, F.cross_entropy, split, estimator=estimator).value for m in (dense, sparse)]
        assert found[1] == pytest.approx(found[0])
    v = torch.ones(sum(p.numel() for p in dense.parameters()), dtype=torch.float64)
    truth = HessianOperator(dense, F.cross_entropy, (words, y)).matvec(v)
    torch.testing.assert_close(HessianOperator(sparse, F.cross_entropy, (words, y)).matvec(v), truth)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.Linear(6, 3, device="meta")])
def test_parameters_without_values_are_refused_by_name(make):
    with pytest.raises(ValueError, match=r"'0.weight' is (not initialised yet|sharded or without storage)"):
        HessianOperator(nn.Sequential(make()), F.cross_entropy, data())


def test_parameters_of_several_precisions_are_measured_in_the_finest():
    module, (x, y) = network(), data()
    truth = HessianOperator(module, F.cross_entropy, (x, y))
    mixed = network()
    mixed[0].to(torch.bfloat16)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mixed

        def forward(self, x):
            return mixed[2](mixed[1](mixed[0](x.to(mixed[0].weight.dtype))).to(mixed[2].weight.dtype))

    found = HessianOperator(Mixed(), F.cross_entropy, (x, y))
    assert found.dtype == torch.float64
    v = torch.ones(truth.num_params, dtype=torch.float64)
    torch.testing.assert_close(found.matvec(v), truth.matvec(v), rtol=0.05, atol=0.01)
