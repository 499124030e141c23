"""A pack: every member ends as its own run does, whatever its neighbours are and whatever becomes of them."""

import json
from dataclasses import replace

import pytest
import torch

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import Cyclic, NoiseSchedule, Steps, Triangle, as_schedule
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.folders import PackFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement, NoiseMeasurement
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise, Renewal
from three_factors.reproduce.engine.contract.packs import Pack, same_stack, stackable
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Evaluations, Keep, RunSpec
from three_factors.reproduce.engine.worker.measure import measure
from three_factors.reproduce.engine.worker.measure_pack import measure_pack
from three_factors.reproduce.engine.worker.pack import train_pack
from three_factors.reproduce.engine.worker.stacked_steps import StackedSteps
from three_factors.reproduce.engine.worker.train import LostWeights, train

pytestmark = pytest.mark.slow

PLAIN = RunSpec(
    MLPNetwork(hidden=(16, 12)),
    Data("digits28", "-", train=320, validation=60, test=120, subset=100),
    NoiseSchedule(0.1, 32),
    epochs=3,
    seed=0,
    precision="float64",
    keep=Keep(initial=True, best=True, loss_levels=(2.2, 1.5)),
)
NORMED = replace(PLAIN, network=replace(PLAIN.network, batch_norm=True))
HARD = replace(NORMED, data=replace(PLAIN.data, label_noise=LabelNoise(0.25)))


def with_data(spec, **fields):
    return replace(spec, data=replace(spec.data, **fields))


RATES = (0.1, Triangle(0.2, 0.01, 2), Steps((0.1, 0.01), (1.5,)))
RENEWED = Renewal(80, 40, until=2, every=2, eigenvectors=3)
PARTS = [HalfBatchNoise(2.0, part, RENEWED) for part in ("top", "rest")]
UNEVEN = [PARTS[0], replace(PARTS[1], renewal=replace(RENEWED, eigenvectors=2))]
NOISES = (None, HalfBatchNoise(2.0), HalfBatchNoise(1.0))
GHOSTS = replace(NORMED, network=replace(NORMED.network, ghost_batch_size=12))
OFTEN = replace(PLAIN, evaluations=Evaluations(early=3, until=2, last=4))
DIVERGES = 1e9
# what the members of a pack differ in
PACKS = {
    "eta": [replace(PLAIN, schedule=NoiseSchedule(lr, 32)) for lr in RATES],
    "momentum": [replace(PLAIN, momentum=momentum) for momentum in (0.0, 0.9, 0.5)],
    "weight decay": [replace(PLAIN, weight_decay=decay) for decay in (0.0, 1e-2)],
    "seed and split": [with_data(replace(PLAIN, seed=seed), split_seed=min(seed, 1)) for seed in range(3)],
    "batch norm": [replace(NORMED, seed=seed) for seed in range(3)],
    "ghost batches": [replace(GHOSTS, seed=seed) for seed in range(2)],
    "labels": [with_data(PLAIN, label_noise=of) for of in (None, LabelNoise(0.25), LabelNoise(0.5, "other"))],
    "half batches": [replace(PLAIN, noise=of) for of in NOISES],
    "projections": [replace(GHOSTS, network=replace(GHOSTS.network, ghost_batch_size=16), noise=of) for of in PARTS],
    "projections and none": [
        replace(PLAIN, seed=1, noise=of, epochs=epochs) for of, epochs in zip((None, *UNEVEN, NOISES[1]), (3, 3, 4, 4))
    ],
    "a projection that diverges": [
        replace(PLAIN, noise=of, schedule=NoiseSchedule(lr, 32)) for of, lr in zip(PARTS, (DIVERGES, 0.1))
    ],
    "Gaussian noise": [replace(PLAIN, noise=of) for of in (None, GaussianNoise(1.0, "covariance"))],
    "stops": [replace(PLAIN, stop_at_loss=loss, epochs=4) for loss in (None, 2.0, 1.5)],
    "epochs": [replace(PLAIN, seed=n, epochs=n, evaluate_every=every) for n, every in ((3, 1), (1, 1), (4, 2))],
    "a neighbour that diverges": [replace(NORMED, schedule=NoiseSchedule(lr, 32)) for lr in (0.1, DIVERGES, 0.2)],
    "a cycle in S": [replace(PLAIN, seed=seed, schedule=NoiseSchedule(0.1, Cyclic(64, 16, 2))) for seed in range(2)],
    "with replacement": [replace(PLAIN, seed=seed, sampling="replacement") for seed in range(2)],
    "evaluations": [replace(OFTEN, epochs=epochs) for epochs in (3, 4)],
    "the square loss": [replace(PLAIN, seed=s, loss="square", schedule=NoiseSchedule(0.02, 32)) for s in range(2)],
    "a hard case": [replace(HARD, seed=seed, momentum=0.9 * (seed == 1)) for seed in range(3)],
}


