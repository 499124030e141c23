"""Interpolation: the losses are those of the interpolated weights; batch norm policies; widths; resuming."""

import copy
import math
import re
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.callbacks.functional.dense import batches, data, network
from three_factors.callbacks.functional import Interpolation, interpolate
from three_factors.lightning_modules.normalization import BatchNorm2d


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
        state = {
            k: (1 - a) * v + a * w if v.is_floating_point() else v
            for (k, v), w in zip(ends[0].state_dict().items(), ends[1].state_dict().values())
        }
        module.load_state_dict(state)
        for i, layer in enumerate(module):
            if isinstance(layer, nn.BatchNorm1d):
                layer.train(policy == "batch")
                if policy == "re-estimate":  # it is the only one: what comes in needs no statistics
                    incoming = module[:i](data()[0]).detach()
                    layer.running_mean, layer.running_var = incoming.mean(0), incoming.var(0, correction=0)
        outputs = [(module(x), y) for x, y in batches(25, 15)]
        truth = sum(len(y) * float(F.cross_entropy(o, y).detach()) for o, y in outputs) / 40
        assert value == pytest.approx(truth, rel=1e-12)
        assert accuracy == pytest.approx(sum(float((o.argmax(1) == y).sum()) for o, y in outputs) / 40)


def loss_of(module, parts, **options):
    state = module.state_dict()
    return interpolate(module, F.cross_entropy, parts, state, state, alphas=[0], **options).values[0]


@pytest.mark.parametrize("sizes", [(40, 2), (41, 1), (1, 41), (20, 22), (30, 12), (16, 9, 17)])
@pytest.mark.parametrize("kind", ["batch norm", "conv"])
def test_statistics_of_one_layer_do_not_depend_on_the_split_into_batches(kind, sizes):
    whole, split = batches(42), batches(*sizes)
    truth = loss_of(network(kind), whole)
    assert loss_of(network(kind), whole, estimation=split) == pytest.approx(truth, rel=1e-12)
    assert loss_of(network(kind), whole, batch_norm="batch") == pytest.approx(truth, rel=1e-12)


