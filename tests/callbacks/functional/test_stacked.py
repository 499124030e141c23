"""Many networks measured at once: each gets what it gets alone, whatever the others are at."""

from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from tests.lightning_modules.test_stack import SHAPES
from three_factors.callbacks import GradientNoiseMonitor, HessianMonitor
from three_factors.callbacks.functional import HessianOperator, top_eigenvalues, trace
from three_factors.callbacks.functional.members import MemberGradients, together
from three_factors.callbacks.functional.stacked import StackedOperator
from three_factors.callbacks.measures import Measure
from three_factors.lightning_modules.losses import example_losses
from three_factors.lightning_modules.stack import StackedBatchNorm, StackedMLP

MEASURES = get_args(Measure)


def losses(outputs, targets):
    return example_losses("cross_entropy", outputs, targets)


def made(shape, members=3, count=4, size=12):
    nets = []
    for seed in range(members):
        torch.manual_seed(seed)
        nets.append(SHAPES[shape]().double())
    generator = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(members, size, 6, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (members, size), generator=generator),
        )
        for _ in range(count)
    ]
    return nets, StackedMLP(nets), batches


def of_member(batches, index):
    return [(x[index], y[index]) for x, y in batches]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_gradients_are_those_of_the_dense_hessians(shape, training):
    nets, stack, batches = made(shape)
    operator = StackedOperator(stack, losses, batches, training=training)
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    vectors = torch.randn(2, 3, operator.num_params, dtype=torch.float64)
    products, gradients = operator.products(vectors), operator.gradients()
    for i, net in enumerate(nets):
        single = HessianOperator(net, F.cross_entropy, of_member(batches, i), training=training)
        torch.testing.assert_close(products[:, i].T, single.matmat(vectors[:, i].T), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradients[i], single.gradient(), rtol=1e-10, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_measure_of_a_member_is_that_of_its_own_network(shape, training):
    nets, stack, batches = made(shape)
    monitor = HessianMonitor(measures=MEASURES, training=training, max_products=40)
    operator = StackedOperator(stack, losses, batches, training=training)
    found = together(operator, lambda member: monitor.measure_of(member, lr=0.1))
    for i, net in enumerate(nets):
        monitor.loss = F.cross_entropy
        wanted = monitor.measure(net, of_member(batches, i), lr=0.1)
        assert found[i].keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[i][name] == pytest.approx(value, rel=1e-9, abs=1e-10), name


@pytest.mark.slow
@pytest.mark.parametrize("alignment", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_noise_of_a_members_gradients_is_that_of_its_own_network(shape, alignment):
    nets, stack, batches = made(shape, count=6)
    monitor = GradientNoiseMonitor(alignment=alignment, loss=F.cross_entropy)
    training, evaluating = (StackedOperator(stack, losses, batches, training=mode) for mode in (True, False))
    alone = shape in ("plain", "linear")

    def noise(member):
        rows = MemberGradients(member, alone=alone)
        return monitor.values_of(rows, member.beside(evaluating) if alignment else None)

    for i, values in enumerate(together(training, noise)):
        for name, value in monitor.values(nets[i], of_member(batches, i)).items():
            assert values[name] == pytest.approx(value, rel=1e-8, abs=1e-10), name


def test_a_member_stops_when_it_has_what_it_wants_and_its_numbers_do_not_depend_on_the_others():
    nets, stack, batches = made("plain")
    operator = StackedOperator(stack, losses, batches)

    def work(tolerances):
        def of(member):
            top = top_eigenvalues(member, 1, tolerances[member.index])
            return float(top.values[0]), member.products

        return together(operator, of)

    loose, mixed = work([0.5, 0.5, 0.5]), work([0.5, 1e-10, 0.5])
    assert loose[0] == mixed[0]
    assert loose[2] == mixed[2]
    assert mixed[1][1] > loose[1][1]
    wanted = HessianOperator(nets[1], F.cross_entropy, of_member(batches, 1))
    assert mixed[1][0] == pytest.approx(float(top_eigenvalues(wanted, 1, 1e-10).values[0]), rel=1e-9)


def test_a_member_that_fails_fails_alone():
    _, stack, batches = made("plain")
    operator = StackedOperator(stack, losses, batches)

    def work(member):
        if member.index == 1:
            raise ValueError("of its own")
        return trace(member).value

    first, second, third = together(operator, work)
    assert isinstance(second, ValueError)
    assert (first, third) == tuple(together(operator, lambda member: trace(member).value, [0, 2]))


def test_what_the_stack_cannot_compute_every_member_hears():
    _, stack, batches = made("plain")
    operator = StackedOperator(stack, lambda outputs, targets: outputs.nothing, batches)
    found = together(operator, lambda member: trace(member).value)
    assert [type(error) for error in found] == [AttributeError] * 3


def test_products_are_counted_for_each_member_and_computed_once_for_all():
    _, stack, batches = made("plain")
    operator = StackedOperator(stack, losses, batches[:1])
    counts = together(operator, lambda member: (trace(member, max_products=20), member.products)[1])
    assert operator.rounds == max(counts)


def test_the_graph_of_one_batch_is_kept_until_weights_or_statistics_change():
    _, stack, batches = made("batch norm", count=1)
    operator = StackedOperator(stack, losses, batches)
    vectors = torch.randn(1, 3, operator.num_params, dtype=torch.float64)
    first = operator.products(vectors)
    kept = operator._kept
    assert kept is not None
    assert torch.equal(operator.products(vectors), first)
    assert operator._kept is kept
    for changed in (next(stack.parameters()), next(stack.buffers())):
        changed.data.add_(0.5)  # not seen by its version
        after = operator.products(vectors)
        assert not torch.equal(after, first)
        fresh = StackedOperator(stack, losses, batches)
        assert torch.equal(after, fresh.products(vectors))
        first = after


def test_a_graph_is_of_its_modes_too():
    _, stack, batches = made("batch norm", count=1)
    operator = StackedOperator(stack, losses, batches, training=True)
    vectors = torch.randn(1, 3, operator.num_params, dtype=torch.float64)
    first = operator.products(vectors)
    for part in stack.modules():
        if isinstance(part, StackedBatchNorm):
            part.eval()  # kept so in train mode, as a user's frozen statistics are
    after = operator.products(vectors)
    assert not torch.equal(after, first)
    assert torch.equal(after, StackedOperator(stack, losses, batches, training=True).products(vectors))


@pytest.mark.parametrize("fails", [False, True])
def test_no_graph_is_left_when_all_members_are_done(fails):
    _, stack, batches = made("plain", count=1)
    operator, other = (StackedOperator(stack, losses, batches, training=mode) for mode in (False, True))
    held = []

    def work(member):
        trace(member, max_products=20), trace(member.beside(other), max_products=20)
        held.append(operator._kept is not None and other._kept is not None)
        if fails:
            raise ValueError("after its products")

    together(operator, work)
    assert held == [True] * 3
    assert operator._kept is other._kept is None


def test_graphs_of_several_batches_are_not_kept():
    _, stack, batches = made("plain", count=2)
    operator = StackedOperator(stack, losses, batches)
    operator.products(torch.randn(1, 3, operator.num_params, dtype=torch.float64))
    assert operator._kept is None
