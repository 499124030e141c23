"""What a simulation is: a spec that is stored with its key, and refuses what it cannot be."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from three_factors.reproduce.engine.contract.stored import dumps, loads
from three_factors.reproduce.theory.potentials import DoubleWell, Quadratic, Quartic
from three_factors.reproduce.theory.simulation import Examples, Gaussian, Simulation

H, SIGMA, S = 2.0, 3.0, 4
LINE = Quadratic(((H,),))
PLANE = Quadratic(((1.0, 0.2), (0.2, 3.0)))
SPEC = Simulation(LINE, 0.1, S, Gaussian(SIGMA), 100, (0, 50, 100), (1.5,), 1000)


potentials = st.one_of(
    st.builds(lambda h: Quadratic(((h,),)), st.floats(0.1, 9)),
    st.builds(Quartic, st.floats(0.1, 9), st.floats(0, 9)),
    st.builds(
        lambda b, t, k: DoubleWell(b, t * b, k, k),
        st.floats(0.1, 9),
        st.floats(-1, 1),
        st.lists(st.floats(0.1, 9), max_size=3).map(tuple),
    ),
)
numbers = st.one_of(st.floats(0.001, 9), st.integers(1, 9))


@st.composite
def simulations(draw):
    potential = draw(potentials)
    record = tuple(sorted(draw(st.sets(st.integers(0, 500), min_size=1, max_size=5))))
    start = tuple(draw(numbers) for _ in range(potential.dim))
    single = potential.dim == 1
    return Simulation(
        potential,
        draw(numbers),
        2,
        draw(st.builds(Gaussian, numbers) | st.just(Examples(8, "shuffle", 2))) if single else Gaussian(draw(numbers)),
        max(1, record[-1]),
        record,
        "gibbs" if single and draw(st.booleans()) else start,
        draw(st.integers(1, 99)),
        draw(st.sampled_from([0, 0.0, 0.5])),
        draw(st.integers(0, 99)),
    )


@settings(max_examples=50)
@given(simulations())
def test_a_simulation_survives_json_with_its_key(spec):
    again = loads(dumps(spec))
    assert again == spec
    assert again.key == spec.key


def test_equal_settings_have_one_key_however_their_numbers_are_written():
    one = Simulation(Quadratic(((1,),)), 1, 4, Gaussian(2), 10, (10,), (0,), 100, momentum=0)
    other = Simulation(Quadratic(((np.float64(1),),)), 1.0, 4, Gaussian(2.0), 10, (10,), (0.0,), 100)
    assert one == other
    assert one.key == other.key


OTHER = {
    "potential": Quadratic(((H + 1e-9,),)),
    "lr": 0.1 + 1e-12,
    "batch_size": S + 1,
    "noise": Gaussian(SIGMA + 1),
    "steps": 101,
    "record": (0, 51, 100),
    "start": "gibbs",
    "chains": 1001,
    "momentum": 0.5,
    "seed": 1,
    "protocol": 2,
    "optimizer": "adamw",
}


def test_the_key_changes_with_every_field():
    assert set(OTHER) == {f.name for f in fields(Simulation)}
    keys = {name: replace(SPEC, **{name: value}).key for name, value in OTHER.items()}
    assert len({SPEC.key, *keys.values()}) == len(OTHER) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr: 0.0 is not a positive finite number"),
        ({"lr": -1}, "lr: -1.0 is not a positive finite number"),
        ({"lr": float("nan")}, "lr: nan is not finite"),
        ({"lr": float("inf")}, "lr: inf is not finite"),
        ({"lr": "0.1"}, "lr: '0.1' is not finite"),
        ({"batch_size": 0}, "batch_size: 0 is less than 1"),
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"chains": -3}, "chains: -3 is less than 1"),
        ({"momentum": 1.0}, r"momentum: 1.0 is not in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum: -0.1 is not in \[0, 1\)"),
        ({"record": ()}, r"record: \(\) are not ascending steps"),
        ({"record": (5, 3)}, r"record: \(5, 3\) are not ascending"),
        ({"record": (3, 3)}, r"record: \(3, 3\) are not ascending"),
        ({"record": (-1, 3)}, r"record: \(-1, 3\) are not ascending"),
        ({"record": (101,)}, "record: 101 lies beyond 100 steps"),
        ({"start": (0.0, 1.0)}, r"start: \(0.0, 1.0\) is no point of 1 dimensions"),
        ({"start": 1.0}, "start: 1.0 is no point"),
        ({"start": "gibs"}, "start: 'gibs' is no point of 1 dimensions"),
        ({"noise": Gaussian(covariance=((1.0,),)), "start": "gibbs"}, "start: 'gibbs' has no temperature"),
        ({"start": (float("nan"),)}, r"start: \(nan,\) is not finite"),
        ({"potential": PLANE, "start": "gibbs"}, "start: 'gibbs' has no quadrature for Quadratic"),
        ({"noise": Gaussian(covariance=((1.0, 0.0), (0.0, 1.0)))}, "noise: Gaussian.* is not of 1 dimensions"),
        ({"noise": Gaussian(covariance=((1.0,),)), "start": "gibbs"}, "start: 'gibbs' has no temperature for Gaussian"),
        ({"noise": Examples(6, "shuffle")}, "noise: Examples.* whole batches of 4"),
        ({"noise": Examples(8, "shuffle"), "potential": PLANE, "start": (0.0, 0.0)}, "noise: Examples.* one dimension"),
    ],
)
def test_a_bad_field_is_refused_by_name_and_value_in_one_line(change, message):
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        replace(SPEC, **change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0.0), "sigma: 0.0 is not a positive"),
        (lambda: Gaussian(float("nan")), "sigma: nan is not finite"),
        (lambda: Gaussian(covariance=((1.0, 2.0), (2.0, 1.0))), "covariance: .* is not symmetric and positive"),
        (lambda: Gaussian(covariance=((1.0, 2.0), (2.0,))), "covariance: .* is not symmetric and positive"),
        (lambda: Examples(1, "shuffle"), "count: 1 is less than 2 examples"),
        (lambda: Examples(8, "shufle"), "sampling: 'shufle' is neither 'shuffle' nor 'replacement'"),
        (lambda: Examples(8, "shuffle", -1.0), "sigma: -1.0 is not a positive"),
    ],
)
def test_bad_noise_is_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_a_covariance_has_no_temperature_and_goes_with_no_sigma():
    with pytest.raises(ValueError, match="has no temperature"):
        _ = replace(SPEC, noise=Gaussian(covariance=((2.0,),))).temperature
    with pytest.raises(ValueError, match=r"sigma: 3\.0 does not go with a covariance"):
        Gaussian(3.0, covariance=((2.0,),))
