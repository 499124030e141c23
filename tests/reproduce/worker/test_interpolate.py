"""Lines between runs: their ends are the runs' own, and widths are those of the profile."""

import json
from dataclasses import replace

import pytest
import torch

from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.folder import PathFolder, RunFolder
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.spec import Data, Keep, PathSpec, RunSpec
from three_factors.reproduce.engine.worker.interpolate import _direction, follow
from three_factors.reproduce.engine.worker.train import Job, train

SPEC = RunSpec(
    MLPNetwork(hidden=(16,), batch_norm=True),
    Data("digits28", "-", train=320, validation=50, test=100),
    NoiseSchedule(0.1, 32),
    epochs=3,
    seed=0,
    keep=Keep(),
)
ALPHAS = tuple(i / 4 - 1 for i in range(13))


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A line between two runs, and what was found along it."""
    out, job = tmp_path_factory.mktemp("out"), Job(prepare("digits28"))
    path = PathSpec(SPEC, replace(SPEC, schedule=NoiseSchedule(0.1, 80)), ALPHAS, 320, 160, 2, (0.2, 0.5, 1.0))
    folder = PathFolder(out / "paths" / path.key)
    results = []
    for spec in (path.start, path.end):
        run = RunFolder(out / "runs" / spec.key)
        run.path.mkdir(parents=True)
        results.append(train(spec, job, run))
    folder.path.mkdir(parents=True)
    return path, folder, job, results, follow(path, job, folder)


def test_the_ends_of_a_line_are_its_runs(line):
    _, _, _, results, found = line
    for name, result in zip(("θ1", "θ2"), results):
        # batch norm is re-estimated there: near the run's own running statistics, not equal to them
        assert found["final"][f"loss {name}"] == pytest.approx(result["final"]["train_subset/loss"], rel=0.25)


def test_widths_grow_with_the_rise_and_what_is_not_reached_is_missing(line):
    final = line[-1]["final"]
    for name in ("θ1", "θ2"):
        widths = [final[f"width {name} {rise}"] for rise in ("0.1", "0.5", "1")]
        reached = [w for w in widths if w is not None]
        assert reached == sorted(reached)
        assert all(final[f"width at least {name} {rise}"] > 0 for rise in ("0.1", "0.5", "1"))
        for kind in ("width", "relative width", "random width"):
            least, reached = (final[f"{kind}{words} {name} 0.1"] for words in (" at least", ""))
            assert reached is None or reached == pytest.approx(least)
            assert least <= final[f"{kind} at least {name} 1"]


def test_a_result_is_json_with_both_profiles(line):
    profiles = json.loads(json.dumps(line[-1]))["profiles"]
    assert {name: len(profiles[name]["loss"]) for name in profiles} == {"train": 13, "test": 13}


def test_an_interrupted_line_goes_on_and_gives_the_same(line):
    path, folder, job, _, found = line
    points = folder.path / "train.jsonl"
    lines = points.read_text().splitlines(keepends=True)
    points.write_text("".join(lines[:5]))
    assert follow(path, job, folder)["profiles"] == found["profiles"]


def test_a_random_direction_has_each_filters_norm_and_leaves_vectors_alone():
    weight, generator = torch.randn(5, 3, 3, 3), torch.Generator().manual_seed(0)
    direction = _direction(weight, generator)
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert not _direction(torch.randn(7), generator).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"alphas": (0.0, 0.5)}, "alphas: "), ({"examples": 0}, "examples: 0"), ({"batch_size": 1}, "batch_size: 1"),
     ({"end": replace(SPEC, keep=None)}, "keep: a path needs")],
)  # fmt: skip
def test_a_line_that_cannot_be_followed_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        PathSpec(**({"start": SPEC, "end": SPEC} | change))
