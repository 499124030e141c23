"""1, 2 and 3 gloo ranks with seeds of their own and uneven shards give the same numbers."""

import pytest
import torch
from torch.nn import functional as F

from tests.callbacks import fits
from tests.callbacks.functional.dense import batches, data, network
from tests.ranks import on_ranks
from three_factors.callbacks import InterpolationMonitor
from three_factors.callbacks.functional import (
    HessianOperator,
    batch_sharpness,
    finite_difference_norm,
    frobenius_norm,
    gradient_noise,
    interpolate,
    log_determinant,
    spectral_density,
    top_eigenvalues,
    trace,
)
from three_factors.lightning_modules.normalization import BatchNorm1d

SHARDS = {1: [(0, 40)], 2: [(0, 29), (29, 40)], 3: [(0, 7), (7, 30), (30, 40)]}


def measure(rank, world_size, kind):
    """Everything, on this rank's share of the examples, which it holds in batches of its own size."""
    torch.manual_seed(100 * world_size + rank)
    module = network(kind)
    torch.manual_seed(100 * world_size + rank)
    start, stop = SHARDS[world_size][rank]
    inputs, targets = (t[start:stop] for t in data())
    own = list(zip(inputs.split(6 + rank), targets.split(6 + rank)))
    operator = HessianOperator(module, F.cross_entropy, own)
    vector = torch.ones(operator.num_params, dtype=torch.float64)
    other = {k: v * 1.1 if v.is_floating_point() else v for k, v in module.state_dict().items()}
    path = interpolate(
        module, F.cross_entropy, own, module.state_dict(), other, alphas=[0, 1], batch_norm="interpolate"
    )
    found = {
        "product": operator.matvec(vector),
        "gradient": operator.gradient(),
        "eigenvalues": top_eigenvalues(operator, k=3, tol=1e-10).values,
        "trace": torch.tensor(trace(operator, tol=0.5).value),
        "frobenius": torch.tensor(frobenius_norm(operator, tol=0.1).value),
        "density": spectral_density(operator, vectors=2, steps=10).nodes,
        "log det": torch.tensor(log_determinant(operator, cut=0.05).value),
        "finite difference": torch.tensor(finite_difference_norm(operator, vectors=4).value),
        "path": torch.tensor(path.values),
        "examples": torch.tensor(operator.examples),
    }
    part = batches(8, 8, 8, 8)  # the i-th batches of the ranks are one batch
    shares = [tuple(t.tensor_split(world_size)[rank] for t in pair) for pair in part]
    noise = gradient_noise(module, F.cross_entropy, shares, training=False)
    found["noise"] = torch.tensor([noise.value, noise.mean_square.value, noise.square_trace.value, noise.error])
    found["kurtosis"] = torch.tensor(noise.kurtosis.value)
    mine = part[rank::world_size]
    found["batch sharpness"] = torch.tensor(batch_sharpness(HessianOperator(module, F.cross_entropy, mine)).value)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    F.cross_entropy(module(inputs), targets).backward()
    optimizer.step()  # training goes on
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    return found


@pytest.mark.ddp
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", ["tanh", "batch norm"])
def test_ranks_agree_with_one_process(world_size, kind):
    alone = measure(0, 1, kind)
    for found in on_ranks(world_size, measure, kind):
        for name, value in found.items():
            loose = name in ("finite difference",)  # differences of gradients at 1e-6: rounding is 1e-10 of them
            torch.testing.assert_close(
                value, alone[name], rtol=1e-6 if loose else 1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


# Sizes of each rank's batches: other numbers of them, a single example left over, a rank with one or none.
SIZES = {"uneven": [(12, 12, 1), (12, 3)], "nothing": [(12, 12, 16), ()], "one example": [(20, 19), (1,)]}


def losses(own, **options):
    """On the path of a network with the project's batch norm, which waits for all ranks in train mode."""
    module = network("batch norm")
    norm = BatchNorm1d(12).double()
    norm.load_state_dict(module[1].state_dict())
    module[1] = norm
    state = module.state_dict()
    other = {k: v * 1.1 if v.is_floating_point() else v for k, v in state.items()}
    return interpolate(module, F.cross_entropy, own, state, other, alphas=[0, 0.5], **options).values


def on_uneven_ranks(rank, world_size, folder):
    found = {}
    for split, (first, second) in SIZES.items():
        everything = batches(*first, *second)
        own = everything[len(first) :] if rank else everything[: len(first)]
        for policy in ("re-estimate", "batch"):
            found[split, policy] = losses(own, batch_norm=policy)
    file = folder / "not there" / "path.jsonl" if rank else folder / "path.jsonl"  # another machine's disk
    found["resumed"] = losses(own, resume=file), losses(own, resume=file)
    with pytest.raises(ValueError, match="batches: there is no example"):
        losses([])
    return found


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    return on_ranks(2, on_uneven_ranks, tmp_path_factory.mktemp("uneven"))


@pytest.mark.ddp
@pytest.mark.parametrize("split", SIZES)
def test_batch_norm_is_re_estimated_on_all_ranks_examples_however_they_are_split(uneven, split):
    alone = losses(batches(40), batch_norm="re-estimate")
    assert [found[split, "re-estimate"] for found in uneven] == 2 * [pytest.approx(alone, rel=1e-12)]


@pytest.mark.ddp
@pytest.mark.parametrize(("split", "sizes"), [("uneven", (12, 13, 15)), ("nothing", (12, 12, 16))])
def test_each_batchs_own_statistics_need_no_other_rank(uneven, split, sizes):
    alone = losses(batches(*sizes), batch_norm="batch")  # leftovers have joined a neighbour
    assert [found[split, "batch"] for found in uneven] == 2 * [pytest.approx(alone, rel=1e-12)]


@pytest.mark.ddp
def test_ranks_that_do_not_see_the_file_resume_with_the_first(uneven):
    for found in uneven:
        once, again = found["resumed"]
        assert once == again


def watched(kind="interpolation"):
    return InterpolationMonitor(alphas=[0, 0.5, 1], examples=101, batch_size=50)  # 51 on rank 0: one is left over


def monitored(rank, world_size):
    fits.monitor = watched
    return fits.fit_on_rank(rank, world_size, "mlp", "interpolation", "64-true")[1]


@pytest.mark.ddp
def test_the_monitor_gives_the_path_of_one_process_through_several_layers_of_batch_norm():
    watch = watched()
    fits.fit("mlp", [watch], precision="64-true")
    keys = ("interpolation/barrier", "interpolation/reference_loss", "interpolation/current_loss")
    alone = [{key: pytest.approx(row[key], rel=1e-6, abs=1e-9) for key in keys} for row in watch.history]
    for history in on_ranks(2, monitored):
        assert [{key: row[key] for key in keys} for row in history] == alone
