"""The keys that name folders: of one spec of each kind, as the first edition had them.

A key that changes means that every result of that kind is trained anew; nothing in these tests may be adapted to the
code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.schedules import Constant, Cyclic, NoiseSchedule, Triangle
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement, Watch
from three_factors.reproduce.engine.contract.names import class_of, name_of, register
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.spec import Data, Keep, PathSpec, RunSpec
from three_factors.reproduce.engine.contract.stored import decode, encode, loads
from three_factors.reproduce.theory.classifier import SoftmaxRegression
from three_factors.reproduce.theory.fields import as_text
from three_factors.reproduce.theory.potentials import DoubleWell, Quadratic
from three_factors.reproduce.theory.simulation import Gaussian, Minibatches, Simulation

DATA = Data("digits", "0123456789abcdef", train=8_000, validation=1_000, test=2_000, subset=1_000)
VGG = RunSpec(
    network=VGG11Network(width=0.125),
    data=DATA,
    schedule=NoiseSchedule(Cyclic(high=0.1, low=0.005, period=6), 128),
    epochs=24,
    seed=3,
    keep=Keep(initial=True, best=True, loss_levels=(0.5, 0.1)),
    watch=Watch(Curvature(measures=("top_eigenvalue",)), every=2),
)
RESNET = RunSpec(
    network=ResNet56Network(depth=20, width=0.5, form="original"),
    data=DATA,
    schedule=NoiseSchedule(0.05, Triangle(low=128, high=640, period=10)),
    epochs=10,
    seed=100,
    momentum=0.9,
    weight_decay=1e-4,
    evaluate_every=5,
    max_batch_size=512,
)
MLP = RunSpec(
    network=MLPNetwork(hidden=(50,) * 20, batch_norm=True, ghost_batch_size=25, init_std=0.1),
    data=Data("mnist", "fedcba9876543210", 50_000, 10_000, 10_000, label_noise=LabelNoise(0.25), split_seed=1),
    schedule=NoiseSchedule(Constant(0.1), Constant(100)),
    epochs=2,
    seed=0,
    sampling="replacement",
    precision="float64",
    noise=GaussianNoise(2.0, "covariance", block=5),
    stop_at_loss=0.01,
)
HALVES = RunSpec(
    network=MLPNetwork(),
    data=DATA,
    schedule=NoiseSchedule(0.1, 100),
    epochs=1,
    seed=7,
    keep=Keep(),
    noise=HalfBatchNoise(1.5),
)
LINE = PathSpec(HALVES, RunSpec(MLPNetwork(), DATA, NoiseSchedule(0.2, 200), 1, 7, keep=Keep()), examples=500)
CURVATURE = Measurement(Curvature(examples=500), at=("initial", "end", "loss 0.5"))
WELL = Simulation(DoubleWell(2.0, 0.1), 0.01, 4, Gaussian(0.5), 1_000, (0, 500, 1_000), "gibbs", 200, momentum=0.5)
VALLEY = Simulation(
    Quadratic(((2.0, 0.5), (0.5, 1.0))), 0.1, 1, Gaussian(covariance=((1, 0), (0, 2))), 10, (10,), (0.0, 1.0), 8, seed=2
)
CLASSIFIER = Simulation(
    SoftmaxRegression("0123456789abcdef", (0, 1, 2), 300, 20, 0.01),
    0.1,
    16,
    Minibatches("replacement"),
    100,
    (100,),
    "minimum",
    64,
)

GOLDEN = {
    "VGG-11 with a cyclic eta": (VGG, "c3d3fb5dae4b1aaf"),
    "ResNet with a triangular S": (RESNET, "c2f637c41e047403"),
    "MLP with noise and wrong labels": (MLP, "ab53581a0a900757"),
    "MLP of half batches": (HALVES, "eb1eb8970697fa94"),
    "line": (LINE, "c3bd4264907dd926"),
    "measurement": (CURVATURE, "b62fc7db1bcb9510"),
    "simulated double well": (WELL, "bad74a7bac8cac04"),
    "simulated valley": (VALLEY, "5503b39aeb54f6b2"),
    "simulated classifier": (CLASSIFIER, "3dc3b1949403a9f6"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_key_is_that_of_the_first_edition(name):
    spec, key = GOLDEN[name]
    assert spec.key == key


# What the first edition wrote of HALVES.
WRITTEN = """{"data": {"augment": false, "fingerprint": "0123456789abcdef", "label_noise": null, "name": "digits",
"split_seed": 0, "subset": 1000, "test": 2000, "train": 8000, "type": "reproduce.engine.spec:Data",
"validation": 1000}, "epochs": 1, "evaluate_every": 1, "keep": {"best": false, "end": true, "initial": false,
"loss_levels": [], "type": "reproduce.engine.spec:Keep"}, "max_batch_size": null, "momentum": 0.0,
"network": {"batch_norm": false, "ghost_batch_size": null, "hidden": [256, 256], "in_features": 784,
"init_std": null, "num_classes": 10, "type": "reproduce.engine.spec:MLPNetwork"}, "noise": {"factor": 1.5,
"type": "reproduce.engine.spec:HalfBatchNoise"}, "precision": "float32", "protocol": 1, "sampling": "shuffle",
"schedule": {"batch_size": {"type": "datamodules.schedules:Constant", "value": 100.0},
"lr": {"type": "datamodules.schedules:Constant", "value": 0.1}, "type": "datamodules.schedules:NoiseSchedule"},
"seed": 7, "stop_at_loss": null, "type": "reproduce.engine.spec:RunSpec", "watch": null, "weight_decay": 0.0}"""


def test_what_the_first_edition_wrote_is_read_and_written_again():
    assert loads(WRITTEN) == HALVES
    assert encode(HALVES) == json.loads(WRITTEN)


@pytest.mark.parametrize("kind", [RunSpec, PathSpec, Measurement, Simulation])
def test_every_class_that_a_spec_may_hold_has_a_name_that_is_looked_up(kind):
    found, left = set(), [kind]
    while left:
        one = left.pop()
        if isinstance(one, type) and is_dataclass(one) and one not in found:
            found.add(one)
            hints = get_type_hints(one)
            left += [hints[f.name] for f in fields(one)]
        elif isinstance(one, UnionType) or get_args(one):
            left += get_args(one)
    assert kind in found
    assert all(class_of(name_of(one)) is one for one in found)


def test_every_schedule_has_a_name_that_is_looked_up():
    from three_factors.datamodules import schedules

    kinds = [
        k for k in vars(schedules).values() if isinstance(k, type) and is_dataclass(k) and not issubclass(k, tuple)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        assert class_of(name_of(kind)) is kind


@register
@dataclass(frozen=True)
class Before:
    rate: float
    size: tuple[int, ...] = ()


@register
@dataclass(frozen=True)
class Later:
    rate: float
    size: tuple[int, ...] = ()
    warmup: float = field(default=3.0, metadata={"absent": 0.0})
    inner: Any = field(default=None, metadata={"absent": Constant(1.0)})


def test_a_later_field_leaves_keys_as_they_were_where_it_has_the_value_of_its_absence():
    old, new = Before(0.5, (1,)), Later(0.5, (1,), warmup=0, inner=Constant(1))
    assert encode(new) | {"type": encode(old)["type"]} == encode(old)
    assert as_text(new) == repr(old).replace("Before", "Later")


def test_absence_is_read_as_what_was_declared_and_not_as_the_default():
    read = decode(encode(Before(0.5)) | {"type": name_of(Later)})
    assert read == Later(0.5, (), warmup=0.0, inner=Constant(1.0))


@pytest.mark.parametrize("change", [{"warmup": 3.0}, {"inner": None}, {"inner": Constant(2.0)}])
def test_a_later_field_with_another_value_is_written_and_read(change):
    value = replace(Later(0.5, (), 0.0, Constant(1.0)), **change)
    assert decode(encode(value)) == value
    assert encode(value) != encode(Later(0.5, (), 0.0, Constant(1.0)))
    assert as_text(value) != as_text(Later(0.5, (), 0.0, Constant(1.0)))


def test_a_field_whose_absence_means_nothing_may_not_be_absent():
    written = json.loads(WRITTEN)
    del written["momentum"]
    with pytest.raises(ValueError, match="a RunSpec without 'momentum'"):
        decode(written)


@pytest.mark.parametrize("name", ["WELL", "VALLEY", "CLASSIFIER"])
def test_the_text_of_a_simulation_is_its_repr(name):
    later = ", optimizer='sgd'"  # a field that is left out where it says what its absence means
    assert as_text(globals()[name]) == repr(globals()[name]).replace(later, "")
