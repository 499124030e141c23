"""Activations that a project has written itself, as a torch.autograd.Function: torch differentiates their `backward`,
and what comes out is right only if that computes everything from what went in."""

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from tests.ranks import on_ranks
from tests.strangers.projects import Project, data, dense_hessian, network, trainer
from three_factors.callbacks import HessianMonitor
from three_factors.callbacks.functional import GGNOperator, HessianOperator, gradient_noise, trace
from three_factors.callbacks.functional.inputs import FailedElsewhere


class Thrifty(torch.autograd.Function):
    """x σ(x) which saves σ(x): a constant to torch, though the Hessian stays symmetric."""

    @staticmethod
    def forward(ctx, x):
        gate = torch.sigmoid(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx, slope):
        x, gate = ctx.saved_tensors
        return slope * (gate + x * gate * (1 - gate))


class Careful(torch.autograd.Function):
    """The same, which computes σ(x) again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return slope * (gate + x * gate * (1 - gate))


class Straight(torch.autograd.Function):
    """The sign, with the derivative of tanh: no gradient of anything."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope / torch.cosh(x) ** 2


class Lopsided(torch.autograd.Function):
    """x², whose derivative forgets that it depends on x."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return slope * 2 * x.detach()


def layer(function):
    return type(f"{function.__name__}Layer", (nn.Module,), {"forward": lambda self, x: function.apply(x)})


def project(function, last=nn.Identity):
    torch.manual_seed(0)
    return Project(network(lambda: nn.Linear(6, 5), layer(function), lambda: nn.Linear(5, 3), last))


def hessian():
    return HessianMonitor(measures=("trace",), examples=24, batch_size=12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [Thrifty, Straight, Lopsided])
def test_a_second_derivative_that_is_not_the_gradients_ends_the_fit_at_its_start(function, dtype):
    module = project(function).to(dtype)
    module.pairs = TensorDataset(*data(dtype=dtype))
    with pytest.raises(ValueError, match=rf"module: the second derivative of {function.__name__} .* is not that of"):
        trainer(hessian(), precision="64-true" if dtype is torch.float64 else "32-true").fit(module)
    assert module.steps == 0


@pytest.mark.parametrize("last", [nn.Identity, nn.ReLU, nn.Hardtanh])
def test_one_that_is_right_is_measured(last):
    module = project(Careful, last).double()
    batch = data()
    dense = dense_hessian(lambda: module.loss(module(batch[0]), batch[1]), module)
    found = HessianOperator(module, F.cross_entropy, [batch]).matmat(torch.eye(len(dense), dtype=torch.float64))
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-12)


def test_the_gauss_newton_matrix_does_without():
    batch = data()
    values = [
        float(trace(GGNOperator(project(f).double(), F.cross_entropy, [batch])).value) for f in (Thrifty, Careful)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def _of_ranks(rank, world_size):
    batch = tuple(part if rank == 0 else part[:0] for part in data())  # the other has nothing to compare with
    operator = HessianOperator(project(Thrifty).double(), F.cross_entropy, [batch])
    with pytest.raises((ValueError, FailedElsewhere), match=r"Thrifty .* is not that of its gradient|another rank"):
        operator.matvec(operator.weights())
    return True


@pytest.mark.slow
def test_ranks_end_together_where_one_finds_it():
    assert on_ranks(2, _of_ranks) == [True, True]


# -- activation checkpointing


class Thin(nn.Module):
    """Its first layer, or its first two, are computed again when a gradient is taken."""

    def __init__(self, reentrant, after):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
        self.reentrant, self.after = reentrant, after

    def forward(self, x):
        def hidden(x):
            return torch.tanh(self.first(x))

        def out(x):
            return torch.sin(self.last(x))

        if self.reentrant is None:
            return out(hidden(x))
        first, last = (hidden(x), out) if self.after else (x, lambda x: out(hidden(x)))
        return checkpoint(last, first, use_reentrant=self.reentrant)


@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["own type", "another type"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_that_are_computed_again_change_no_number(reentrant, after, dtype):
    x, y = data()
    thin, plain = Thin(reentrant, after), Thin(None, after)
    for kind in (HessianOperator, GGNOperator):
        one, other = (kind(module, F.cross_entropy, [(x, y)], dtype=dtype) for module in (thin, plain))
        unit = torch.eye(one.num_params, dtype=one.dtype)
        assert torch.equal(one.matmat(unit), other.matmat(unit))
    noise = [gradient_noise(module.train(), F.cross_entropy, [(x, y)]).value for module in (thin, plain)]
    assert noise[0] == pytest.approx(noise[1], rel=1e-12)


def test_training_computes_them_again_as_before():
    x, y = data()
    thin, calls = Thin(False, True), []
    thin.last.register_forward_hook(lambda *_: calls.append(1))
    HessianOperator(thin, F.cross_entropy, [(x, y)]).matvec(torch.ones(53, dtype=torch.float64))
    calls.clear()
    F.cross_entropy(thin(x), y).backward()
    assert len(calls) == 2


# -- what is said where there is no second derivative


def test_a_loss_without_one_is_said_to_have_none():
    def ctc(output, target):
        rows = output.log_softmax(1)[:, None].expand(-1, 2, -1)
        return F.ctc_loss(rows, torch.tensor([[1, 2], [2, 1]]), torch.tensor([24, 24]), torch.tensor([2, 2]))

    operator = HessianOperator(network(), ctc, [data()], reduction="batch")
    with pytest.raises(ValueError, match=r"^loss: it has no second derivative in torch .*; measures=.'finite_diff"):
        operator.matvec(operator.weights())


class Once(torch.autograd.Function):
    """tanh, with a backward that torch may not differentiate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (y,) = ctx.saved_tensors
        return slope * (1 - y**2)


@pytest.mark.parametrize("kind", ["loss", "batch_loss"])
def test_only_what_does_without_is_recommended(kind):
    f = {"loss": F.cross_entropy, "batch_loss": lambda m, b: F.cross_entropy(m(b[0]), b[1])}[kind]
    operator = HessianOperator(project(Once).double(), **{"loss": None, "batches": [data()], kind: f})
    with pytest.raises(ValueError, match=r"^module: .* has no second derivative in torch; ") as refused:
        operator.matvec(operator.weights())
    assert ("GGNOperator" in str(refused.value)) == (kind == "loss")
