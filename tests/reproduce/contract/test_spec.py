"""A spec is refused or round-trips; its hash names the experiment in every process."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reproduce.specs import SPEC
from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.schedules import Cosine, NoiseSchedule, Triangle, exchange
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement, Watch
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.spec import Data, Keep, RunSpec
from three_factors.reproduce.engine.contract.stored import dumps, encode, loads

ROOT = Path(__file__).resolve().parents[3]
positive = st.floats(1e-3, 10)
networks = st.one_of(
    st.builds(VGG11Network, width=positive),
    st.builds(ResNet56Network, depth=st.sampled_from([8, 20, 56]), width=positive),
    st.builds(MLPNetwork, hidden=st.tuples(st.integers(1, 99)), init_std=st.none() | positive),
)
few = st.integers(1, 9)
specs = st.builds(
    RunSpec,
    network=networks,
    data=st.builds(
        Data,
        st.text(),
        st.text(),
        train=st.integers(500, 900),
        validation=few,
        test=few,
        label_noise=st.none() | st.builds(LabelNoise, st.floats(0, 1), st.sampled_from(["uniform", "other"])),
    ),
    schedule=st.one_of(
        st.builds(NoiseSchedule, positive, st.integers(1, 500)),
        st.builds(lambda h, p: exchange(NoiseSchedule(Triangle(h, 0.0, p), 20)), positive, positive),
        st.builds(lambda s, e: NoiseSchedule(Cosine(s, 0.0, e), 7), positive, positive),
    ),
    epochs=st.integers(1, 400),
    seed=st.integers(0, 2**31),
    momentum=st.floats(0, 0.99),
    sampling=st.sampled_from(["shuffle", "replacement"]),
    keep=st.none() | st.builds(Keep, best=st.booleans(), loss_levels=st.lists(positive).map(tuple)),
    watch=st.none() | st.builds(Watch, st.builds(Curvature, examples=few), every=few),
)


@given(specs)
def test_a_spec_survives_json_with_its_hash(spec):
    again = loads(dumps(spec))
    assert again == spec
    assert again.key == spec.key


def test_the_hash_is_the_same_in_another_process():
    place = "three_factors.reproduce.engine.contract.stored"
    code = f"import sys; from {place} import loads; print(loads(sys.stdin.read()).key)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        input=dumps(SPEC),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT / "reproduce" / "_name")},
    )
    assert answer.stdout.strip() == SPEC.key


def test_the_hash_does_not_tell_128_from_128_point_0():
    assert replace(SPEC, schedule=NoiseSchedule(1, 128)).key == replace(SPEC, schedule=NoiseSchedule(1.0, 128.0)).key


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"epochs": 19},
        {"momentum": 0.1},
        {"weight_decay": 1e-4},
        {"sampling": "replacement"},
        {"precision": "float64"},
        {"evaluate_every": 2},
        {"max_batch_size": 300},
        {"protocol": 99},
        {"network": VGG11Network(width=0.25)},
        {"schedule": NoiseSchedule(0.1, 32)},
        {"data": replace(SPEC.data, name="digits", fingerprint="fedcba9876543210")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_in_the_hash(change):
    assert replace(SPEC, **change).key != SPEC.key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"network": MLPNetwork(batch_norm=True), "schedule": NoiseSchedule(0.1, 1)}, "network: batch norm of an MLP"),
        ({"momentum": 1.0}, "momentum: 1.0"),
        ({"momentum": float("nan")}, "momentum: nan"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0"),
        ({"sampling": "twice"}, "sampling: 'twice'"),
        ({"precision": "half"}, "precision: 'half'"),
        ({"evaluate_every": 5}, "evaluate_every: 5"),
        ({"schedule": NoiseSchedule(0.1, 4000)}, "batch_size: 4000 is larger than the training set of 3200"),
    ],
)
def test_bad_fields_are_refused_by_name_and_value(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SPEC, **change)


def test_a_schedule_that_is_no_dataclass_cannot_be_stored():
    with pytest.raises(ValueError, match="use a frozen dataclass that is registered"):
        encode(NoiseSchedule(lambda t: 0.1, 32))


@pytest.mark.parametrize("text", ["{}", "[1]", '{"type": "os:system"}', '{"type": "nowhere:Thing"}', "not json"])
def test_a_damaged_spec_is_a_value_error(text):
    with pytest.raises((ValueError, AssertionError)):
        assert isinstance(loads(text), RunSpec)


def test_another_measurement_has_another_key_and_changes_no_run():
    keys = {Measurement(Curvature(examples=n), at).key for n in (10, 20) for at in (("end",), ("best",))}
    assert len(keys) == 4
    assert loads(dumps(Measurement(Curvature()))) == Measurement(Curvature())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ResNet56Network(depth=10), "depth: 10"),
        (lambda: MLPNetwork(init_std=-1.0), "init_std: -1.0"),
        (lambda: Keep(loss_levels=(0.1, 0.0)), "loss_levels: 0.0"),
        (lambda: Curvature(examples=0), "examples: 0"),
        (lambda: Curvature(tol=2.0), "tol: 2.0"),
        (lambda: Curvature(measures=("trace", "sharpnes")), "measures: 'sharpnes'"),
        (lambda: Watch(Curvature(), every=0), "every: 0"),
    ],
)
def test_what_is_measured_is_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()
