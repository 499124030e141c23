"""Lines between runs: their ends are the runs' own, and widths are those of the profile."""

import json
import math
from dataclasses import replace

import pytest
import torch

from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.folders import PathFolder
from three_factors.reproduce.engine.contract.networks import MLPNetwork, ResNet56Network, VGG11Network
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Data, Keep, PathSpec, RunSpec
from three_factors.reproduce.engine.worker.interpolate import (
    _direction,
    _outward,
    _random_widths,
    _scale_invariant,
    _tangential_widths,
    follow,
)
from three_factors.reproduce.engine.worker.train import Job, build_module, train

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


def test_a_line_between_runs_of_the_square_loss_is_of_that_loss(tmp_path):
    job, plain = Job(prepare("digits28")), replace(SPEC, network=MLPNetwork(hidden=(16,)), loss="square")
    runs = [replace(plain, schedule=NoiseSchedule(0.02, size)) for size in (32, 80)]
    path = PathSpec(*runs, ALPHAS, 320, 160, directions=0)
    folder = PathFolder(tmp_path / "paths" / path.key)
    folder.path.mkdir(parents=True)
    for spec in runs:
        folder.run(spec).path.mkdir(parents=True)
    results = [train(spec, job, folder.run(spec)) for spec in runs]
    found = follow(path, job, folder)["final"]
    for name, result in zip(("θ1", "θ2"), results):
        assert found[f"loss {name}"] == pytest.approx(result["final"]["train_subset/loss"], rel=1e-4)


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
    [
        ({"alphas": (0.0, 0.5)}, "alphas: "),
        ({"examples": 0}, "examples: 0"),
        ({"batch_size": 1}, "batch_size: 1"),
        ({"end": replace(SPEC, keep=None)}, "keep: a line needs"),
        ({"end": replace(SPEC, loss="square")}, "loss: the ends of a line have two"),
        ({"end": replace(SPEC, network=replace(SPEC.network, hidden=(8,)))}, "network: the ends of a line have two"),
    ],
)
def test_a_line_that_cannot_be_followed_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        PathSpec(**({"start": SPEC, "end": SPEC} | change))


class Bowl(torch.nn.Module):
    """The loss h |W - W0|² / 2, whatever the examples."""

    def __init__(self, h):
        super().__init__()
        self.h, self.weight = h, torch.nn.Parameter(torch.arange(1.0, 13).view(3, 4))
        self.register_buffer("least", self.weight.detach().clone())

    def forward(self, inputs):
        return inputs.new_zeros(len(inputs)) + self.h / 2 * (self.weight - self.least).square().sum()

    def loss(self, outputs, targets):
        return outputs.mean()


BATCHES = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))]


@pytest.mark.parametrize("h", [4.0, 0.02, 1e-4])
def test_a_direction_is_followed_until_the_loss_has_risen_as_far_as_the_quadratic_says(h):
    bowl, spec = Bowl(h).double(), replace_path(until=1e3, directions=3)
    weights = bowl.state_dict()
    found = _random_widths(spec, bowl, BATCHES, weights, "θ1")
    norm = float(weights["weight"].norm())
    for rise in (0.1, 0.5, 1.0):
        assert found[f"random width θ1 {rise:g}"] * norm == pytest.approx(math.sqrt(2 * rise / h), rel=0.05)
    short = _random_widths(replace_path(until=None), bowl, BATCHES, weights, "θ1")
    assert math.isnan(short["random width θ1 1"]) == (math.sqrt(2 / h) > norm)


def replace_path(**options):
    return replace(PathSpec(SPEC, SPEC, ALPHAS, 320, 160, 2), **options)


def test_a_direction_ends_at_the_furthest_that_is_asked_for():
    bowl = Bowl(1e-9).double()
    profile = _outward(replace_path(until=5.0), bowl, BATCHES, bowl.state_dict(), {"weight": bowl.weight.detach()})
    assert (min(profile.alphas), profile.width(1, 0.1).censored) == (-5.0, True)


