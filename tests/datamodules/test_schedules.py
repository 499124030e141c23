"""Schedules are pure functions of epoch progress, and an exchange keeps eta/S."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import three_factors.datamodules.safe_globals  # noqa: F401  # what is tested below
from three_factors.datamodules.plan import epoch_edges
from three_factors.datamodules.schedules import (
    Chain,
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Inverse,
    NoiseSchedule,
    OneCycle,
    Polynomial,
    Ratio,
    StepEvery,
    Steps,
    Triangle,
    WarmRestarts,
    bounds,
    exchange,
    known_bounds,
    round_batch_size,
    steady,
)

values = st.floats(1e-4, 1e3)
epochs = st.floats(0, 400)
lengths = st.floats(0.5, 50)
schedules = st.one_of(
    st.builds(Cyclic, high=values, low=values, period=lengths, phase=st.floats(0, 1)),
    st.builds(Triangle, high=values, low=values, period=lengths, phase=st.floats(0, 1)),
    st.builds(Polynomial, start=values, end=values, epochs=lengths, power=st.floats(0.2, 4)),
    st.builds(Exponential, start=values, end=values, epochs=lengths),
    st.builds(Cosine, start=values, end=values, epochs=lengths),
    st.builds(WarmRestarts, high=values, low=values, period=lengths, growth=st.floats(1, 3)),
    st.builds(OneCycle, start=values, peak=values, end=values, epochs=lengths, warmup=st.floats(0.1, 0.9)),
    st.builds(StepEvery, start=values, factor=st.floats(0.1, 0.9), every=lengths, limit=st.just(1e-5)),
    st.builds(lambda a, b, c: Steps((a, b, c), (3.0, 8.0)), values, values, values),
)


@given(schedules, epochs)
def test_every_value_lies_within_the_schedules_bounds(schedule, epoch):
    low, high = schedule.bounds
    assert low * (1 - 1e-12) <= schedule(epoch) <= high * (1 + 1e-12)


@given(schedules, epochs, st.integers(1, 4096))
def test_an_exchanged_learning_rate_keeps_the_noise_ratio(schedule, epoch, size):
    original = NoiseSchedule(schedule, size)
    exchanged = exchange(original)
    assert exchanged.lr(0) == exchanged.lr(epoch)  # only S varies now
    assert math.isclose(exchanged.noise_ratio(epoch), original.noise_ratio(epoch), rel_tol=1e-12)


@given(schedules, epochs, st.floats(1e-5, 1))
def test_an_exchanged_batch_size_keeps_the_noise_ratio(schedule, epoch, lr):
    low = schedule.bounds[0]
    original = NoiseSchedule(lr, Inverse(Inverse(schedule, 1.0), 2 / low))  # the schedule, scaled to S >= 2
    exchanged = exchange(original)
    assert exchanged.batch_size(0) == exchanged.batch_size(epoch)
    assert math.isclose(exchanged.noise_ratio(epoch), original.noise_ratio(epoch), rel_tol=1e-12)


@given(schedules, epochs, st.integers(1, 640), st.integers(1, 50_000))
def test_a_step_has_the_schedules_noise_ratio_whatever_whole_batch_it_gets(schedule, epoch, size, largest):
    exchanged = exchange(NoiseSchedule(schedule, size))
    got = round_batch_size(exchanged.batch_size(epoch), 1, largest)
    setting = exchanged.setting(epoch, got)
    assert 1 <= setting.batch_size <= largest
    assert math.isclose(setting.lr / setting.batch_size, schedule(epoch) / size, rel_tol=1e-12)


@given(schedules, st.integers(1, 640))
def test_exchanging_twice_gives_the_schedule_back(schedule, size):
    original = NoiseSchedule(schedule, size)
    back = exchange(exchange(original))
    assert back.lr == schedule
    assert math.isclose(back.batch_size(0), size, rel_tol=1e-12)


def test_the_papers_cyclic_pair_is_an_exchange():
    by_size = NoiseSchedule(0.005, Cyclic(high=640, low=128, period=10, phase=0.5))
    by_lr = exchange(by_size)
    assert [by_size.batch_size(t) for t in (0, 4.9, 5, 9.9, 10)] == [128, 128, 640, 640, 128]
    assert [round(by_lr.lr(t), 12) for t in (0, 4.9, 5, 9.9, 10)] == [0.005, 0.005, 0.001, 0.001, 0.005]
    assert by_lr.batch_size(7) == 128


def test_a_learning_rate_of_zero_becomes_the_largest_batch_allowed_with_eta_zero():
    exchanged = exchange(NoiseSchedule(Cosine(0.1, 0, epochs=10), 128))
    size = round_batch_size(exchanged.batch_size(10), 1, 5000)
    assert exchanged.setting(10, size) == (0.0, 5000)


@pytest.mark.parametrize("value", [math.nan, -5.0, 0.0, -math.inf])
def test_a_value_that_is_no_number_of_examples_is_not_rounded_to_one(value):
    with pytest.raises(ValueError, match=rf"^batch_size: {value!r} is no number of examples$"):
        round_batch_size(value, 1, 100)
    with pytest.raises(ValueError, match=rf"^batch_size: {value!r} is no number of examples$"):
        epoch_edges(100, lambda t: 10.0 if t < 0.5 else value, 0)


def test_the_inverse_of_nothing_is_without_bound():
    assert Inverse(Constant(0.0), 1.0).bounds == (math.inf, math.inf)
    assert Ratio(Constant(1.0), Constant(0.0), 1.0).bounds == (math.inf, math.inf)


@pytest.mark.parametrize(
    "around",
    [
        lambda s: s,
        lambda s: Inverse(s, 1.0),
        lambda s: Ratio(Constant(1.0), s, 1.0),
        lambda s: Chain((Constant(1.0), s), (1.0,)),
    ],
)
def test_a_function_inside_a_schedule_does_not_say_its_bounds(around):
    schedule = around(abs)
    assert known_bounds(schedule) is None
    with pytest.raises(ValueError, match="<built-in function abs> has no `bounds`"):
        bounds(schedule)


def test_both_varying_needs_to_be_told_which_one_stays():
    both = NoiseSchedule(Cosine(0.1, 0.01, 10), Cyclic(64, 32, 4))
    with pytest.raises(ValueError, match="to: lr and batch_size both vary"):
        exchange(both)
    for to in ("lr", "batch_size"):
        moved = exchange(both, to)
        assert all(math.isclose(moved.noise_ratio(t), both.noise_ratio(t), rel_tol=1e-12) for t in (0, 1.5, 7, 9))


@pytest.mark.parametrize(
    ("schedule", "to", "given"),
    [
        (NoiseSchedule(Cyclic(0.1, 0.01, 2), 128), None, {"batch_size": 64}),
        (NoiseSchedule(0.1, Cyclic(64, 32, 2)), None, {"lr": 0.2}),
        (NoiseSchedule(Cosine(0.1, 0.01, 10), Cyclic(64, 32, 4)), "lr", {"lr": 0.2}),
        (NoiseSchedule(0.1, 32), None, {"lr": 0.2}),
    ],
)
def test_a_value_for_what_the_exchange_does_not_hold_is_refused(schedule, to, given):
    with pytest.raises(ValueError, match=f"^{next(iter(given))}: .* was given to be held"):
        exchange(schedule, to, **given)


def test_any_function_of_the_epoch_is_a_schedule_if_the_constant_is_given():
    falling = NoiseSchedule(lambda t: 0.1 / (1 + t), 32)
    with pytest.raises(ValueError, match="bounds"):
        exchange(falling)
    assert exchange(falling, lr=0.1).batch_size(3) == pytest.approx(128)


def test_the_boundary_of_a_half_cycle_belongs_to_the_next_half():
    cycle = Cyclic(high=2, low=1, period=6)
    assert [cycle(t) for t in (0, 2.999, 3, 5.999, 6, 9, 12)] == [2, 2, 1, 1, 2, 1, 2]


@pytest.mark.parametrize("number", [np.int64(5), np.float32(5), np.float64(5), np.uint8(5)])
def test_numbers_of_numpy_are_numbers(number):
    assert NoiseSchedule(number, number) == NoiseSchedule(5, 5)
    assert Cyclic(high=number, low=number, period=number) == Cyclic(5, 5, 5)
    assert isinstance(NoiseSchedule(number, number).lr.value, int | float)
    with pytest.raises(ValueError, match=r"^Constant.value: np.True_ is not"):
        Constant(np.True_)


MADE_OF_NUMBERS = {
    "Constant": lambda n: Constant(n(4)),
    "Steps": lambda n: Steps((n(4), n(2)), (n(1),)),
    "Steps of arrays": lambda n: Steps(np.array([n(4), n(2)]), np.array([n(1)])),
    "Chain": lambda n: Chain((n(4), n(2), Constant(n(1))), (n(1), n(2))),
    "Chain of schedules": lambda n: Chain((Constant(n(4)), Constant(n(2))), (n(1),)),
    "WarmRestarts": lambda n: WarmRestarts(n(4), n(2), n(3), growth=n(2)),
    "OneCycle": lambda n: OneCycle(n(4), n(8), n(2), n(10), warmup=n(2) / n(4)),
    "Inverse": lambda n: Inverse(Constant(n(4)), n(2)),
    "Ratio": lambda n: Ratio(Constant(n(4)), Constant(n(2)), n(3)),
}


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("name", MADE_OF_NUMBERS)
def test_a_checkpoint_of_schedules_made_of_numbers_of_numpy_is_read(name, kind, tmp_path):
    made, own = (NoiseSchedule(MADE_OF_NUMBERS[name](of), of(8)) for of in (kind, float))
    torch.save(made, tmp_path / "saved.pt")
    assert torch.load(tmp_path / "saved.pt", weights_only=True) == made == own


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Steps((1.0, "low"), (3.0,)), r"Steps.values: \(1.0, 'low'\) are not all"),
        (lambda: Steps((1.0, True), (3.0,)), r"Steps.values: \(1.0, True\) are not all"),
        (lambda: Steps((1.0, 2.0), ("late",)), r"Steps.milestones: \('late',\) do not increase"),
        (lambda: WarmRestarts(1.0, 0.1, 2.0, growth="twice"), "WarmRestarts.growth: 'twice' is not"),
        (lambda: OneCycle(0.1, 1, 0, 10, warmup="short"), "OneCycle.warmup: 'short' is not"),
    ],
)
def test_what_is_no_number_is_named_wherever_one_is_taken(make, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make()


def test_a_number_in_a_chain_is_a_constant():
    chain = Chain((0.1, Cosine(0.1, 0, epochs=2)), (4.0,))
    assert chain == Chain((Constant(0.1), Cosine(0.1, 0, epochs=2)), (4.0,))
    assert [chain(t) for t in (0, 4, 6)] == pytest.approx([0.1, 0.1, 0])
    with pytest.raises(ValueError, match=r"^Chain.parts\[1\]: 'low' is neither"):
        Chain((0.1, "low"), (4.0,))


@pytest.mark.parametrize("milestones", [(math.nan,), (math.inf,)])
def test_milestones_that_never_come_are_refused(milestones):
    with pytest.raises(ValueError, match=r"^Chain.milestones: \((nan|inf),\) do not increase"):
        Chain((Constant(1.0), Constant(2.0)), milestones)
    with pytest.raises(ValueError, match=r"^Steps.milestones: \((nan|inf),\) do not increase"):
        Steps((1.0, 2.0), milestones)


def test_steps_stay_at_their_limit_however_late_it_is():
    assert [StepEvery(0.1, 2.0, 1, limit=1.0)(t) for t in (0, 3, 4, 1023, 1024, 10**6)] == [0.1, 0.8, 1, 1, 1, 1]
    assert [StepEvery(1.0, 0.5, 1, limit=0.25)(t) for t in (0, 1, 2, 1024, 10**6)] == [1, 0.5, 0.25, 0.25, 0.25]
    assert StepEvery(0.0, 2, 1, limit=1.0)(5000) == 0


@pytest.mark.parametrize(("factor", "limit"), [(0.5, 1.0), (2.0, 0.01)])
def test_a_limit_that_is_never_reached_is_refused(factor, limit):
    with pytest.raises(ValueError, match=rf"^StepEvery.limit: {limit} is never reached from 0.1 by {factor}$"):
        StepEvery(0.1, factor, 10, limit)


def test_a_chain_restarts_time_in_every_part():
    chain = Chain((Polynomial(0, 4, epochs=4), Constant(4.0), Cosine(4, 0, epochs=2)), (4.0, 6.0))
    assert [chain(t) for t in (0, 2, 5, 6, 8)] == pytest.approx([0, 2, 4, 4, 0])
    assert chain.bounds == (0, 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cyclic(1, 2, period=0), "Cyclic.period: 0"),
        (lambda: Cyclic(1, 2, period=-3), "Cyclic.period: -3"),
        (lambda: Constant(math.nan), "Constant.value: nan"),
        (lambda: Triangle(-1, 2, 3), "Triangle.high: -1"),
        (lambda: NoiseSchedule(-0.1, 32), "lr: -0.1"),
        (lambda: NoiseSchedule(math.nan, 32), "lr: nan"),
        (lambda: NoiseSchedule(0.1, 0), "batch_size: falls to 0"),
        (lambda: NoiseSchedule(0.0, 8), "lr: 0 at all times"),
        (lambda: NoiseSchedule("fast", 32), "lr: 'fast'"),
        (lambda: Steps((1, 2), (3, 4)), "Steps.values"),
        (lambda: Steps((1, 2, 3), (4, 3)), "Steps.milestones"),
        (lambda: OneCycle(0.1, 1, 0, 10, warmup=1.5), "OneCycle.warmup: 1.5"),
    ],
)
def test_bad_values_are_refused_by_field_and_value(make, words):
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        make()


PIECES = st.one_of(
    st.builds(Constant, st.integers(1, 60).map(float)),
    st.builds(
        Cyclic,
        high=st.integers(20, 90).map(float),
        low=st.integers(1, 19).map(float),
        period=st.sampled_from([0.7, 1.0, 2.0, 3.0, 10.0]),
        phase=st.sampled_from([0.0, 0.25, 0.5]),
    ),
    st.builds(Steps, st.just((40.0, 20.0, 5.0)), st.sampled_from([(1.0, 2.0), (0.5, 3.3), (2.0, 7.0)])),
    st.builds(Triangle, high=st.just(60.0), low=st.just(8.0), period=st.sampled_from([2.0, 5.0])),
)


@given(schedule=st.one_of(PIECES, PIECES.map(lambda of: Inverse(of, 900.0))), epoch=st.integers(0, 40))
def test_what_is_called_steady_has_one_value(schedule, epoch):
    times = [epoch + k / 64 for k in range(64)]
    if steady(schedule, epoch, epoch + 1):
        assert {schedule(t) for t in times} == {schedule(epoch)}
    elif isinstance(schedule, Cyclic | Steps):
        assert len({schedule(epoch + k / 640) for k in range(640)}) > 1


@given(
    schedule=PIECES,
    epoch=st.integers(0, 12),
    examples=st.integers(1, 400),
    smallest=st.integers(1, 3),
    largest=st.one_of(st.none(), st.integers(3, 80)),
    drop_last=st.booleans(),
)
def test_the_batches_of_an_epoch_are_those_of_its_steps_one_by_one(
    schedule, epoch, examples, smallest, largest, drop_last
):
    class Unknown:
        """The same values, of which nothing is known beforehand."""

        def __call__(self, t):
            return schedule(t)

    options = {"smallest": smallest, "largest": largest, "drop_last": drop_last}
    one_by_one = epoch_edges(examples, Unknown(), epoch, **options)
    assert epoch_edges(examples, schedule, epoch, **options).tolist() == one_by_one.tolist()


@pytest.mark.parametrize("home", ["datamodules.schedules", "three_factors.datamodules.schedules"])
def test_a_checkpoint_that_names_schedules_as_they_were_named_before_is_read(home, tmp_path, monkeypatch):
    schedule = exchange(NoiseSchedule(0.1, Triangle(8, 4, 2)))
    with monkeypatch.context() as before:
        for kind in (NoiseSchedule, Constant, Inverse, Triangle):
            before.setattr(kind, "__module__", home)
        torch.save(schedule, tmp_path / "saved.pt")
    assert home.encode() + b"\nInverse" in (tmp_path / "saved.pt").read_bytes()
    assert torch.load(tmp_path / "saved.pt", weights_only=True) == schedule