def deep():
    torch.manual_seed(7)
    layers = [nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("sizes", [(40, 2), (41, 1), (1, 41), (2, 1, 36, 3)])
@pytest.mark.parametrize("policy", ["re-estimate", "batch"])
def test_a_batch_too_short_for_statistics_of_its_own_joins_a_neighbour(sizes, policy):
    assert loss_of(deep(), batches(*sizes), batch_norm=policy) == pytest.approx(
        loss_of(deep(), batches(42), batch_norm=policy), rel=1e-12
    )


def test_examples_of_another_shape_are_left_in_batches_of_their_own():
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    images = [torch.randn(n, 1, size, size, dtype=torch.float64) for n, size in ((20, 4), (2, 6))]
    assert math.isfinite(loss_of(module, [(x, torch.zeros(len(x)).long()) for x in images]))


@pytest.mark.parametrize("policy", ["re-estimate", "batch"])
def test_an_only_example_is_evaluated_with_a_warning(policy):
    with pytest.warns(UserWarning, match="1 example alone"):
        assert math.isfinite(loss_of(deep(), batches(1), batch_norm=policy))


def test_each_batchs_own_statistics_are_those_of_training_also_in_ghost_batches():
    module = network("conv")
    module[2] = BatchNorm2d(6, ghost_batch_size=5).double()
    found = loss_of(module, batches(25, 17), batch_norm="batch")
    module[2].train()
    truth = sum(len(y) * float(F.cross_entropy(module(x), y).detach()) for x, y in batches(25, 17)) / 42
    assert found == pytest.approx(truth, rel=1e-12)


class Sometimes(nn.Module):
    """Batch norm for two examples only."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8).double()

    def forward(self, x):
        return self.norm(x) if len(x) == 2 else x


def test_a_layer_that_the_estimation_does_not_reach_keeps_its_statistics():
    module = Sometimes()
    module.norm.running_mean.fill_(3)
    truth = F.cross_entropy((batches(2)[0][0] - 3) / math.sqrt(1 + 1e-5), batches(2)[0][1])
    assert loss_of(module, batches(2), estimation=batches(40)) == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("policy", ["re-estimate", "interpolate", "batch"])
def test_empty_batches_are_skipped(ends, policy):
    parts, found = batches(0, 25, 0, 15), path(ends, alphas=[0, 1], batch_norm=policy)
    one, two = (end.state_dict() for end in ends)
    again = interpolate(
        ends[0], F.cross_entropy, parts, one, two, alphas=[0, 1], batch_norm=policy, estimation=batches(25, 0, 15)
    )
    assert again == found


@pytest.mark.parametrize("empty", [[], batches(0, 0)])
@pytest.mark.parametrize("field", ["batches", "estimation"])
def test_no_example_is_an_error(ends, empty, field):
    given = {"batches": batches(40), "estimation": batches(40)} | {field: empty}
    with pytest.raises(ValueError, match=rf"{field}: there is no example in {len(empty)} batches"):
        loss_of(ends[0], given["batches"], estimation=given["estimation"])


def mean_of_inputs(output, target):
    return output.mean()


def errors(sizes, seeds):
    """The losses and their errors over new data each time; the loss is the mean of standard normal numbers."""
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(module.weight)
    state, generator = module.state_dict(), torch.Generator().manual_seed(0)
    for _ in range(seeds):
        inputs = torch.randn(sum(sizes), 1, generator=generator, dtype=torch.float64)
        parts = list(zip(inputs.split(sizes), inputs.split(sizes)))
        found = interpolate(module, mean_of_inputs, parts, state, state, alphas=[0])
        yield found.values[0], found.error[0], [float(x.mean()) for x, _ in parts]


def test_the_error_over_equal_batches_is_the_standard_error_of_their_mean():
    (_, error, means), *_ = errors((10, 10, 10), 1)
    assert error == pytest.approx(statistics.stdev(means) / math.sqrt(3), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 5), (10, 7, 3)])
def test_the_squared_error_is_the_variance_of_the_loss_on_average(sizes):
    squares = [error**2 for _, error, _ in errors(sizes, 800)]
    assert statistics.mean(squares) == pytest.approx(1 / sum(sizes), rel=0.15)  # three standard errors


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
    assert (
        found.values
        == interpolate(
            ends[0], F.cross_entropy, data_list(), ends[0].state_dict(), ends[1].state_dict(), alphas=[0, 1]
        ).values
    )


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


def test_the_barrier_does_not_depend_on_the_order_of_the_points():
    found = Interpolation([1.0, 0.25, 2.0, 0.0], [3.0, 9.0, 50.0, 1.0], [], [], 1.0, (1.0, 1.0), "")
    assert found.barrier == 9 - 1.5


@pytest.mark.parametrize(("alphas", "missing"), [([-1.0, 2.0], "0"), ([0.0, 0.5], "1")])
def test_a_barrier_needs_both_ends(alphas, missing):
    with pytest.raises(ValueError, match=rf"alphas: {re.escape(repr(alphas))} has no point at a = {missing}"):
        _ = Interpolation(alphas, [1.0, 1.0], [], [], 1.0, (1.0, 1.0), "").barrier


def of_values(*values):
    """A path with points at a = -1, -0.5 … 2."""
    return Interpolation([i / 2 - 1 for i in range(7)], list(values), [], [], 1.0, (1.0, 1.0), "")


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "barrier"),
    [
        ((1, NAN, 1), NAN),
        ((NAN, 5, 1), NAN),
        ((1, 5, NAN), NAN),
        ((INF, 5, 1), NAN),
        ((1, 5, INF), NAN),
        ((1, INF, 1), INF),
    ],
)
def test_a_barrier_over_losses_that_are_not_finite_is_none(losses, barrier):
    assert of_values(9, 9, *losses, 9, 9).barrier == pytest.approx(barrier, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "value"),
    [
        ((1, NAN, 9), NAN),
        ((1, 1, NAN), NAN),
        ((NAN, 9, 9), NAN),
        ((INF, 9, 9), NAN),
        ((-INF, 9, 9), NAN),
        ((1, 2, NAN), 0.5),  # risen before
        ((1, INF, 9), 0.5),
        ((1, 1, INF), 1.0),
    ],
)
def test_a_width_past_a_loss_that_is_nan_is_nan_and_an_infinite_one_has_risen(losses, value):
    before, after = of_values(*reversed(losses), 1, 1, 1, 1), of_values(1, 1, 1, 1, *losses)
    for width in (before.width(1, 1.0), after.width(2, 1.0)):
        assert width.value == pytest.approx(value, nan_ok=True)
        assert not width.censored


def test_a_broken_off_path_is_resumed_without_doing_a_point_twice(ends, tmp_path):
    whole, calls = path(ends, alphas=[0, 0.5, 1]), []

    def counting(o, t):
        if not o.requires_grad:  # a point of the path, not the trial of what the loss does with examples
            calls.append(1)
        return F.cross_entropy(o, t)

    def resumed(alphas):
        return interpolate(
            ends[0],
            counting,
            batches(25, 15),
            ends[0].state_dict(),
            ends[1].state_dict(),
            alphas=alphas,
            resume=tmp_path / "path.jsonl",
        )

    resumed([0])
    with (tmp_path / "path.jsonl").open("a") as file:
        file.write("[0.5, 1.2")  # killed while it wrote
    assert len(calls) == 2
    assert resumed([0, 0.5, 1]).values == whole.values
    assert len(calls) == 6
    assert resumed([0, 0.5, 1]).values == whole.values
    assert len(calls) == 6


OTHER_INPUTS = [(x + 1e-9, y) for x, y in batches(25, 15)]
OTHER_TARGETS = [(x, (y + 1) % 4) for x, y in batches(25, 15)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batches": OTHER_INPUTS, "estimation": batches(25, 15)}, "batches"),
        ({"batches": OTHER_TARGETS, "estimation": batches(25, 15)}, "batches"),
        ({"batches": batches(15, 25), "estimation": batches(25, 15)}, "batches"),
        ({"estimation": OTHER_INPUTS}, "estimation"),
        ({"start": network("tanh")}, "start"),
        ({"end": network("relu")}, "end"),
        ({"batch_norm": "batch"}, "batch_norm, estimation"),
    ],
)
def test_points_of_another_path_are_refused(tmp_path, change, named):
    start, end = network("tanh"), network("tanh")
    with torch.no_grad():
        start[0].weight.flatten()[:2] = torch.tensor([1.0, 2.0])
        end[0].weight.flatten()[:2] = torch.tensor([2.0, 1.0])  # of the norm and at the distance of another
    given = {"batches": batches(25, 15), "start": start, "end": end} | change
    states = {k: given.pop(k).state_dict() for k in ("start", "end")}
    file = tmp_path / "path.jsonl"
    interpolate(start, F.cross_entropy, batches(25, 15), start.state_dict(), end.state_dict(), alphas=[0], resume=file)
    before = file.read_text()
    with pytest.raises(ValueError, match=rf"resume: .*' holds points of another path; not the same: {named}$"):
        interpolate(start, F.cross_entropy, **given, **states, alphas=[1], resume=file)
    assert file.read_text() == before


@pytest.mark.parametrize("header", ['{"batch_norm": "re-est', "nonsense\n", "[0.0, 1.0, 1.0, 0.0]\n", "\n"])
def test_a_file_with_a_broken_header_is_named(ends, tmp_path, header):
    (tmp_path / "path.jsonl").write_text(header)
    with pytest.raises(ValueError, match=r"resume: .*path.jsonl' does not begin with the header of a path"):
        path(ends, alphas=[0], resume=tmp_path / "path.jsonl")


def test_lines_that_are_no_point_are_done_again(ends, tmp_path):
    file = tmp_path / "path.jsonl"
    whole = path(ends, alphas=[0, 1], resume=file)
    header, *_ = file.read_text().splitlines()
    file.write_text("\n".join([header, "3", "[0.0]", "[[0.0], 1.0, 1.0, 0.0]", '[1.0, "a", 1.0, 0.0]', ""]))
    assert path(ends, alphas=[0, 1], resume=file) == whole


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
