"""Eigenvalues, trace, Frobenius norm, density and log-determinant against dense truth; intervals that cover."""

import math
from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from tests.callbacks.functional.dense import KINDS, data, hessian, network
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


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    module = network(request.param)
    return HessianOperator(module, F.cross_entropy, data()), hessian(module).detach()


def test_eigenvalues_are_the_dense_ones(pair):
    operator, dense = pair
    found = top_eigenvalues(operator, k=5, tol=1e-10)
    truth = torch.linalg.eigvalsh(dense)
    torch.testing.assert_close(found.values, truth.flip(0)[:5], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(dense @ found.vectors, found.vectors * found.values, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(5).double(), rtol=0, atol=1e-10)
    assert found.converged
    assert bool(((found.values - truth.flip(0)[:5]).abs() <= found.error + 1e-12).all())


@pytest.mark.parametrize("seed", range(20))
def test_the_error_asked_for_is_kept_by_every_seed(seed):
    values = torch.cat([torch.tensor([9.0, 7, 6.5, 5, 4.8]), torch.rand(495) - 0.3])
    found = top_eigenvalues(symmetric(values), k=5, tol=1e-3, seed=seed)
    assert bool(((found.values - values[:5]).abs() <= 1e-3 * values[:5]).all())
    assert found.products <= 40


@pytest.mark.slow
@pytest.mark.parametrize(("second", "share"), [(9.9, 0.08), (9.5, 0.02)])
def test_a_close_pair_is_rarely_taken_for_one(second, share):
    matrix = symmetric(torch.cat([torch.tensor([10.0, second]), 5 * torch.rand(198)]))
    found = [top_eigenvalues(matrix, tol=1e-3, seed=seed) for seed in range(200)]
    assert sum(abs(float(f.values[0]) - 10) > 0.01 for f in found) <= share * 200
    assert all(float(f.error[0]) <= 1e-3 * float(f.values[0]) for f in found)


def test_an_eigenvalue_lies_within_the_error_of_every_value(pair):
    operator, dense = pair
    truth = torch.linalg.eigvalsh(dense)
    found = top_eigenvalues(operator, k=4, tol=0.1, seed=3)
    assert bool(((found.values[:, None] - truth).abs().min(dim=1).values <= found.error + 1e-12).all())


def test_the_largest_in_magnitude_may_be_negative():
    matrix = symmetric([-9.0, 3, 2, 1] + [0.1] * 50)
    assert top_eigenvalues(matrix, which="magnitude").values.tolist() == pytest.approx([-9], rel=1e-3)
    assert top_eigenvalues(matrix).values.tolist() == pytest.approx([3], rel=1e-3)


def test_multiple_eigenvalues_and_zero_matrices_are_found_whole():
    torch.testing.assert_close(
        top_eigenvalues(Matrix(torch.eye(6).double() * 2), k=6).values, torch.full((6,), 2.0).double()
    )
    assert top_eigenvalues(Matrix(torch.zeros(6, 6)), k=3).values.tolist() == [0, 0, 0]


def test_a_search_that_is_cut_short_says_so():
    found = top_eigenvalues(symmetric(torch.rand(200)), k=5, tol=1e-8, max_products=12)
    assert (found.converged, found.products) == (False, 12)


@pytest.mark.parametrize("k", [0, 7])
def test_a_number_of_eigenvalues_that_there_is_not_is_named(k):
    with pytest.raises(ValueError, match=f"k: {k} eigenvalues of a matrix with 6 rows"):
        top_eigenvalues(Matrix(torch.eye(6)), k=k)


@pytest.mark.parametrize("measure", [top_eigenvalues, trace, frobenius_norm])
@pytest.mark.parametrize(
    ("field", "value"), [("tol", 0.0), ("tol", math.nan), ("tol", -1), ("max_products", 0), ("max_products", -5)]
)
def test_a_tolerance_or_a_limit_that_is_not_positive_is_named(measure, field, value):
    with pytest.raises(ValueError, match=f"{field}: {value} is not a positive"):
        measure(symmetric(torch.arange(6.0)), **{field: value})


def coverage(estimate, truth, seeds=500):
    """The share of seeds whose 95 % interval holds the truth."""
    found = [estimate(seed) for seed in range(seeds)]
    assert {e.high >= e.low for e in found} == {True}
    return sum(e.low <= truth <= e.high for e in found) / seeds


@pytest.mark.slow
def test_trace_intervals_cover(pair):
    matrix = Matrix(pair[1])
    assert 0.92 <= coverage(lambda seed: trace(matrix, tol=0.2, seed=seed), float(matrix.dense.trace())) <= 0.98


@pytest.mark.slow
def test_frobenius_intervals_cover(pair):
    matrix = Matrix(pair[1])
    truth = float(matrix.dense.norm())
    assert 0.92 <= coverage(lambda s: frobenius_norm(matrix, tol=0.02, seed=s, deflated=8), truth) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("outliers", [1, 10])
@pytest.mark.parametrize("tol", [0.5, 0.1])
def test_trace_intervals_cover_where_a_few_eigenvalues_are_most_of_it(outliers, tol):
    matrix = symmetric([100.0 - i for i in range(outliers)] + [0.01] * (300 - outliers))
    truth = float(matrix.dense.trace())
    assert coverage(lambda seed: trace(matrix, tol=tol, seed=seed), truth, seeds=100) >= 0.92


SPECTRA = {
    "decaying": [100 / (i + 1) ** 1.5 for i in range(200)],
    "outliers": [50.0, 20, 19.9, 8, 5, *(math.sin(i) for i in range(195))],
    "few distinct": [9.0] * 4 + [7.0] * 6 + [-2.0] * 20 + [1.0] * 70,  # the Krylov space ends after 4 steps
}
MEASURES = {
    "top": lambda matrix, **run: top_eigenvalues(matrix, k=3, tol=1e-8, **run),
    "trace": lambda matrix, **run: trace(matrix, tol=0.05, **run),
    "norm": lambda matrix, **run: frobenius_norm(matrix, tol=0.01, **run),
}


def run(matrix, seed):
    return Lanczos(matrix, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("order", list(permutations(MEASURES)), ids="-".join)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_shared_run_gives_what_each_measure_gives_alone_for_fewer_products(spectrum, order):
    matrix = symmetric(SPECTRA[spectrum])
    alone = {name: measure(matrix, seed=5) for name, measure in MEASURES.items()}
    separately, matrix.products = matrix.products, 0
    lanczos = run(matrix, seed=5)
    shared = {name: MEASURES[name](matrix, lanczos=lanczos) for name in order}
    for name in ("trace", "norm"):
        assert shared[name].samples.tolist() == pytest.approx(alone[name].samples.tolist(), rel=1e-9, abs=1e-12)
        assert (shared[name].value, shared[name].error) == pytest.approx((alone[name].value, alone[name].error))
    torch.testing.assert_close(shared["top"].values, alone["top"].values)
    torch.testing.assert_close(shared["top"].vectors, alone["top"].vectors)
    steps, samples = max(alone["top"].products, 24), sum(len(alone[name].samples) for name in ("trace", "norm"))
    assert matrix.products == sum(e.products for e in shared.values()) == steps + samples
    assert separately - matrix.products == alone["top"].products + 16 + 24 - steps


def on_a_longer_run(estimator, matrix, tol, seed):
    """On a run of more steps than are deflated, as an eigenvalue that converges slowly leaves it."""
    lanczos = run(matrix, seed)
    lanczos.extend(40)
    return estimator(matrix, tol=tol, lanczos=lanczos)


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", ["decaying", "outliers"])
@pytest.mark.parametrize("estimator", [trace, frobenius_norm])
def test_intervals_on_a_shared_run_cover(spectrum, estimator):
    matrix = symmetric(SPECTRA[spectrum])
    truth = float(matrix.dense.trace() if estimator is trace else matrix.dense.norm())
    assert 0.92 <= coverage(lambda s: on_a_longer_run(estimator, matrix, 0.02, s), truth) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", ["decaying", "outliers"])
@pytest.mark.parametrize(("estimator", "power"), [(trace, 1), (frobenius_norm, 2)])
def test_a_fixed_number_of_probes_on_a_shared_run_is_unbiased(spectrum, estimator, power):
    matrix = symmetric(SPECTRA[spectrum])
    truth = float(matrix.dense.trace() if estimator is trace else matrix.dense.norm() ** 2)
    estimates = [on_a_longer_run(estimator, matrix, 10, seed) for seed in range(300)]  # the pilot is enough
    assert {len(e.samples) for e in estimates} == {16}
    found = torch.tensor([e.value**power for e in estimates], dtype=torch.float64)
    assert abs(float(found.mean()) - truth) <= 3 * float(found.std()) / math.sqrt(len(found))


@pytest.mark.parametrize("measure", [top_eigenvalues, trace, frobenius_norm])
def test_a_run_on_another_operator_is_refused(measure):
    with pytest.raises(ValueError, match="lanczos: a run on another operator"):
        measure(symmetric([1.0, 2]), lanczos=run(symmetric([1.0, 2]), 0))


@pytest.mark.parametrize("estimator", [trace, frobenius_norm])
def test_without_deflation_it_is_plain_hutchinson(estimator):
    matrix = symmetric(torch.rand(200))
    truth = float(matrix.dense.trace() if estimator is trace else matrix.dense.norm())
    found = estimator(matrix, tol=0.02, deflated=0)
    assert found.value == pytest.approx(truth, rel=0.06)
    assert found.products == len(found.samples)


@pytest.mark.parametrize("estimator", [trace, frobenius_norm, top_eigenvalues])
def test_a_hessian_that_is_not_finite_never_counts_as_converged(estimator):
    found = estimator(Matrix(torch.full((40, 40), math.nan, dtype=torch.float64)))
    assert not found.converged
    assert math.isnan(float(found.error if isinstance(found.error, float) else found.error[0]))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [trace, frobenius_norm])
def test_a_smaller_tolerance_costs_more_and_errs_less(estimator):
    matrix = symmetric(torch.cat([torch.tensor([5.0, 4, 3]), torch.rand(397)]))
    truth = float(matrix.dense.trace() if estimator is trace else matrix.dense.norm())
    loose, tight = (
        [estimator(matrix, tol=tol, seed=seed) for seed in range(20)]
        for tol in ((0.05, 0.01) if estimator is trace else (0.01, 0.001))
    )
    assert sum(e.products for e in tight) > sum(e.products for e in loose)
    assert sum((e.value - truth) ** 2 for e in tight) < sum((e.value - truth) ** 2 for e in loose)


def test_the_result_is_the_same_whatever_the_block():
    matrix = symmetric(torch.rand(100))
    assert trace(matrix, block=1).value == pytest.approx(trace(matrix, block=7).value, rel=1e-12)


def test_few_rows_are_measured_exactly():
    matrix = symmetric([3.0, 2, -1])
    assert (trace(matrix).value, trace(matrix).error) == (pytest.approx(4), 0)
    assert (frobenius_norm(matrix).value, frobenius_norm(matrix).error) == (pytest.approx(math.sqrt(14)), 0)


@pytest.mark.slow
def test_the_density_has_the_moments_of_the_spectrum(pair):
    operator, dense = pair
    density = spectral_density(operator, vectors=24, steps=20, seed=1)
    for power in range(1, 4):
        moment, truth = (
            density.expectation(lambda x, p=power: x**p),
            float(torch.linalg.matrix_power(dense, power).trace()),
        )
        assert abs(moment.value - truth / len(dense)) <= 2 * moment.error
    step = float(density.grid[1] - density.grid[0])
    assert float(density.values.sum()) * step == pytest.approx(1, abs=0.01)
    assert density.products == 24 * 20


def test_the_quadrature_of_a_vector_is_exact_for_polynomials():
    matrix = symmetric(torch.rand(50))
    density = spectral_density(matrix, vectors=2, steps=5, seed=3)
    generator = torch.Generator().manual_seed(3)
    for i in range(2):
        v = torch.randn(50, generator=generator, dtype=torch.float64)
        v = v / v.norm()
        truth = float(v @ torch.linalg.matrix_power(matrix.dense, 9) @ v)
        assert float((density.weights[i] * density.nodes[i] ** 9).sum()) == pytest.approx(truth, rel=1e-10)


def test_the_log_determinant_of_what_is_above_the_cut(pair):
    operator, dense = pair
    values = torch.linalg.eigvalsh(dense)
    cut = float(values[-6:-4].mean())
    found = log_determinant(operator, cut=cut)
    assert (found.count, found.converged) == (5, True)
    assert found.value == pytest.approx(float(values[-5:].log().sum()), abs=max(found.error, 1e-9))


@pytest.mark.parametrize("seed", range(10))
def test_no_eigenvalue_above_the_cut_is_missed(seed):
    values = torch.cat([torch.logspace(-1, 1, 30), 0.05 * torch.rand(370)])
    found = log_determinant(symmetric(values), cut=0.09, seed=seed)
    assert (found.count, found.converged) == (30, True)
    assert found.value == pytest.approx(float(torch.logspace(-1, 1, 30).log().sum()), abs=found.error + 1e-3)


def test_an_eigenvalue_that_occurs_several_times_counts_as_often():
    values = [3.0] * 4 + [2.0] * 3 + [1.0] * 10 + [0.1] * 60
    found = log_determinant(symmetric(values), cut=0.5)
    assert (found.count, found.converged) == (17, True)
    assert found.value == pytest.approx(4 * math.log(3) + 3 * math.log(2), abs=1e-6)


def test_a_density_of_one_eigenvalue_is_a_peak_there_and_its_logarithm_is_finite():
    for value in (0.0, 2.0):
        density = spectral_density(symmetric([value] * 30), vectors=2, steps=5)
        assert bool(density.values.isfinite().all())
        assert float(density.grid[density.values.argmax()]) == pytest.approx(value, abs=0.01)
    assert density.expectation(torch.log).value == pytest.approx(math.log(2))


def test_a_log_determinant_over_too_many_eigenvalues_says_so():
    found = log_determinant(symmetric(torch.logspace(-3, 1, 400)), cut=0.01, max_products=60)
    assert (found.converged, found.error) == (False, math.inf)
    assert found.count < int((torch.logspace(-3, 1, 400) > 0.01).sum())


def test_a_cut_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="cut: 0 is not positive"):
        log_determinant(symmetric([1.0, 2]), cut=0)


class Diagonal:
    def __init__(self, values):
        self.values, self.num_params, self.dtype, self.device = values, len(values), values.dtype, values.device

    def matvec(self, vector):
        return self.values * vector


@pytest.mark.parametrize("seed", [251, 1021, 1322, 1426])
def test_the_largest_eigenvalue_is_found_from_starts_that_hardly_have_its_direction(seed):
    """From these starts the second, 9.5, has converged before the first has shown."""
    bulk = torch.empty(500).exponential_(20, generator=torch.Generator().manual_seed(0))
    spectrum = torch.cat([torch.tensor([10, 9.5, 9, 8, 3, 2, 1.5]), bulk]).double()
    found = top_eigenvalues(Diagonal(spectrum), seed=seed)
    assert found.converged
    assert float(found.values[0]) == pytest.approx(10, rel=1e-3)
