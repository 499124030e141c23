"""Wide MLPs on AMD's processors: trained by the faster library, which their results tell, and ended as by the other."""

from dataclasses import replace

import pytest

from tests.reproduce.worker.test_pack import alone, together
from three_factors.callbacks.functional import wide_products
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.noise import HalfBatchNoise
from three_factors.reproduce.engine.contract.spec import Data, Keep, RunSpec

SPEC = RunSpec(
    MLPNetwork(hidden=(200,)),
    Data("digits28", "-", train=64, validation=50, test=50),
    NoiseSchedule(0.1, 32),
    epochs=1,
    seed=0,
    keep=Keep(),
)
NARROW = replace(SPEC, network=MLPNetwork(hidden=(90,)))
BETWEEN = replace(SPEC, network=MLPNetwork(hidden=(150,)))
DOUBLE = replace(SPEC, precision="float64")
NOISY = replace(SPEC, noise=HalfBatchNoise(2.0))


def single(spec, job, path):
    return alone(spec, job, path)


def packed(spec, job, path):
    return together([spec, replace(spec, seed=1)], job, path)[0]


@pytest.mark.parametrize(
    ("spec", "made", "taken"),
    [
        (SPEC, single, True),
        (SPEC, packed, True),
        (BETWEEN, single, False),
        (BETWEEN, packed, True),
        (NARROW, single, False),
        (NARROW, packed, False),
        (DOUBLE, single, False),
        (DOUBLE, packed, False),
        (NOISY, single, False),
    ],
)
def test_a_result_says_by_what_its_matrices_were_multiplied(spec, made, taken, tmp_path, monkeypatch):
    job, found = Job(prepare("digits28")), {}
    for there in (False, True):
        monkeypatch.setattr(wide_products, "by_onednn", lambda there=there: there)
        found[there] = made(spec, job, tmp_path / str(there)).result()
    assert "products" not in found[False]["provenance"]
    assert found[True]["provenance"].get("products") == ("oneDNN" if taken else None)
    assert found[True]["final"]["val/loss"] == pytest.approx(found[False]["final"]["val/loss"], rel=1e-2)
