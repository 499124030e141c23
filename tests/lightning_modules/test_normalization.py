"""Batch norm over ranks is that of the whole batch; ghosts are normalised apart; behind a convolution it is folded."""

from unittest import mock

import pytest
import torch
import torch.fx
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from tests.ranks import on_ranks
from three_factors.lightning_modules import normalization
from three_factors.lightning_modules.normalization import BatchNorm1d, BatchNorm2d, Layers, normalised
from three_factors.lightning_modules.resnet import ResNet56Net
from three_factors.lightning_modules.vgg import VGG11Net


def forward_backward(norm, inputs, weights):
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    (output * weights).sum().backward()
    return output.detach(), inputs.grad


def one_rank(rank, world_size, dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = 100 + torch.randn(11, 3, 4, 4, generator=generator, dtype=dtype)  # a mean far from 0
    weights = torch.randn(11, 3, 4, 4, generator=generator, dtype=dtype)
    part = slice(11 * rank // world_size, 11 * (rank + 1) // world_size)
    norm = BatchNorm2d(3).to(dtype)
    for _ in range(2):
        output, gradient = forward_backward(norm, inputs[part], weights[part])
    return part, output, gradient, norm.weight.grad, norm.running_mean, norm.running_var


@pytest.mark.ddp
@pytest.mark.parametrize(("ranks", "dtype", "tolerance"), [(2, torch.float64, 1e-11), (3, torch.float32, 2e-3)])
def test_several_ranks_normalise_as_one(ranks, dtype, tolerance):
    (_, output, gradient, weight, mean, variance) = one_rank(0, 1, dtype)
    results = on_ranks(ranks, one_rank, dtype)
    for part, out, grad, _, running_mean, running_var in results:
        torch.testing.assert_close(out, output[part], rtol=0, atol=tolerance)
        torch.testing.assert_close(grad, gradient[part], rtol=0, atol=tolerance)
        torch.testing.assert_close(running_mean, mean, rtol=1e-5, atol=tolerance)
        torch.testing.assert_close(running_var, variance, rtol=1e-5, atol=tolerance)
    torch.testing.assert_close(sum(r[3] for r in results), weight, rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize(
    ("kind", "torchs", "shape"),
    [
        (BatchNorm2d, nn.BatchNorm2d, (12, 5, 3, 3)),
        (BatchNorm1d, nn.BatchNorm1d, (12, 5)),
    ],
)
def test_on_one_rank_it_is_torchs_in_both_modes(kind, torchs, shape):
    ours, theirs = kind(5), torchs(5)
    inputs, weights = torch.randn(shape), torch.randn(shape)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        for a, b in zip(forward_backward(ours, inputs, weights), forward_backward(theirs, inputs, weights)):
            assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))


def test_ghost_batches_are_normalised_apart():
    inputs, weights = (
        torch.randn(12, 5, 3, 3, dtype=torch.float64),
        torch.randn(12, 5, 3, 3, dtype=torch.float64),
    )
    ghost = BatchNorm2d(5, ghost_batch_size=4).double()
    output, gradient = forward_backward(ghost, inputs, weights)
    plain = nn.BatchNorm2d(5, momentum=0.1).double()
    parts = [forward_backward(plain, inputs[i : i + 4], weights[i : i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(output, torch.cat([p[0] for p in parts]))
    torch.testing.assert_close(gradient, torch.cat([p[1] for p in parts]))
    means, variances = (
        torch.stack([getattr(inputs[i : i + 4], of)((0, 2, 3)) for i in (0, 4, 8)]).mean(0) for of in ("mean", "var")
    )
    torch.testing.assert_close(ghost.running_mean, 0.1 * means)
    torch.testing.assert_close(ghost.running_var, 0.9 + 0.1 * variances)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ghosts_take_what_torchs_own_layer_takes(dtype, affine):
    inputs = 3 + torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for layers in (torch.float32, dtype):
        ghost, whole = (kind(3, affine=affine).to(layers) for kind in (BatchNorm2d, nn.BatchNorm2d))
        ghost.ghost_batch_size = 8
        torch.testing.assert_close(ghost(inputs.to(dtype)), whole(inputs.to(dtype)))
        torch.testing.assert_close(ghost.running_var, whole.running_var)


def test_a_remainder_makes_no_small_group():
    ghost = BatchNorm1d(5, ghost_batch_size=4)
    assert torch.isfinite(ghost(torch.randn(9, 5))).all()


def test_a_ghost_of_one_example_is_refused():
    with pytest.raises(ValueError, match="ghost_batch_size: 1"):
        BatchNorm2d(3, ghost_batch_size=1)


def after_a_bad_batch(rank, world_size):
    inputs = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[0, 0] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    norm, part = BatchNorm1d(3).double(), slice(12 * rank // world_size, 12 * (rank + 1) // world_size)
    norm(inputs[0, part])
    return part, norm(inputs[1, part]).detach()


@pytest.mark.ddp
def test_a_batch_that_is_not_finite_does_not_spoil_the_training_after_it_on_several_ranks():
    _, whole = after_a_bad_batch(0, 1)
    assert whole.isfinite().all()
    for part, output in on_ranks(2, after_a_bad_batch):
        torch.testing.assert_close(output, whole[part], rtol=0, atol=1e-12)


def half_precision(rank, world_size):
    norm, images = BatchNorm2d(2), torch.randn(65, 2, 32, 32, dtype=torch.float16) + 3
    output = norm(images)
    return output.dtype, output.float().mean().item(), norm.running_var


@pytest.mark.ddp
def test_half_precision_does_not_overflow_the_count_over_ranks():
    for dtype, mean, variance in on_ranks(2, half_precision):
        assert dtype == torch.float16
        assert abs(mean) < 0.01
        assert torch.isfinite(variance).all()


def test_statistics_of_ghosts_are_full_under_half_precision():
    inputs = 3 + torch.randn(32, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    layer, twin = BatchNorm2d(4, ghost_batch_size=8), torch.nn.BatchNorm2d(4)
    rounded = inputs.bfloat16()
    layer(rounded)
    parts = [rounded.float()[i : i + 8] for i in range(0, 32, 8)]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    torch.testing.assert_close(layer.running_mean, 0.1 * mean, rtol=1e-6, atol=0)
    assert layer.running_var.dtype == twin.running_var.dtype == torch.float32


def convolved(affine=True, dtype=torch.float64, **options):
    """A convolution with a batch norm that has seen something, in eval mode, and images."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 4, 3, **options).to(dtype), BatchNorm2d(4, affine=affine).to(dtype)
    norm(3 + torch.randn(6, 4, 5, 5, dtype=dtype))
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return conv, norm.eval(), torch.randn(5, 4, 6, 6, dtype=dtype)


def folds(conv, norm, images):
    """Whether two layers are one convolution, which gives what both give."""
    with mock.patch.object(normalization.F, "batch_norm", wraps=F.batch_norm) as called:
        found = normalised(conv, norm, images)
    torch.testing.assert_close(found, norm(conv(images)))
    return called.call_count == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"affine": False},
        {"affine": False, "bias": False},
        {"groups": 2, "stride": 2, "dilation": 2, "padding": 2, "padding_mode": "circular"},
        {"dtype": torch.float32, "padding": 1},
    ],
)
def test_what_is_folded_has_the_derivatives_of_both_layers(options):
    conv, norm, images = convolved(**options)
    assert folds(conv, norm, images)
    tensors = [images.requires_grad_(), *conv.parameters(), *norm.parameters()]
    found = []
    for output in (normalised(conv, norm, images), norm(conv(images))):
        first = torch.autograd.grad(output.tanh().square().sum(), tensors, create_graph=True)
        directions = [torch.ones_like(g) for g in first]
        found.append([output, *first, *torch.autograd.grad(first, tensors, directions)])
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if images.dtype == torch.float32 else {}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


LISTENING = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("listening", LISTENING)
def test_layers_that_somebody_listens_to_are_not_folded(layer, listening):
    conv, norm, images = convolved()
    calls = []
    handle = getattr((conv, norm)[layer], f"register_{listening}")(lambda *_: calls.append(1))
    normalised(conv, norm, images).sum().backward()
    assert len(calls) == 1
    handle.remove()
    handle = getattr(nn.modules.module, f"register_module_{listening}")(lambda *_: calls.append(1))  # of all modules
    normalised(conv, norm, images).sum().backward()
    handle.remove()
    assert len(calls) == 3
    assert folds(conv, norm, images)


def test_layers_that_are_changed_are_not_folded(monkeypatch):
    class Own(nn.Conv2d):
        pass

    conv, norm, images = convolved()
    assert not folds(Own(4, 4, 3).double(), norm, images)
    for change in (
        lambda conv, norm: setattr(conv, "forward", torch.zeros_like),  # as tools do that wrap layers
        lambda conv, norm: setattr(norm, "forward", torch.zeros_like),
        lambda conv, norm: nn.utils.parametrizations.weight_norm(conv),
        lambda conv, norm: nn.utils.spectral_norm(conv),
        lambda conv, norm: prune.l1_unstructured(conv, "weight", 3),
    ):
        conv, norm, images = convolved(padding=1)
        change(conv, norm)
        for layer in (conv, norm):
            layer.eval()
        assert not normalization._folds(norm, conv, images)
        assert torch.equal(normalised(conv, norm, images), norm(conv(images)))
    conv, norm, images = convolved(padding=1)
    for layer in (nn.Conv2d, BatchNorm2d):
        with monkeypatch.context() as patched:
            patched.setattr(layer, "forward", lambda self, x: torch.zeros_like(x))
            assert torch.equal(normalised(conv, norm, images), norm(conv(images)))


def test_sixteen_bits_are_not_folded():
    conv, norm, images = convolved(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert not folds(conv, norm, images)
    assert not folds(conv.bfloat16(), norm, images.bfloat16())
    assert not folds(conv, norm.bfloat16(), images.bfloat16())


def test_what_the_layers_refuse_is_refused():
    conv, norm, images = convolved()
    with pytest.raises(RuntimeError):
        normalised(conv, BatchNorm2d(1).double().eval(), images)
    with pytest.raises(ValueError, match="3 dimensions, 4 expected"):
        normalised(conv, norm, images[0])
    with pytest.raises(torch.fx.proxy.TraceError):  # the statistics of today would be constants of the graph
        torch.fx.symbolic_trace(VGG11Net(width=1 / 16).eval())


def test_a_compiled_network_sees_layers_that_are_changed_later():
    network, images = Layers(*convolved()[:2]), convolved()[2]
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images))
    network[0].forward = lambda images: images
    torch.testing.assert_close(compiled(images), network[1](images))


def test_in_train_mode_and_without_running_statistics_batch_norm_takes_the_batchs():
    conv, norm, images = convolved()
    norm.train()
    torch.testing.assert_close(normalised(conv, norm, images).mean((0, 2, 3)), norm.bias, rtol=0, atol=1e-12)
    bare = BatchNorm2d(4, track_running_stats=False).double().eval()
    assert torch.equal(normalised(conv, bare, images), bare(conv(images)))
    no_shift = BatchNorm2d(4, bias=False).double().eval()
    assert folds(conv, no_shift, images)


@pytest.mark.parametrize(
    ("network", "left"),  # batch norms that no convolution is before
    [(VGG11Net(width=1 / 16), 0), (ResNet56Net(depth=8), 4), (ResNet56Net(depth=8, form="original"), 0)],
)
def test_networks_are_folded_in_eval_mode_alone(network, left, monkeypatch):
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with mock.patch.object(F, "batch_norm", wraps=F.batch_norm) as called:
        network.double()(images)
        assert called.call_count == sum(isinstance(layer, BatchNorm2d) for layer in network.modules())
        called.reset_mock()
        folded = network.eval()(images)
        assert called.call_count == left
    monkeypatch.setattr(normalization, "_folds", lambda *_: False)
    torch.testing.assert_close(folded, network(images))
