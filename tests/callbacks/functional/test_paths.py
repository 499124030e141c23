"""Interpolation: the losses are those of the interpolated weights; batch norm policies; widths; resuming."""

import copy
import json
import math

import pytest
import torch
from torch.nn import functional as F

from callbacks.functional import Interpolation, interpolate
from tests.callbacks.functional.dense import batches, data, network


@pytest.fixture(params=["relu", "batch norm"])
def ends(request):
    one = network(request.param)
    two = copy.deepcopy(one)
    with torch.no_grad():
        for p in two.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
    return one, two


def path(ends, **options):
    one, two = ends
    return interpolate(one, F.cross_entropy, batches(25, 15), one.state_dict(), two.state_dict(), **options)


@pytest.mark.parametrize("policy", ["re-estimate", "interpolate", "batch"])
def test_the_profile_is_the_loss_of_the_interpolated_weights(ends, policy):
    found = path(ends, alphas=[-0.5, 0, 0.25, 1], batch_norm=policy)
    for a, value, accuracy in zip(found.alphas, found.values, found.accuracy):
        module = copy.deepcopy(ends[0]).eval()
        state = {k: (1 - a) * v + a * w if v.is_floating_point() else v
                 for (k, v), w in zip(ends[0].state_dict().items(), ends[1].state_dict().values())}  # fmt: skip
        module.load_state_dict(state)
        norms = [m for m in module.modules() if hasattr(m, "running_mean")]
        for layer in norms if policy == "re-estimate" else ():
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        if policy == "re-estimate":
            [module(x) for x, _ in batches(25, 15)]
        for layer in norms:
            layer.train(policy == "batch")
        outputs = [(module(x), y) for x, y in batches(25, 15)]
        truth = sum(len(y) * float(F.cross_entropy(o, y).detach()) for o, y in outputs) / 40
        assert value == pytest.approx(truth, rel=1e-12)
        assert accuracy == pytest.approx(sum(float((o.argmax(1) == y).sum()) for o, y in outputs) / 40)


def test_nothing_of_the_module_changes_and_the_default_has_61_points(ends):
    module = ends[0].train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = path(ends)
    assert (len(found.alphas), found.alphas[0], found.alphas[-1]) == (61, -1, 2)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(m.training for m in module.modules())
    gap = [p - q for p, q in zip(ends[0].parameters(), ends[1].parameters())]
    assert found.distance == pytest.approx(math.sqrt(sum(float((d**2).sum().detach()) for d in gap)))


def test_checkpoints_serve_as_ends(ends, tmp_path):
    torch.save({"state_dict": ends[0].state_dict()}, tmp_path / "a.ckpt")
    torch.save(ends[1].state_dict(), tmp_path / "b.pt")
    found = interpolate(ends[0], F.cross_entropy, data(), tmp_path / "a.ckpt", tmp_path / "b.pt", alphas=[0, 1])
    assert found.values == interpolate(
        ends[0], F.cross_entropy, data_list(), ends[0].state_dict(), ends[1].state_dict(), alphas=[0, 1]
    ).values  # fmt: skip


def data_list():
    return [data()]


def parabola(curvature=8.0, alphas=61):
    points = [3 * i / (alphas - 1) - 1 for i in range(alphas)]
    values = [0.1 + curvature * (a * a if a < 0.5 else (a - 1) ** 2) for a in points]
    return Interpolation(points, values, values, [0.0] * alphas, distance=2.0, norms=(4.0, 5.0), batch_norm="")


@pytest.mark.parametrize("end", [1, 2])
def test_the_width_of_a_parabola(end):
    width = parabola().width(end, rise=0.5)
    assert width.value == pytest.approx(2 * math.sqrt(0.5 / 8), abs=width.error)
    assert width.relative == pytest.approx(width.value / (4.0, 5.0)[end - 1])
    assert not width.censored


def test_a_width_beyond_the_path_is_censored_and_says_so():
    width = parabola(curvature=0.1).width(1, rise=0.5)
    assert (width.censored, math.isnan(width.value), width.at_least) == (True, True, 2.0)


def test_the_barrier_is_the_rise_above_the_line_between_the_ends():
    assert parabola().barrier == pytest.approx(8 * 0.25, rel=0.1)


def test_a_broken_off_path_is_resumed_without_doing_a_point_twice(ends, tmp_path):
    whole, calls = path(ends, alphas=[0, 0.5, 1]), []

    def counting(o, t):
        calls.append(1)
        return F.cross_entropy(o, t)

    def resumed(alphas):
        return interpolate(
            ends[0], counting, batches(25, 15), ends[0].state_dict(), ends[1].state_dict(), alphas=alphas,
            resume=tmp_path / "path.jsonl",
        )  # fmt: skip

    resumed([0])
    with (tmp_path / "path.jsonl").open("a") as file:
        file.write("[0.5, 1.2")  # killed while it wrote
    with (tmp_path / "path.jsonl").open("a") as file:
        file.write("\n")
    assert len(calls) == 2
    assert resumed([0, 0.5, 1]).values == whole.values
    assert len(calls) == 6
    assert resumed([0, 0.5, 1]).values == whole.values
    assert len(calls) == 6


def test_points_of_another_path_are_refused(ends, tmp_path):
    file = tmp_path / "path.jsonl"
    path(ends, alphas=[0], resume=file)
    first = json.loads(file.read_text().splitlines()[0])
    file.write_text(json.dumps(["1.0", *first[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"resume: .* holds points of another path"):
        path(ends, alphas=[0], resume=file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": [math.nan]}, "alphas: "),
        ({"alphas": []}, "alphas: "),
        ({"batch_norm": "none"}, "batch_norm: 'none'"),
    ],
)
def test_bad_paths_are_named(ends, options, message):
    with pytest.raises(ValueError, match=message):
        path(ends, **options)


def test_weights_of_another_network_are_named(ends):
    state = dict(ends[1].state_dict())
    state["0.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"end: '0.weight' has shape \(2, 2\)"):
        interpolate(ends[0], F.cross_entropy, data_list(), ends[0].state_dict(), state)
    del state["0.weight"]
    with pytest.raises(ValueError, match=r"end: has no '0.weight'"):
        interpolate(ends[0], F.cross_entropy, data_list(), ends[0].state_dict(), state)
