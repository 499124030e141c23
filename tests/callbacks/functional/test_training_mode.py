"""The Hessian in train mode, batch norm over each batch: against dense ones that are made another way."""

import pytest
import torch
from torch.autograd.functional import hessian as dense_of
from torch.func import functional_call
from torch.nn import functional as F

from tests.callbacks.functional.dense import batches, network
from three_factors.callbacks import HessianMonitor
from three_factors.callbacks.functional import HessianOperator, batch_sharpness, top_eigenvalues, trace
from three_factors.lightning_modules import MLP


def dense(module, batch):
    """∇ and ∇² of one batch's loss in train mode, (q,) and (q, q)."""
    given = {name: p.detach() for name, p in module.named_parameters()}
    lengths, shapes = [p.numel() for p in given.values()], [p.shape for p in given.values()]
    buffers = {name: b.clone() for name, b in module.named_buffers()}

    def loss(flat):
        tensors = {k: x.view(s) for k, x, s in zip(given, flat.split(lengths), shapes)}
        return F.cross_entropy(functional_call(module, tensors | buffers, (batch[0],)), batch[1])

    module.train()
    flat = torch.cat([p.reshape(-1) for p in given.values()])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    found = gradient, dense_of(loss, flat)
    module.load_state_dict(buffers, strict=False)  # what the passes have written
    return found


def ghost_network():
    torch.manual_seed(0)
    return MLP(hidden=(6,), batch_norm=True, ghost_batch_size=4, in_features=8, num_classes=4).double()


@pytest.fixture(params=["batch norm", "conv", "ghosts"])
def module(request):
    return ghost_network() if request.param == "ghosts" else network(request.param)


@pytest.mark.slow
def test_it_is_the_mean_of_the_batches_own_hessians(module):
    given = batches(12, 12, 8)
    matrices = [dense(module, batch)[1] for batch in given]
    expected = sum(len(batch[1]) / 32 * matrix for batch, matrix in zip(given, matrices))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    operator = HessianOperator(module, F.cross_entropy, given, training=True)
    found = operator.matmat(torch.eye(operator.num_params, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    top = top_eigenvalues(operator, 2, 1e-8).values
    torch.testing.assert_close(top, torch.linalg.eigvalsh(expected).flip(0)[:2], rtol=1e-6, atol=0)
    assert trace(operator, 0.01, max_products=2_000).value == pytest.approx(float(expected.trace()), rel=0.05)


def test_batch_sharpness_is_that_of_the_dense_matrices(module):
    given = batches(12, 12, 12, 12)
    parts = [dense(module, batch) for batch in given]
    curved = sum(float(g @ h @ g) for g, h in parts)
    expected = curved / sum(float(g @ g) for g, _ in parts)
    operator = HessianOperator(module, F.cross_entropy, given, training=True)
    assert batch_sharpness(operator).value == pytest.approx(expected, rel=1e-9)
    in_eval_mode = batch_sharpness(HessianOperator(module, F.cross_entropy, given)).value
    assert in_eval_mode != pytest.approx(expected, rel=1e-3)


def test_a_monitor_measures_it_under_a_name_of_its_own():
    module, given = ghost_network(), batches(12, 12, 12)
    monitor = HessianMonitor(measures=("top_eigenvalue", "batch_sharpness"), training=True, batch_size=12)
    found = monitor.measure(module, given, lr=0.5)
    operator = HessianOperator(module, F.cross_entropy, given, training=True)
    wanted = batch_sharpness(operator).value
    assert found["training_hessian/batch_sharpness"] == pytest.approx(wanted)
    assert found["training_hessian/lr_batch_sharpness"] == pytest.approx(0.5 * wanted)
    top = float(top_eigenvalues(operator).values[0])
    assert found["training_hessian/lr_top_eigenvalue"] == pytest.approx(0.5 * top, rel=1e-3)


def test_several_ranks_are_refused(monkeypatch):
    monkeypatch.setattr("three_factors.callbacks.functional.hessian_operator.distributed", lambda: True)
    with pytest.raises(ValueError, match="training: the Hessian in train mode is measured in one process"):
        HessianOperator(ghost_network(), F.cross_entropy, batches(12), training=True)