@pytest.fixture(scope="module")
def job():
    return Job(prepare("digits28"))


def alone(spec, job, path):
    folder = RunFolder(path / spec.key)
    folder.path.mkdir(parents=True)
    write_json(folder.path / "result.json", {"key": spec.key} | train(spec, job, folder))
    weights = folder.path / "weights"
    assert weights.exists() or spec.keep is None
    return folder


def together(specs, job, path):
    folders = [RunFolder(path / "runs" / spec.key) for spec in specs]
    for folder in folders:
        folder.path.mkdir(parents=True, exist_ok=True)
    folder = PackFolder(path / "packs" / Pack.of(specs).key)
    folder.path.mkdir(parents=True, exist_ok=True)
    train_pack(specs, job, folder, folders)
    return folders


def close(found, wanted, where=""):
    """Whether two values of JSON are alike to 1e-9, but for what tells the machine."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for name in wanted.keys() - {"provenance", "bytes", "sha256"}:
            close(found[name], wanted[name], f"{where} {name}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for one, other in zip(found, wanted):
            close(one, other, where)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12), where
    else:
        assert found == wanted, where


def same(packed, single):
    close(packed.result(), single.result(), "result")
    close(packed.rows(), single.rows(), "rows")
    close(
        [json.loads(x) for x in (packed.path / "metrics.jsonl").read_text().splitlines()],
        [json.loads(x) for x in (single.path / "metrics.jsonl").read_text().splitlines()],
    )
    names = sorted(file.name for file in (single.path / "weights").glob("*.pt"))
    assert sorted(file.name for file in (packed.path / "weights").glob("*.pt")) == names
    for name in names:
        ours, theirs = (torch.load(of.path / "weights" / name, weights_only=True) for of in (packed, single))
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", PACKS)
def test_every_member_ends_as_its_own_run_does(name, job, tmp_path):
    specs = PACKS[name]
    assert all(map(stackable, specs))
    assert len({same_stack(spec) for spec in specs}) == 1
    folders = together(specs, replace(job, every_step=True), tmp_path)
    for spec, folder in zip(specs, folders):
        single = alone(spec, replace(job, every_step=True), tmp_path / "alone")
        if (
            as_schedule(spec.schedule.lr)(0.0) == DIVERGES
        ):  # what is not finite is not the same in two ways of adding up
            assert folder.result()["status"] == single.result()["status"] == "diverged"
            assert len(folder.rows()) == len(single.rows())
            continue
        same(folder, single)
        assert folder.result()["status"] == "ok"
        assert folder.step_losses() == pytest.approx(single.step_losses(), rel=1e-6)


@pytest.mark.parametrize("name", ["seed and split", "batch norm", "ghost batches", "half batches", "a hard case"])
def test_a_step_in_float32_is_that_of_the_own_run(name, job, tmp_path):
    specs = [with_data(replace(spec, precision="float32", epochs=1, keep=Keep()), train=32) for spec in PACKS[name]]
    for spec, folder in zip(specs, together(specs, job, tmp_path)):
        single = alone(spec, job, tmp_path / "alone")
        ours, theirs = (torch.load(of.weights("end"), weights_only=True) for of in (folder, single))
        assert single.rows()[-1]["step"] == 1
        names = [key for key, value in theirs.items() if value.is_floating_point()]
        found, wanted = (torch.cat([of[key].double().reshape(-1) for key in names]) for of in (ours, theirs))
        assert float((found - wanted).norm()) <= 1e-6 * float(wanted.norm())  # a bias before batch norm is rounding


def test_sixteen_seeds_in_float32_end_alike_in_a_pack_and_alone(job, tmp_path):
    specs = [replace(HARD, seed=seed, precision="float32", momentum=0.9, epochs=4) for seed in range(16)]
    packed = [folder.result()["final"] for folder in together(specs, job, tmp_path)]
    single = [alone(spec, job, tmp_path / "alone").result()["final"] for spec in specs]
    for name in ("train/loss", "test/accuracy"):
        ours, theirs = ([final[name] for final in finals] for finals in (packed, single))
        apart = abs(sum(ours) - sum(theirs)) / 16
        halves = abs(sum(theirs[:8]) - sum(theirs[8:])) / 8
        assert apart <= halves, name


SEVERAL = [
    replace(HARD, seed=1, momentum=0.9, epochs=2),
    replace(HARD, seed=2, epochs=4, evaluations=Evaluations(early=3, until=2, last=4)),
    replace(HARD, seed=3, epochs=4, stop_at_loss=2.0),
    replace(HARD, seed=4, epochs=3, schedule=NoiseSchedule(DIVERGES, 32)),
    replace(HARD, seed=5, epochs=3, noise=PARTS[0]),
]  # of 10 steps an epoch


MOMENTS = [(3,), (10,), (19, 3), (20,), (24, 1, 9), (33, 5), (39,)]


# In float32, whose steps are those of float64, the two that are broken off more than once and at an epoch's end.
@pytest.mark.parametrize(
    ("precision", "moments"), [*(("float64", of) for of in MOMENTS), ("float32", (20,)), ("float32", (24, 1, 9))]
)
def test_a_pack_that_is_broken_off_ends_as_one_that_is_not(precision, moments, job, tmp_path, monkeypatch):
    specs, step = [replace(spec, precision=precision) for spec in SEVERAL], StackedSteps._step
    often = replace(job, checkpoint_every=0, every_step=True)
    for moment in moments:
        left = iter(range(moment))

        def broken(self, *arguments, left=left):
            if next(left, None) is None:
                raise Broken
            step(self, *arguments)

        monkeypatch.setattr(StackedSteps, "_step", broken)
        with pytest.raises(Broken):
            together(specs, often, tmp_path / "broken")
    monkeypatch.setattr(StackedSteps, "_step", step)
    found = together(specs, often, tmp_path / "broken")
    wanted = together(specs, often, tmp_path / "whole")
    for one, other in zip(found, wanted):
        for file in sorted(other.path.rglob("*")):
            if file.suffix in (".jsonl", ".f32"):
                assert (one.path / file.relative_to(other.path)).read_bytes() == file.read_bytes(), file.name
            if file.suffix == ".pt":
                ours, theirs = (torch.load(of, weights_only=True) for of in (one.path / "weights" / file.name, file))
                for name in theirs:
                    torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True)
        results = [of.result() for of in (one, other)]
        for result in results:
            del result["provenance"]
        assert results[0] == results[1]


class Broken(Exception):
    """What a kill is to a training."""


MEASUREMENTS = {
    "in eval mode": Measurement(Curvature(80, 40, max_products=30), ("best", "end", "loss 1.5")),
    "in train mode": Measurement(
        Curvature(96, 32, ("top_eigenvalue", "batch_sharpness"), max_products=30, training=True), ("end", "loss 2.2")
    ),
    "noise": NoiseMeasurement(32, 5, 20, ("end", "loss 1.5"), alignment=True),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("of", ["seed and split", "batch norm", "ghost batches", "a hard case", "the square loss"])
def test_what_is_measured_of_a_member_is_what_is_measured_of_its_own_run(of, name, job, tmp_path):
    specs, measurement = PACKS[of], MEASUREMENTS[name]
    folders = together(specs, job, tmp_path)
    found = measure_pack(specs, measurement, job, folders)
    reached = {milestone for values in found for milestone in values}
    assert "end" in reached
    for spec, folder, values in zip(specs, folders, found):
        close(values, measure(spec, measurement, job, folder), name)


def test_a_member_whose_weights_are_damaged_is_told_alone(job, tmp_path):
    specs, measurement = PACKS["batch norm"], MEASUREMENTS["in eval mode"]
    folders = together(specs, job, tmp_path)
    wanted = measure_pack(specs, measurement, job, folders)
    folders[1].weights("end").write_bytes(b"no weights")
    found = measure_pack(specs, measurement, job, folders)
    assert isinstance(found[1], LostWeights)
    assert (found[0], found[2]) == (wanted[0], wanted[2])
