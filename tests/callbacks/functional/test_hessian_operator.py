"""Products against dense Hessians; whatever state it is called in; the state afterwards; bad input."""

import copy
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.callbacks.functional.dense import KINDS, batches, data, hessian, network
from three_factors.callbacks.functional import GGNOperator, HessianOperator, frobenius_norm, top_eigenvalues, trace
from three_factors.callbacks.functional.inputs import flat, parted


def error(operator, dense):
    v = torch.randn(len(dense), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float(((operator.matmat(v) - dense @ v).abs().max() / (dense @ v).abs().max()).detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(40,), (16, 16, 8)], ids=["one batch", "uneven batches"])
def test_products_are_the_dense_hessians(kind, sizes):
    module = network(kind)
    operator = HessianOperator(module, F.cross_entropy, batches(*sizes))
    assert operator.num_params <= 600
    assert error(operator, hessian(module)) < 1e-10
    assert operator.products == 3


def test_sum_losses_are_summed_over_batches():
    module = network("tanh")
    operator = HessianOperator(
        module, lambda o, t: F.cross_entropy(o, t, reduction="sum"), batches(16, 16, 8), reduction="sum"
    )
    assert error(operator, 40 * hessian(module)) < 1e-10


def test_logistic_regression_has_its_closed_form():
    module, (inputs, _) = nn.Linear(8, 1, bias=False).double(), data()
    targets = (inputs[:, :1] > 0).double()
    p = torch.sigmoid(module(inputs)).detach()
    closed = inputs.T @ (p * (1 - p) * inputs) / len(inputs)
    assert error(HessianOperator(module, F.binary_cross_entropy_with_logits, (inputs, targets)), closed) < 1e-12


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
@pytest.mark.parametrize("count", [1, 2])
def test_channels_last_is_another_order_in_memory_of_the_same_products(kind, count):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten()).double()
    given = [(torch.randn(4, 3, 10, 10, dtype=torch.float64), torch.randint(0, 32, (4,))) for _ in range(count)]
    vectors = torch.randn(sum(p.numel() for p in module.parameters()), 3, dtype=torch.float64)
    wanted = kind(module, F.cross_entropy, given).matmat(vectors)
    last = copy.deepcopy(module).to(memory_format=torch.channels_last)
    assert not last[0].weight.is_contiguous()
    with mock.patch(f"{kind.__module__}.parted", wraps=parted) as pieces:
        torch.testing.assert_close(kind(last, F.cross_entropy, given).matmat(vectors), wanted, rtol=1e-10, atol=1e-12)
    assert pieces.call_count == 3 * count


def test_the_pieces_of_a_vector_lie_in_memory_as_what_they_are_like():
    like = [torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.zeros(5), torch.zeros(3, 2).T]
    vector = torch.arange(float(sum(x.numel() for x in like)))
    pieces = parted(vector, like)
    assert [p.stride() for p in pieces] == [x.stride() for x in like]
    assert torch.equal(flat(pieces, like), vector)


