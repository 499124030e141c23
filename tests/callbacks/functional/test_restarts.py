"""Lanczos within a bound of memory: the same numbers whatever was computed before, in no more bytes than were said."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.callbacks.functional.dense import hessian
from tests.callbacks.functional.matrices import Matrix, symmetric
from three_factors.callbacks.functional import (
    HessianOperator,
    Lanczos,
    frobenius_norm,
    log_determinant,
    spectral_density,
    top_eigenvalues,
    trace,
)
from three_factors.callbacks.functional.lanczos import seeded
from three_factors.callbacks.functional.memory import fitting_vectors, needed


def bulk(n, power=-1.5):
    return torch.arange(1, n + 1, dtype=torch.float64) ** power


def uniform(n, low, high):
    return low + (high - low) * torch.rand(n, generator=seeded(1), dtype=torch.float64)


def some(*values):
    return torch.tensor(values, dtype=torch.float64)


SPECTRA = {
    "clustered": torch.cat([10 + 0.05 * torch.arange(8), uniform(292, 0, 5)]),
    "indefinite": torch.cat([torch.linspace(-3, 3, 396).double(), some(-5, 5.2, 4.5, -4.4)]),
    "negative-dominated": torch.cat([-10 * bulk(280, -1), some(0.3, 0.25, 0.2, 0.15), uniform(16, 0, 0.1)]),
    "low-rank": torch.cat([torch.linspace(1, 4, 40), torch.linspace(-3, -0.5, 40), torch.zeros(520)]).double(),
    "multiple": torch.cat([some(5, 5, 5, 4, 4, 4, 4, 3, 3), uniform(241, -0.5, 1.5)]),
}
MATRICES = {name: symmetric(values) for name, values in SPECTRA.items()}


def largest(values, k, which="algebraic"):
    """The k largest distinct eigenvalues, as torch.linalg.eigvalsh finds them."""
    distinct = values[torch.cat([values.diff() > 1e-9, torch.tensor([True])])]
    return distinct[(distinct if which == "algebraic" else distinct.abs()).argsort(descending=True)][:k]


@pytest.mark.parametrize("which", ["algebraic", "magnitude"])
@pytest.mark.parametrize("max_vectors", [12, 18, 24, 64])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_restarted_run_finds_the_dense_eigenvalues_and_those_of_a_run_that_keeps_all(spectrum, max_vectors, which):
    matrix = MATRICES[spectrum]
    found, whole = (
        top_eigenvalues(matrix, k=3, tol=1e-8, which=which, max_vectors=kept, max_products=1000)
        for kept in (max_vectors, None)
    )
    truth = largest(torch.linalg.eigvalsh(matrix.dense), 3, which)
    torch.testing.assert_close(found.values, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=1e-10)
    assert found.converged
    assert found.products == whole.products or max_vectors < whole.products


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spectrum", ["indefinite", "low-rank"])
def test_residuals_are_true_and_vectors_orthonormal_after_many_restarts(spectrum, dtype):
    matrix = symmetric(SPECTRA[spectrum], dtype=dtype)
    run = Lanczos(matrix, seeded(2), max_vectors=12)
    for steps in (40, 77, 150):
        found = top_eigenvalues(matrix, k=3, tol=1e-30, max_products=steps, lanczos=run)
        true = (matrix.dense @ found.vectors - found.vectors * found.values.to(dtype)).norm(dim=0).double()
        rounding = 50 * torch.finfo(dtype).eps * float(matrix.dense.norm(p=2))
        assert bool(((true - found.residuals).abs() <= rounding).all())
        gram = found.vectors.T @ found.vectors
        torch.testing.assert_close(gram, torch.eye(3, dtype=dtype), rtol=0, atol=50 * torch.finfo(dtype).eps)
    basis = run.vectors(150)
    inside = (basis @ matrix.dense @ basis.T).double()
    torch.testing.assert_close(inside, run.projected(150), rtol=0, atol=10 * rounding)


def of_a_network(outliers, seed):
    """Outliers over a bulk that falls as i^-1.5, a third of it negative, as trained networks have it."""
    generator = seeded(seed)
    sign = torch.where(torch.rand(400 - outliers, generator=generator) < 0.3, -1.0, 1.0)
    return symmetric(torch.cat([5 + 25 * torch.rand(outliers, generator=generator), 2 * bulk(400 - outliers) * sign]))


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("outliers", [6, 40])
def test_on_spectra_of_networks_24_vectors_take_hardly_more_products_than_all(outliers, k):
    products, restarts = [0, 0], 0
    for seed in range(2):
        matrix = of_a_network(outliers, seed)
        for tol in (1e-3, 1e-6):
            one, all_kept = (top_eigenvalues(matrix, k, tol, max_vectors=m) for m in (24, None))
            products = [products[0] + one.products, products[1] + all_kept.products]
            restarts += one.products > 24
            torch.testing.assert_close(one.values, all_kept.values, rtol=tol, atol=0)
    assert products[0] <= 1.5 * products[1]
    assert (restarts > 0) == (outliers == 40)


def test_until_the_basis_is_full_the_bound_changes_no_bit():
    matrix = MATRICES["indefinite"]
    runs = [Lanczos(matrix, seeded(3), max_vectors=m) for m in (64, None)]
    for run in runs:
        run.extend(64)
    assert runs[0].alphas == runs[1].alphas
    assert runs[0].betas == runs[1].betas
    assert torch.equal(runs[0].basis[:64], runs[1].basis[:64])
    assert all(torch.equal(a, b) for a, b in zip(runs[0].ritz(), runs[1].ritz()))


@pytest.mark.parametrize("max_vectors", [6, 24, 64])
def test_the_basis_has_no_more_rows_than_asked_for(max_vectors):
    run = Lanczos(MATRICES["indefinite"], seeded(0), max_vectors=max_vectors)
    run.extend(100)
    assert (run.size, len(run.basis)) == (100, max_vectors)


def test_by_default_64_vectors_are_kept():
    run = Lanczos(MATRICES["indefinite"], seeded(0))
    top_eigenvalues(run.operator, k=5, tol=1e-12, lanczos=run)
    assert run.size > 100
    assert len(run.basis) == 64


MEASURES = {
    "top": lambda matrix, **run: top_eigenvalues(matrix, 2, 1e-7, max_products=300, **run),
    "smallest tolerance": lambda matrix, **run: top_eigenvalues(matrix, 3, 1e-13, max_products=80, **run),
    "magnitude": lambda matrix, **run: top_eigenvalues(matrix, 2, 1e-3, which="magnitude", **run),
    "trace": lambda matrix, **run: trace(matrix, tol=0.5, max_products=20, **run),
    "norm": lambda matrix, **run: frobenius_norm(matrix, tol=0.2, max_products=20, **run),
}
FEW = symmetric([float(i % 14 - 3) for i in range(90)])  # 14 distinct eigenvalues: a run breaks down after 14 steps


@settings(max_examples=25)
@given(
    spectrum=st.sampled_from(["indefinite", "low-rank", "multiple", "few"]),
    max_vectors=st.sampled_from([12, 15, 24, 64]),
    before=st.lists(st.sampled_from([*MEASURES, 1, 13, 40, 90]), max_size=4),
    then=st.sampled_from(list(MEASURES)),
    seed=st.integers(0, 5),
)
def test_a_result_is_the_same_whatever_the_run_was_used_for_before(spectrum, max_vectors, before, then, seed):
    matrix = FEW if spectrum == "few" else MATRICES[spectrum]
    alone, shared = (Lanczos(matrix, seeded(seed), max_vectors=max_vectors) for _ in range(2))
    for use in before:
        shared.extend(use) if isinstance(use, int) else MEASURES[use](matrix, lanczos=shared)
    expected = MEASURES[then](matrix, lanczos=alone)
    products = matrix.products
    found = MEASURES[then](matrix, lanczos=shared)
    assert found.products == matrix.products - products
    for field in vars(expected).keys() - {"products"}:
        one, other = getattr(expected, field), getattr(found, field)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("estimator", [trace, frobenius_norm])
def test_a_run_that_has_restarted_begins_anew_in_its_own_memory_and_says_what_that_cost(estimator):
    matrix = MATRICES["indefinite"]
    run = Lanczos(matrix, seeded(0), max_vectors=24)
    run.extend(60)
    place, before = run.basis.data_ptr(), run.products
    found = estimator(matrix, tol=1, deflated=16, lanczos=run)
    assert run.basis.data_ptr() == place
    assert found.products - len(found.samples) == run.products - before == run.size == 16


def test_a_start_vector_that_was_given_is_begun_with_again():
    matrix = MATRICES["indefinite"]
    start = torch.ones(400, dtype=torch.float64)
    run = Lanczos(matrix, seeded(0), start, max_vectors=12)
    first = run.vectors(3).clone()
    run.extend(40)
    assert torch.equal(run.vectors(3), first)
    torch.testing.assert_close(first[0], start / 20)


def test_ritz_values_of_earlier_steps_are_known_after_a_restart():
    run = Lanczos(MATRICES["indefinite"], seeded(0), max_vectors=12)
    known = []
    for steps in range(1, 60):
        run.extend(steps)
        known.append(run.ritz())
    for steps in range(1, 60):
        assert all(torch.equal(a, b) for a, b in zip(run.ritz(steps), known[steps - 1]))
    assert torch.equal(run.tridiagonal(12), run.projected(12))
    with pytest.raises(ValueError, match=r"steps: 13 with a restart at 12, where T is projected\(\)"):
        run.tridiagonal(13)


@pytest.mark.parametrize("steps", [24, 40])
def test_what_a_restarted_run_has_deflated_is_taken_off_exactly(steps):
    matrix = MATRICES["negative-dominated"]
    run = Lanczos(matrix, seeded(0), max_vectors=12)
    basis, inside = run.vectors(steps), run.projected(steps)
    left = torch.eye(len(matrix.dense), dtype=torch.float64) - basis.T @ basis
    rest = left @ matrix.dense @ left
    assert float(inside.trace() + rest.trace()) == pytest.approx(float(matrix.dense.trace()))
    square = float(inside.norm() ** 2 + 2 * run.betas[steps - 1] ** 2 + rest.norm() ** 2)
    assert square == pytest.approx(float(matrix.dense.norm() ** 2))


@pytest.mark.parametrize("estimator", [trace, frobenius_norm])
def test_with_fewer_vectors_than_are_deflated_the_interval_still_covers(estimator):
    matrix = of_a_network(6, 0)
    truth = float(matrix.dense.trace() if estimator is trace else matrix.dense.norm())
    found = [estimator(matrix, tol=0.02, lanczos=Lanczos(matrix, seeded(s), max_vectors=9)) for s in range(20)]
    assert sum(e.low <= truth <= e.high for e in found) >= 17


@pytest.mark.parametrize("distinct", [1, 2, 7])
@pytest.mark.parametrize("low", [0, -3])
def test_an_invariant_subspace_that_is_met_after_a_restart_is_gone_on_from(distinct, low):
    matrix = symmetric([float(low + i % distinct) for i in range(140)])
    run = Lanczos(matrix, seeded(0), max_vectors=24)
    run.extend(200)
    assert distinct > 1 or set(run.betas) == {0.0}  # with more of them rounding leads out of the space
    basis = run.vectors(200)
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(basis @ matrix.dense @ basis.T, run.projected(), rtol=0, atol=1e-11)
    assert run.ritz()[0][-3:].tolist() == pytest.approx([low + distinct - 1] * 3, abs=1e-12)  # copies have come in


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_gives_nan_through_restarts(value):
    matrix = Matrix(torch.full((40, 40), value, dtype=torch.float64))
    run = Lanczos(matrix, seeded(0), max_vectors=6)
    run.extend(50)
    found = top_eigenvalues(matrix, lanczos=run)
    assert math.isnan(float(found.values[0]))
    assert not found.converged
    assert not trace(matrix, lanczos=run).converged


@pytest.mark.parametrize(
    ("k", "max_vectors", "message"),
    [
        (5, 17, "max_vectors: 17 are too few for k: 5 eigenvalues; at least 18, or None"),
        (30, 64, "max_vectors: 64 are too few for k: 30 eigenvalues; at least 93, or None"),
        (1, 5, "max_vectors: 5 is less than 6"),
        (1, 0, "max_vectors: 0 is less than 6"),
    ],
)
def test_too_few_vectors_for_the_eigenvalues_are_refused(k, max_vectors, message):
    matrix = MATRICES["indefinite"]
    with pytest.raises(ValueError, match=message):
        top_eigenvalues(matrix, k=k, max_vectors=max_vectors)


def test_a_bound_that_is_never_reached_refuses_nothing():
    assert top_eigenvalues(symmetric([float(i) for i in range(30)]), k=30).converged
    found = top_eigenvalues(MATRICES["indefinite"], k=30, max_products=60)
    assert (found.products, found.converged) == (60, False)


def test_density_and_log_determinant_keep_every_vector():
    matrix = symmetric(torch.cat([torch.logspace(0, 1, 70), 0.5 * torch.rand(230, generator=seeded(0))]))
    assert log_determinant(matrix, cut=0.9).count == 70
    density = spectral_density(matrix, vectors=2, steps=90)
    assert density.nodes.shape == (2, 90)
    v = torch.randn(300, generator=seeded(0), dtype=torch.float64)
    v = v / v.norm()
    truth = float(v @ torch.linalg.matrix_power(matrix.dense / 10, 170) @ v)
    assert float((density.weights[0] * (density.nodes[0] / 10) ** 170).sum()) == pytest.approx(truth, rel=1e-9)


def network(width=40, dtype=torch.float32):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))
    module.to(dtype)
    return module, (torch.randn(24, 10, dtype=dtype), torch.randint(0, 3, (24,)))


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("estimator", [trace, frobenius_norm])
def test_no_bit_of_a_trace_or_norm_depends_on_how_many_vectors_are_multiplied_at_a_time(estimator, batches):
    module, (inputs, targets) = network()
    pairs = list(zip(inputs.chunk(batches), targets.chunk(batches)))
    operator = HessianOperator(module, F.cross_entropy, pairs)
    found = [estimator(operator, tol=0.1, max_products=20, block=block) for block in (1, 3, 16)]
    assert len({(e.value, e.error, len(e.samples), tuple(e.samples.tolist())) for e in found}) == 1


class Allocated(TorchDispatchMode):
    """The most bytes that tensors made inside it have held at a time."""

    def __enter__(self):
        self.peak, self.live = 0, {}
        return super().__enter__()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in (t for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


class Sparing:
    """A diagonal operator of many rows, which allocates nothing but its products."""

    def __init__(self, dtype):
        self.num_params, self.dtype, self.device = 20_000, dtype, torch.device("cpu")
        self.diagonal = torch.linspace(-1, 1, self.num_params, dtype=dtype)

    def matvec(self, vector):
        return self.diagonal * vector

    def matmat(self, vectors):
        return self.diagonal[:, None] * vectors


def wide(dtype):
    """A network with one batch, whose graph is there before anything is counted."""
    module, batch = network(120, dtype)
    operator = HessianOperator(module, F.cross_entropy, [batch])
    operator.matvec(torch.ones(operator.num_params, dtype=dtype))
    return operator


@pytest.mark.slow
@pytest.mark.parametrize("order", [("trace", "norm", "top"), ("top", "trace", "norm")], ids="-".join)
@pytest.mark.parametrize(("k", "max_vectors", "block"), [(1, 12, 4), (3, 40, 8), (0, 24, 4), (2, 9, 0)])
@pytest.mark.parametrize(("make", "dtype"), [(Sparing, torch.float32), (Sparing, torch.float64), (wide, torch.float32)])
def test_no_more_memory_is_taken_than_was_said_and_nearly_that(make, dtype, k, max_vectors, block, order):
    operator = make(dtype)
    wanted = [name for name in order if (k if name == "top" else block)]
    found = []
    with Allocated() as allocated:
        run = Lanczos(operator, seeded(0), max_vectors=max_vectors)
        for name in wanted:
            if name == "top":  # more steps than the basis has rows
                found.append(top_eigenvalues(operator, k, 1e-12, max_products=45, lanczos=run))
            else:
                estimator = trace if name == "trace" else frobenius_norm
                found.append(estimator(operator, tol=0.5, max_products=16, block=block, lanczos=run))
    said = needed(operator.num_params, dtype.itemsize, k=k, max_vectors=max_vectors, block=block)
    assert 0.7 * said <= allocated.peak <= said


@given(
    q=st.integers(1, 5000),
    itemsize=st.sampled_from([4, 8]),
    k=st.integers(0, 8),
    block=st.integers(0, 16),
    share=st.floats(0, 2),
)
def test_the_vectors_that_fit_are_the_most_that_do(q, itemsize, k, block, share):
    memory = int(share * needed(q, itemsize, k=k, max_vectors=q, block=block))
    fit = fitting_vectors(q, itemsize, memory, k=k, block=block)
    fewest = 3 * (max(k, 1) + 1)
    if fit:
        assert fit >= fewest
        assert needed(q, itemsize, k=k, max_vectors=fit, block=block) <= memory
    if fit < max(q, fewest):
        assert needed(q, itemsize, k=k, max_vectors=max(fit + 1, fewest), block=block) > memory


@pytest.mark.slow
@pytest.mark.parametrize("which", ["algebraic", "magnitude"])
@pytest.mark.parametrize("max_vectors", [18, 24, 64])
def test_a_real_network_s_eigenvalues_are_the_dense_ones(max_vectors, which):
    module, (inputs, targets) = network(17, torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    dense = hessian(module, inputs=inputs, targets=targets).detach()
    operator = HessianOperator(module, F.cross_entropy, [(inputs, targets)])
    found = top_eigenvalues(operator, k=5, tol=1e-9, which=which, max_vectors=max_vectors, max_products=600)
    assert (found.converged, len(dense)) == (True, 547)
    torch.testing.assert_close(found.values, largest(torch.linalg.eigvalsh(dense), 5, which), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        (dense @ found.vectors - found.vectors * found.values).norm(dim=0), found.residuals, rtol=0, atol=1e-13
    )
