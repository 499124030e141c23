"""A stack's members are networks of their own: outputs, derivatives, running statistics and steps are each one's."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from three_factors.callbacks.functional import HessianOperator
from three_factors.lightning_modules.mlp import MLPNet
from three_factors.lightning_modules.stack import StackedLinear, StackedMLP, StackedSGD, flat

SHAPES = {
    "plain": partial(MLPNet, hidden=(7, 5), in_features=6, num_classes=3),
    "batch norm": partial(MLPNet, hidden=(7, 5), in_features=6, num_classes=3, batch_norm=True),
    "ghosts": partial(MLPNet, hidden=(7,), in_features=6, num_classes=3, batch_norm=True, ghost_batch_size=4),
    "linear": partial(MLPNet, hidden=(), in_features=6, num_classes=3),
}


def made(shape, members=3):
    nets = []
    for seed in range(members):
        torch.manual_seed(seed)
        nets.append(SHAPES[shape]().double())
    return nets, StackedMLP(nets)


def drawn(members=3, size=14):
    generator = torch.Generator().manual_seed(9)
    images = torch.randn(members, size, 6, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 3, (members, size), generator=generator)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_gradients_and_running_statistics_are_each_members_own(shape, training):
    nets, stack = made(shape)
    images, labels = drawn()
    stack.train(training)
    for _ in range(2):  # the second in other running statistics
        logits = stack(images)
        losses = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels)])
        gradients = flat(torch.autograd.grad(losses.sum(), list(stack.parameters())))
        for i, net in enumerate(nets):
            net.train(training)
            own = net(images[i])
            torch.testing.assert_close(logits[i], own)
            wanted = torch.autograd.grad(F.cross_entropy(own, labels[i]), list(net.parameters()))
            torch.testing.assert_close(gradients[i], torch.cat([g.flatten() for g in wanted]))
            for (name, found), value in zip(stack.member(i).items(), net.state_dict().values(), strict=True):
                torch.testing.assert_close(found, value, msg=name)


def of_a_layer(members=2):
    """A stacked layer as a function of inputs, weight and bias, and those."""
    torch.manual_seed(0)
    layer = StackedLinear([torch.nn.Linear(4, 3).double() for _ in range(members)])

    def of(inputs, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (inputs,)).tanh()

    inputs = torch.randn(members, 5, 4, dtype=torch.float64)
    return of, [t.detach().requires_grad_() for t in (inputs, layer.weight, layer.bias)]


def test_derivatives_of_every_order_are_right_and_lie_in_memory_as_the_weights_do():
    of, tensors = of_a_layer()
    assert torch.autograd.gradcheck(of, tensors, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(of, tensors, check_batched_grad=True)
    first = torch.autograd.grad(of(*tensors).square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(first, tensors, [torch.randn_like(g) for g in first], create_graph=True)
    third = torch.autograd.grad(second, tensors, [torch.randn_like(g) for g in second])
    assert all(of_order[1].stride() == tensors[1].stride() for of_order in (first, second, third))


@pytest.mark.parametrize("frozen", range(3))
def test_what_is_frozen_has_no_derivative_and_may_change(frozen):
    of, tensors = of_a_layer()
    free = [t for i, t in enumerate(tensors) if i != frozen]
    wanted = torch.autograd.grad(of(*tensors).square().sum(), free)
    tensors[frozen].requires_grad_(False)
    assert all(map(torch.equal, torch.autograd.grad(of(*tensors).square().sum(), free), wanted))


def test_the_first_layers_weights_may_change_before_its_derivative_is_taken():
    of, (inputs, weight, bias) = of_a_layer()
    output = of(inputs.detach(), weight, bias).sum()
    wanted = torch.autograd.grad(output, weight, retain_graph=True)[0]
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(torch.autograd.grad(output, weight)[0], wanted)


def test_torchs_transforms_and_autocast_go_through_a_layer():
    of, tensors = of_a_layer()
    inputs, weight, bias = (t.detach() for t in tensors)

    def loss(weight):
        return of(inputs, weight, bias).square().sum()

    wanted = torch.autograd.grad(loss(tensors[1]), tensors[1])[0]
    torch.testing.assert_close(torch.func.grad(loss)(weight), wanted)
    torch.testing.assert_close(torch.func.jacfwd(loss)(weight), wanted)
    dense = torch.autograd.functional.hessian(loss, weight)
    torch.testing.assert_close(torch.func.hessian(loss)(weight), dense)
    many = torch.func.vmap(of, (0, None, None))(torch.stack([inputs, 2 * inputs]), weight, bias)
    torch.testing.assert_close(many[1], of(2 * inputs, weight, bias))
    weight = weight.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = of(inputs.float(), weight, bias.float()).square().sum()
    torch.testing.assert_close(torch.autograd.grad(output, weight)[0].double(), wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("training", [False, True])
def test_the_operator_of_one_network_takes_a_stack_of_many(training):
    stack = made("plain", members=6)[1]
    images, labels = drawn(members=6)

    def loss(module, batch):
        return F.cross_entropy(module(batch[0]).flatten(0, 1), batch[1].flatten())

    operator = HessianOperator(stack, None, [(images, labels)], batch_loss=loss, reduction="batch", training=training)
    direction = torch.randn(operator.num_params, dtype=torch.float64)
    step = 1e-6 * direction
    moved = (operator.gradient(step) - operator.gradient(-step)) / 2e-6
    torch.testing.assert_close(operator.matvec(direction), moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_members_step_as_torchs_sgd_does(shape):
    nets, stack = made(shape)
    lr, momentum, decay = (
        torch.tensor(of, dtype=torch.float64) for of in ([0.1, 0.3, 0.02], [0, 0.9, 0.5], [0.1, 0, 0])
    )
    ours = StackedSGD(stack.parameters(), momentum, decay)
    theirs = [
        torch.optim.SGD(net.parameters(), lr=float(lr[i]), momentum=float(momentum[i]), weight_decay=float(decay[i]))
        for i, net in enumerate(nets)
    ]
    for _ in range(4):
        images, labels = drawn()
        loss = sum(F.cross_entropy(*pair) for pair in zip(stack(images), labels))
        ours.step(list(stack.parameters()), torch.autograd.grad(loss, list(stack.parameters())), lr)
        for net, optimizer, x, y in zip(nets, theirs, images, labels):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    for i, net in enumerate(nets):
        for found, value in zip(stack.member(i).values(), net.state_dict().values(), strict=True):
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


def test_those_that_are_kept_go_on_as_they_were():
    images, labels = drawn()
    momentum, decay, lr = (
        torch.tensor(of, dtype=torch.float64) for of in ([0.9, 0, 0.5], [0, 0, 0.1], [0.1, 0.2, 0.3])
    )

    def trained(kept):
        """Weights after a step of all, and one of those that are kept from then on."""
        stack = made("batch norm")[1]
        sgd = StackedSGD(stack.parameters(), momentum, decay)
        for chosen in ([0, 1, 2], kept):
            if len(chosen) < 3:
                stack.keep(chosen)
                sgd.keep(chosen)
            loss = sum(F.cross_entropy(*pair) for pair in zip(stack(images[chosen]), labels[chosen]))
            sgd.step(list(stack.parameters()), torch.autograd.grad(loss, list(stack.parameters())), lr[chosen])
        return stack

    some, all_ = trained([2, 0]), trained([0, 1, 2])
    assert some.members == 2
    for place, member in enumerate((2, 0)):
        for found, value in zip(some.member(place).values(), all_.member(member).values(), strict=True):
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-14)


def test_a_member_that_is_not_finite_leaves_the_others_alone():
    stack = made("batch norm")[1]
    with torch.no_grad():
        next(stack.parameters())[1].fill_(float("nan"))
    images, labels = drawn()
    losses = torch.stack([F.cross_entropy(*pair) for pair in zip(stack(images), labels)])
    gradients = flat(torch.autograd.grad(losses.sum(), list(stack.parameters())))
    assert losses.isfinite().tolist() == [True, False, True]
    assert gradients.isfinite().all(1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("ghost_batch_size", 4, "None and 4"), ("eps", 1e-3, "1e-05 and 0.001"), ("momentum", None, "0.1 and None")],
)
def test_members_whose_batch_norms_differ_are_refused(name, value, words):
    nets = [SHAPES["batch norm"]() for _ in range(3)]
    setattr(nets[2].layers[1], name, value)
    with pytest.raises(ValueError, match=f"^members: {name} {words} in one stack$"):
        StackedMLP(nets)


def test_networks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        StackedMLP([SHAPES["plain"](), SHAPES["linear"]()])
    with pytest.raises(ValueError, match="members: none"):
        StackedMLP([])