def test_outputs_that_no_chosen_parameter_enters_have_no_curvature():
    class Physical(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 4).double(), nn.Linear(2, 2).double()

        def forward(self, inputs):
            return self.used(inputs.requires_grad_())  # as networks do that differentiate in their inputs

    operator = GGNOperator(Physical(), F.cross_entropy, data(), params=["unused.weight"])
    assert torch.equal(operator.matvec(torch.ones(4)), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_what_does_not_hang_on_the_vector_is_differentiated_once_for_all_of_them(kind, monkeypatch):
    operator, grad, graphs = kind(network("tanh"), F.cross_entropy, batches(20, 20)), torch.autograd.grad, []

    def counted(*arguments, create_graph=False, **options):
        graphs.append(create_graph)
        return grad(*arguments, create_graph=create_graph, **options)

    operator.matvec(torch.ones(operator.num_params))  # what is tried out once is
    monkeypatch.setattr(torch.autograd, "grad", counted)
    made = []
    for columns in (1, 7):
        graphs.clear()
        operator.matmat(torch.ones(operator.num_params, columns))
        made.append((sum(graphs), len(graphs) - sum(graphs)))
    (graph, plain), (graph_of_many, plain_of_many) = made
    assert graph == graph_of_many > 0
    assert plain_of_many == 7 * plain


@pytest.mark.parametrize("source", ["tensors", "list", "loader", "generator"])
def test_batches_may_come_in_any_form(source):
    module, pair = network("relu"), data()
    given = {
        "tensors": pair,
        "list": batches(20, 20),
        "loader": DataLoader(TensorDataset(*pair), batch_size=16, shuffle=True),
        "generator": (b for b in batches(30, 10)),
    }[source]
    operator = HessianOperator(module, F.cross_entropy, given)
    assert error(operator, hessian(module)) < 1e-10
    assert error(operator, hessian(module)) < 1e-10  # the second pass sees the same examples


def test_a_layer_has_its_block_of_the_hessian():
    module = network("tanh")
    names = ["2.weight", "2.bias"]
    dense = hessian(module, names=names)
    assert error(HessianOperator(module, F.cross_entropy, data(), params=names), dense) < 1e-10
    assert error(HessianOperator(module, F.cross_entropy, data(), params=module[2].parameters()), dense) < 1e-10


def test_frozen_parameters_are_no_rows_and_unused_ones_are_rows_of_zeros():
    module = network("tanh")
    module[0].weight.requires_grad_(False)
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    assert error(HessianOperator(module, F.cross_entropy, data()), hessian(module, names=names)) < 1e-10
    module[0].register_parameter("unused", nn.Parameter(torch.ones(5, dtype=torch.float64)))
    operator = HessianOperator(module, F.cross_entropy, data())
    product = operator.matvec(torch.ones(operator.num_params, dtype=torch.float64))
    place = sum(p.numel() for n, p in module.named_parameters() if p.requires_grad and n.startswith("0.b"))
    assert product[place : place + 5].abs().sum() == 0
    assert product.abs().sum() > 0


def test_a_loss_of_the_batch_may_have_any_form():
    module = network("tanh")
    rows = [{"x": x, "y": y} for x, y in batches(25, 15)]
    operator = HessianOperator.from_batch_loss(module, lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), rows, [25, 15])
    assert error(operator, hessian(module)) < 1e-10


def test_tied_weights_are_one_row_each():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8, bias=False).double()
            self.b = nn.Linear(8, 8, bias=False).double()
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    module = Tied()
    operator = HessianOperator(module, F.cross_entropy, data())
    assert operator.num_params == 64
    assert error(operator, hessian(module)) < 1e-10


def test_float64_can_be_asked_of_a_float32_module_which_stays_float32():
    module = network("batch norm").float()
    exact = hessian(copy.deepcopy(module).double())
    inputs, targets = data()
    operator = HessianOperator(module, F.cross_entropy, (inputs.float(), targets), dtype=torch.float64)
    rounded = hessian(copy.deepcopy(module).double(), inputs=inputs.float().double(), targets=targets)
    assert error(operator, rounded) < 1e-12 < error(operator, exact)
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_measured_in_single(dtype):
    module, (inputs, targets) = network("tanh").to(dtype), data()
    operator = HessianOperator(module, F.cross_entropy, (inputs.to(dtype), targets))
    truth = HessianOperator(module, F.cross_entropy, (inputs.to(dtype), targets), dtype=torch.float64)
    v = torch.ones(operator.num_params)
    torch.testing.assert_close(operator.matvec(v).double(), truth.matvec(v.double()), rtol=1e-4, atol=1e-5)


def test_the_products_follow_weights_and_buffers_that_change():
    module = network("batch norm")
    operator = HessianOperator(module, F.cross_entropy, data())
    for change in (lambda: module[0].weight.data.mul_(1.5), lambda: module[1].running_var.mul_(3)):
        assert error(operator, hessian(module)) < 1e-10
        with torch.no_grad():
            change()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert error(operator, hessian(module)) < 1e-10


class Noisy(nn.Module):
    """Dropout and batch norm, whose modes differ."""

    def __init__(self):
        super().__init__()
        self.layers = network("batch norm")
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.layers(self.dropout(x))


def snapshot(module):
    return (
        {k: v.clone() for k, v in module.state_dict().items()},
        {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()},
        {n: p.requires_grad for n, p in module.named_parameters()},
        [m.training for m in module.modules()],
        torch.get_rng_state(),
        (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
        (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
    )


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("fails", [False, True], ids=["measured", "raised"])
def test_everything_is_left_as_it_was(fails):
    module = Noisy().train()
    module.layers[1].eval()
    F.cross_entropy(module(data()[0]), data()[1]).backward()

    def loss(output, target):
        if fails and calls:
            raise RuntimeError("no")
        calls.append(1)
        return F.cross_entropy(output, target)

    calls = []
    loader = DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True)
    torch.set_float32_matmul_precision("medium")
    before = snapshot(module)
    try:
        top_eigenvalues(HessianOperator(module, loss, loader), k=2)
        assert not fails
    except RuntimeError:
        assert fails
    after = snapshot(module)
    torch.set_float32_matmul_precision("highest")
    assert all(same(x, y) for x, y in zip(before, after))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["inference mode", "no grad", "autocast", "train mode", "stale gradient"])
