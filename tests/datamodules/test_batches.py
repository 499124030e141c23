"""The epoch plan follows the schedule, covers each example at most once, and splits evenly over ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from three_factors.datamodules.batches import (
    EvaluationLoader,
    PlannedBatchSampler,
    PlannedLoader,
    plan_of,
)
from three_factors.datamodules.plan import check_batch_size, plan_epoch
from three_factors.datamodules.schedules import Constant, Cosine, Cyclic, NoiseSchedule, Triangle, exchange

sizes = st.integers(1, 200)
schedules = st.one_of(
    st.builds(Constant, sizes),
    st.builds(Cyclic, high=sizes, low=sizes, period=st.floats(0.3, 8), phase=st.sampled_from([0, 0.25, 0.5])),
    st.builds(Triangle, high=sizes, low=sizes, period=st.floats(0.3, 8)),
)


@given(st.integers(200, 900), schedules, st.integers(0, 30), st.integers(0, 5), st.integers(1, 4), st.booleans())
@settings(max_examples=200)
def test_a_shuffled_plan_covers_each_example_once_at_most_and_follows_the_schedule(
    examples, schedule, epoch, seed, world_size, drop_last
):
    plan = plan_epoch(examples, schedule, epoch, seed=seed, world_size=world_size, drop_last=drop_last)
    assert len(np.unique(plan.indices)) == len(plan.indices) == plan.edges[-1] <= examples
    for batch, size in enumerate(plan.sizes):
        wanted = max(round(schedule(epoch + plan.edges[batch] / examples)), world_size)
        assert size == wanted or (batch == len(plan) - 1 and not drop_last and size < wanted)
    left = examples - plan.edges[-1]
    assert left < max(round(schedule(plan.epoch + plan.edges[-1] / examples)), world_size)


@given(st.integers(200, 500), schedules, st.integers(0, 9), st.integers(1, 5))
def test_the_parts_of_all_ranks_are_the_batch_and_differ_by_one_example_at_most(examples, schedule, epoch, ranks):
    plan = plan_epoch(examples, schedule, epoch, world_size=ranks)
    for batch in range(len(plan)):
        parts = [plan.indices[plan.shard(batch, rank, ranks)] for rank in range(ranks)]
        np.testing.assert_array_equal(np.concatenate(parts), plan.indices[plan.edges[batch] : plan.edges[batch + 1]])
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1


def test_a_plan_is_a_function_of_seed_and_epoch():
    first, again, other, later = (
        plan_epoch(100, 10, epoch, seed=seed).indices for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != later).any()


def test_sampling_with_replacement_draws_every_example_equally_often():
    plans = [plan_epoch(50, 10, epoch, sampling="replacement").indices for epoch in range(400)]
    counts = np.bincount(np.concatenate(plans), minlength=50)
    assert len(np.unique(plans[0])) < 50
    assert abs(counts - 400).max() < 6 * 400**0.5


def test_the_exchange_of_a_rate_that_reaches_zero_is_clipped_to_the_training_set():
    schedule = exchange(NoiseSchedule(Cosine(0.1, 0, epochs=5), 32)).batch_size
    plan = plan_epoch(1000, check_batch_size(schedule, 1000), epoch=5)
    assert plan.sizes.tolist() == [1000]
    assert plan_epoch(1000, schedule, 5, max_batch_size=250).sizes.tolist() == [250] * 4


def test_the_loader_yields_the_planned_examples():
    inputs, targets = torch.arange(60.0).view(60, 1), torch.arange(60)
    plan = plan_epoch(60, Cyclic(high=30, low=6, period=2), epoch=1)
    loader = PlannedLoader(inputs, targets, plan)
    seen = list(loader)
    assert len(loader) == len(seen) == 10
    assert torch.equal(torch.cat([y for _, y in seen]), torch.from_numpy(plan.indices))
    assert all(torch.equal(x.squeeze(1), y.float()) for x, y in seen)


def test_the_batch_sampler_gives_any_dataloader_the_same_batches():
    dataset = TensorDataset(torch.arange(80))
    schedule = Triangle(high=20, low=4, period=2)
    for rank in range(2):
        sampler = PlannedBatchSampler(80, schedule, epoch=3, seed=5, rank=rank, world_size=2)
        loader = DataLoader(dataset, batch_sampler=sampler)
        plan = plan_epoch(80, schedule, 3, seed=5, world_size=2)
        assert plan_of(loader) is sampler.plan
        expected = [plan.indices[plan.shard(b, rank, 2)].tolist() for b in range(len(plan))]
        assert [batch[0].tolist() for batch in loader] == expected
    sampler.set_epoch(4)
    assert sampler.plan.epoch == 4


def test_a_plan_of_another_kind_is_none_of_ours():
    loader = SimpleNamespace(plan=SimpleNamespace(edges=[0, 10, 20]))
    assert plan_of(loader) is None


def planned(**options):
    return PlannedLoader(torch.zeros(20, 1), torch.zeros(20), plan_epoch(20, 10, 0), **options)


def sampled(**options):
    return PlannedBatchSampler(20, 10, **options)


def evaluated(**options):
    return EvaluationLoader(torch.zeros(20, 1), torch.zeros(20), 10, **options)


@pytest.mark.parametrize("make", [planned, sampled, evaluated])
@pytest.mark.parametrize(("rank", "world_size"), [(3, 2), (2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_none_of_the_ranks_is_refused(make, rank, world_size):
    with pytest.raises(ValueError, match=f"^rank: {rank} is not one of world_size={world_size}"):
        make(rank=rank, world_size=world_size)


def test_a_rank_without_others_is_refused_once_batches_are_asked_for():
    with pytest.raises(ValueError, match=r"^rank: 1 is not one of world_size=1"):
        next(iter(sampled(rank=1)))  # not before: the others may be there later


@pytest.mark.parametrize("make", [planned, sampled])
@pytest.mark.parametrize("start", [-1, 3])
def test_a_start_past_the_epochs_end_or_before_its_beginning_is_refused(make, start):
    with pytest.raises(ValueError, match=f"^start: {start} is no batch of epoch 0, which has 2$"):
        make(start=start)


def test_a_negative_seed_is_named():
    with pytest.raises(ValueError, match=r"^seed: -1 is negative$"):
        sampled(seed=-1)


def test_an_epoch_may_start_at_its_end():
    assert [*planned(start=2), *sampled(start=2)] == []


def test_evaluation_in_batches_of_no_example_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size: 0 is less than one example$"):
        EvaluationLoader(torch.zeros(20, 1), torch.zeros(20), 0)


def test_evaluation_of_no_example_has_no_batch():
    loader = EvaluationLoader(torch.zeros(0, 1), torch.zeros(0), 10)
    assert (len(loader), list(loader)) == (0, [])


def test_evaluation_covers_every_example_once_over_all_ranks():
    targets = torch.arange(103)
    seen = [y for rank in range(3) for _, y in EvaluationLoader(targets, targets, 10, rank=rank, world_size=3)]
    assert torch.equal(torch.cat(seen), targets)


@pytest.mark.parametrize(
    ("batch_size", "examples", "devices", "words"),
    [
        (500, 100, 1, "batch_size: 500 is larger than the training set of 100"),
        (Cyclic(640, 32, 4), 320, 1, "batch_size: 640 is larger"),
        (1, 100, 2, "batch_size: 1 is less than one example on each of 2 devices"),
        ("many", 100, 1, "batch_size: 'many'"),
    ],
)
def test_batch_sizes_that_cannot_be_followed_are_refused(batch_size, examples, devices, words):
    with pytest.raises(ValueError, match=words):
        check_batch_size(batch_size, examples, devices)