@pytest.mark.parametrize(
    ("network", "free"),
    [
        (MLPNetwork(hidden=(16, 12), batch_norm=True, in_features=192), {"layers.0", "layers.3"}),
        (MLPNetwork(hidden=(16, 12), in_features=192), set()),
        (VGG11Network(width=1 / 32), None),
        (VGG11Network(width=1 / 32, batch_norm=False), set()),
        (ResNet56Network(depth=8, width=0.25), None),
    ],
)
def test_the_weights_whose_scale_batch_norm_takes_back_are_found(network, free):
    torch.manual_seed(0)
    module = build_module(network).double()
    size = 8 if isinstance(network, MLPNetwork) else 32
    inputs = torch.randn(64, 3, size, size, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = _scale_invariant(module, before, inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    names = {name for name, part in module.named_modules() if isinstance(part, torch.nn.Conv2d)}
    if free is not None:
        assert found == {f"network.{name}.weight" for name in free}
    elif isinstance(network, VGG11Network):
        assert found == {f"{name}.weight" for name in names}
    else:  # of a block's two convolutions the first alone; what is added to the stream is not normalised by itself
        assert found == {f"{name}.weight" for name in names if name.endswith("conv1")}


def test_tangential_directions_are_at_right_angles_to_every_filter_and_as_long():
    weight, generator = torch.randn(5, 3, 2, 2, dtype=torch.float64), torch.Generator().manual_seed(1)
    found = _direction(weight, generator, tangential=True).flatten(1)
    own = weight.flatten(1)
    assert (found * own).sum(dim=1) == pytest.approx(torch.zeros(5).numpy(), abs=1e-12)
    assert found.norm(dim=1) == pytest.approx(own.norm(dim=1).numpy())


def test_the_line_without_its_radial_part_is_as_wide_as_the_quadratic_says_and_its_cosine_is_told():
    """Nothing of a bowl is scale-invariant, so nothing is taken out."""
    bowl, h = Bowl(0.5).double(), 0.5
    weights = bowl.state_dict()
    other = weights | {"weight": 0.5 * weights["weight"]}
    found = _tangential_widths(replace_path(until=16.0, tangential=True), bowl, BATCHES, weights, other, "θ1")
    assert found["cosine of the outward line θ1"] == pytest.approx(1)
    norm = float(weights["weight"].norm())
    for rise in (0.1, 0.5, 1.0):
        assert found[f"tangential width θ1 {rise:g}"] * norm == pytest.approx(math.sqrt(2 * rise / h), rel=0.05)


class Normalised(torch.nn.Module):
    """A loss of filters' directions alone: h/2 times the squared sine of each to where it began, summed."""

    def __init__(self, h):
        super().__init__()
        self.h, self.weight = h, torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        self.register_buffer("least", self.weight.detach().clone())

    def forward(self, inputs):
        own, least = (torch.nn.functional.normalize(w, dim=1) for w in (self.weight, self.least))
        sines = 1 - (own * least).sum(1).square()
        return inputs.new_zeros(len(inputs), dtype=torch.float64) + self.h / 2 * sines.sum()

    def loss(self, outputs, targets):
        return outputs.mean()


def test_of_a_scale_invariant_loss_the_radial_part_of_a_line_is_taken_out():
    """Along a filter nothing changes; across it the sine after a step of length d from |w| is d/√(d² + |w|²)."""
    torch.manual_seed(0)
    module, h = Normalised(6.0), 6.0
    weights = module.state_dict()
    own = weights["weight"]
    across = torch.linalg.qr(torch.stack([own[0], *torch.randn(3, 4).double()]).T)[0].T[1] * float(own[0].norm())
    radial = weights | {"weight": 0.2 * own}
    mixed = weights | {"weight": own - torch.stack([across, *torch.zeros(2, 4).double()]) - 5.0 * own}
    spec = replace_path(until=64.0, tangential=True)
    found = _tangential_widths(spec, module, BATCHES, weights, radial, "θ1")
    assert found["cosine of the outward line θ1"] == pytest.approx(1)
    assert "tangential width θ1 0.1" not in found  # nothing is left of the line but rounding
    found = _tangential_widths(spec, module, BATCHES, weights, mixed, "θ1")
    for rise in (0.1, 0.5, 1.0):
        sine = math.sqrt(2 * rise / h)
        length = float(own[0].norm()) * sine / math.sqrt(1 - sine**2)
        assert found[f"tangential width θ1 {rise:g}"] * float(own.norm()) == pytest.approx(length, rel=0.05)
