"""Gradient noise against exact per-example gradients; unbiasedness; stationarity on a process that is known."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from callbacks.functional import HessianOperator, gradient_noise
from callbacks.functional.fluctuation import autocorrelation_time, stationarity
from callbacks.functional.noise import _Sums
from tests.callbacks.functional.dense import batches, data, hessian, network


def rows(module, inputs, targets):
    """Per-example gradients (m, q), made by a Jacobian."""

    def losses(p):
        return F.cross_entropy(functional_call(module, p, (inputs,)), targets, reduction="none")

    jacobian = jacrev(losses)({k: v.detach() for k, v in module.named_parameters()})
    return torch.cat([j.flatten(1) for j in jacobian.values()], 1)


@pytest.mark.parametrize("kind", ["tanh", "relu"])
@pytest.mark.parametrize("max_bytes", [1 << 30, 1 << 14], ids=["at once", "in blocks"])
def test_the_numbers_are_those_of_exact_per_example_gradients(kind, max_bytes):
    module = network(kind)
    g = rows(module, *data())
    c = torch.cov(g.T)
    found = gradient_noise(module, F.cross_entropy, batches(16, 16, 8), chunk=7, max_bytes=max_bytes, noise_ratio=0.01)
    assert (found.estimator, found.gradients, found.batch_size) == ("examples", 40, 1)
    assert found.value == pytest.approx(float(c.trace()), rel=1e-10)
    torch.testing.assert_close(found.top_eigenvalues, torch.linalg.eigvalsh(c).flip(0)[:3], rtol=1e-8, atol=0)
    assert found.mean_square.value == pytest.approx(float(g.mean(0) @ g.mean(0)) - float(c.trace()) / 40, rel=1e-8)
    assert found.temperature.value == pytest.approx(0.01 * float(c.trace()) / (2 * len(c)))
    assert found.trace.low < found.value < found.trace.high


def test_the_estimators_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    c, mean = mixing @ mixing.T, torch.ones(6, dtype=torch.float64)
    truth = torch.stack([c.trace(), mean @ mean, (c @ c).trace()])
    found = []
    for _ in range(4000):
        g = mean + torch.randn(8, 6, generator=generator, dtype=torch.float64) @ mixing.T
        found.append(_Sums(g @ g.T).without(None))
    values = torch.tensor(found, dtype=torch.float64)
    z = (values.mean(0) - truth) / (values.std(0) / math.sqrt(len(values)))
    assert bool((z.abs() < 3.5).all()), z


def test_leaving_out_a_group_is_computing_without_its_rows():
    g = torch.randn(47, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    whole = _Sums(g @ g.T)
    for group in (0, 13):
        rest = g[whole.kept(group)]
        assert whole.without(group) == pytest.approx(_Sums(rest @ rest.T).without(None), rel=1e-9)


def test_the_error_shrinks_with_the_number_of_gradients():
    module = network("tanh")
    few, many = (gradient_noise(module, F.cross_entropy, data(n)).trace.error for n in (40, 2560))
    assert many < few / 4


def test_isotropic_noise_has_isotropy_one_and_gaussian_noise_no_kurtosis():
    """A linear loss w·x has the inputs as its gradients, so their covariance is C."""
    module = nn.Linear(20, 1, bias=False)
    inputs = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0))
    found = gradient_noise(module, lambda o, t: o.mean(), (inputs, torch.zeros(2000)))
    assert found.isotropy.low < 1 < found.isotropy.high
    assert found.kurtosis.low < 0 < found.kurtosis.high
    assert found.value == pytest.approx(20, rel=0.05)
    assert found.noise_scale is None  # the mean gradient cannot be told from 0


def test_the_noise_scale_is_given_where_the_gradient_is_clear():
    found = gradient_noise(network("tanh"), F.cross_entropy, (data(400)[0], torch.zeros(400, dtype=torch.long)))
    assert found.noise_scale.value == pytest.approx(found.value / found.mean_square.value)


def test_batch_means_estimate_the_same_covariance():
    module, (inputs, targets) = network("tanh"), data(4000)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    pairs = list(zip(inputs[order].split(20), targets[order].split(20)))
    examples = gradient_noise(module, F.cross_entropy, pairs)
    means = gradient_noise(module, F.cross_entropy, pairs, estimator="batches")
    assert (means.gradients, means.batch_size) == (200, 20)
    assert means.trace.low < examples.value < means.trace.high


def test_batch_norm_in_train_mode_takes_batches_and_keeps_its_buffers():
    module = network("batch norm")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert gradient_noise(module, F.cross_entropy, batches(*[10] * 6)).estimator == "batches"
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert gradient_noise(module, F.cross_entropy, data(), training=False).estimator == "examples"
    with pytest.raises(ValueError, match="estimator: 'examples' under batch norm"):
        gradient_noise(module, F.cross_entropy, data(), estimator="examples")


def test_the_alignment_is_that_of_the_dense_matrices():
    module, (inputs, targets) = network("tanh"), data(2000)
    h, c = hessian(module, inputs=inputs, targets=targets), torch.cov(rows(module, inputs, targets).T)
    operator = HessianOperator(module, F.cross_entropy, (inputs, targets))
    found = gradient_noise(module, F.cross_entropy, (inputs, targets), hessian=operator).alignment
    truth = float((h @ c).trace().detach())
    assert found.trace_hc.low < truth < found.trace_hc.high
    assert found.cosine == pytest.approx(truth / float(h.norm() * c.norm()), rel=0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": batches(10, 10, 10), "estimator": "batches"}, "batches: 3 gradients are too few"),
        ({"batches": batches(*[5] * 6, 6), "estimator": "batches"}, r"batches: sizes \[5, 6\]"),
        ({"batches": []}, "batches: there is no example"),
        ({"estimator": "rows"}, "estimator: 'rows' is none of"),
    ],
)
def test_bad_input_is_named(arguments, message):
    options = {"batches": data()} | arguments
    with pytest.raises(ValueError, match=message):
        gradient_noise(network("tanh"), F.cross_entropy, options.pop("batches"), **options)


def sgd(steps, lr, momentum, start, curvature=1.0, seed=0):
    """Scalar SGD on a quadratic with gradient noise: series of dissipation, fluctuation, |θ|²."""
    generator = torch.Generator().manual_seed(seed)
    theta, v, series = start, 0.0, []
    for xi in torch.randn(steps, generator=generator, dtype=torch.float64).tolist():
        g = curvature * theta + xi
        v = momentum * v + g
        series.append((2 * theta * g, lr * (1 + momentum) * v * v, theta * theta))
        theta -= lr * v
    return torch.tensor(series, dtype=torch.float64).T


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_stationary_process_is_stationary_and_one_on_its_way_is_not(momentum):
    lr = 0.05 * (1 - momentum)
    there = stationarity(*sgd(60_000, lr, momentum, 0.0)[:2])
    assert (there.verdict, round(there.value, 1)) == ("stationary", 1.0)
    away = sgd(3000, lr / 20, momentum, 30.0)
    assert stationarity(*away[:2], square_norm=away[2]).verdict in ("not stationary", "too short")
    assert stationarity(*away[:2], square_norm=away[2]).drift < -1


def test_a_short_series_and_scale_invariant_weights_are_said():
    series = sgd(30, 0.05, 0.0, 0.0)
    assert stationarity(*series[:2]).verdict == "too short"
    assert stationarity(*series[:2], scale_invariant=True).verdict == "no stationary state"


def test_the_autocorrelation_time_of_an_autoregressive_process():
    x, series = 0.0, []
    for xi in torch.randn(50_000, generator=torch.Generator().manual_seed(0)).tolist():
        x = 0.9 * x + xi
        series.append(x)
    assert autocorrelation_time(torch.tensor(series)) == pytest.approx(1.9 / 0.1, rel=0.15)