def test_the_numbers_do_not_depend_on_where_it_is_called(state):
    module, dense = Noisy(), hessian(Noisy().layers)
    module.load_state_dict({f"layers.{k}": v for k, v in network("batch norm").state_dict().items()})
    largest = torch.linalg.eigvalsh(dense)[-1]
    context = {
        "inference mode": torch.inference_mode(),
        "no grad": torch.no_grad(),
        "autocast": torch.autocast("cpu", torch.bfloat16),
    }.get(state, torch.enable_grad())
    module.train(state == "train mode")
    if state == "stale gradient":
        F.cross_entropy(module(data()[0]), data()[1]).backward(create_graph=True)
    with context:
        pair = tuple(t.clone() for t in data())  # inference tensors in inference mode
        operator = HessianOperator(module, F.cross_entropy, pair)
        assert error(operator, dense) < 1e-10
        assert float(top_eigenvalues(operator, tol=1e-9).values[0]) == pytest.approx(float(largest), rel=1e-8)
        assert trace(operator).low < float(dense.trace()) < trace(operator).high
        assert frobenius_norm(operator).value == pytest.approx(float(dense.norm()), rel=0.02)
    module.zero_grad()


class Fitted(pl.LightningModule):
    """Measures in every hook that a Trainer has it in eval or inference mode."""

    def __init__(self):
        super().__init__()
        self.network, self.found = network("batch norm").float(), []

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        operator = HessianOperator(self, F.cross_entropy, [batch])
        self.found.append(operator.matvec(torch.ones(operator.num_params)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_it_works_in_a_validation_hook_and_training_goes_on():
    torch.manual_seed(0)
    module, pair = Fitted(), TensorDataset(data()[0].float(), data()[1])
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, DataLoader(pair, 20), DataLoader(pair, 40))
    assert len(module.found) == 2
    assert all(bool(torch.isfinite(found).all()) for found in module.found)
    assert not torch.equal(*module.found)


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_compiled_module_is_measured_as_the_plain_one(where):
    module = network("tanh")
    compiled = torch.compile(module, backend="aot_eager")
    given = compiled if where == "outside" else nn.Sequential(compiled)
    assert error(HessianOperator(given, F.cross_entropy, data()), hessian(module)) < 1e-10


def test_attention_is_differentiated_twice():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)

        def forward(self, x):
            x = x.view(-1, 2, 4)
            return self.layer(x, x, x, need_weights=False)[0].mean(1)

    module = Attention()
    assert error(HessianOperator(module, F.cross_entropy, data()), hessian(module)) < 1e-10


def bad(**change):
    options = {"module": network("tanh"), "loss": F.cross_entropy, "batches": data()} | change
    return HessianOperator(options.pop("module"), options.pop("loss"), options.pop("batches"), **options)


def frozen():
    return network("tanh").requires_grad_(False)


def broken():
    module = network("tanh")
    module[2].weight.data[0, 0] = float("nan")
    return module


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": lambda o, t: F.cross_entropy(o, t, reduction="none")}, r"loss: returned a tensor of shape \(40,\)"),
        ({"loss": lambda o, t: 3.0}, "loss: returned a float, not a scalar"),
        ({"loss": lambda o, t: o.detach().sum()}, "loss: does not depend on any of the chosen parameters"),
        ({"module": frozen()}, "params: no parameter of the module requires grad"),
        ({"module": broken()}, "parameters: '2.weight' holds values that are not finite"),
        ({"batches": []}, "batches: there is no example in them"),
        ({"reduction": "max"}, "reduction: 'max' is none of 'mean', 'sum', 'batch'"),
        ({"params": ["head"]}, "params: 'head' is no parameter"),
        ({"params": []}, "params: empty"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        bad(**change).matvec(torch.ones(sum(p.numel() for p in network("tanh").parameters()), dtype=torch.float64))


def test_vectors_of_another_length_are_named():
    with pytest.raises(ValueError, match=r"vectors: shape \(3, 1\), not \(282, k\)"):
        bad().matvec(torch.ones(3))
