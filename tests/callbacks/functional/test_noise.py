"""Gradient noise against exact per-example gradients; unbiasedness; stationarity on a process that is known."""

import math
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from tests.callbacks.functional.dense import batches, data, hessian, network
from three_factors.callbacks.functional import GGNOperator, HessianOperator, gradient_noise
from three_factors.callbacks.functional.fluctuation import autocorrelation_time, stationarity
from three_factors.callbacks.functional.noise import _Sums


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
    assert (found.estimator, found.gradients, found.batch_size) == ("per_example", 40, 1)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_batch_means_estimate_the_same_covariance():
    module, (inputs, targets) = network("tanh"), data(4000)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    pairs = list(zip(inputs[order].split(20), targets[order].split(20)))
    examples = gradient_noise(module, F.cross_entropy, pairs)
    means = gradient_noise(module, F.cross_entropy, pairs, estimator="batch_means")
    assert (means.gradients, means.batch_size) == (200, 20)
    assert means.trace.low < examples.value < means.trace.high


def test_batch_norm_in_train_mode_takes_batches_and_keeps_its_buffers():
    module = network("batch norm")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert gradient_noise(module, F.cross_entropy, batches(*[10] * 6)).estimator == "batch_means"
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert gradient_noise(module, F.cross_entropy, data(), training=False).estimator == "per_example"
    with pytest.raises(ValueError, match="estimator: 'per_example' is not to be had, since under batch norm"):
        gradient_noise(module, F.cross_entropy, data(), estimator="per_example")


@pytest.mark.slow
def test_the_alignment_is_that_of_the_dense_matrices():
    module, (inputs, targets) = network("tanh"), data(2000)
    h, c = hessian(module, inputs=inputs, targets=targets), torch.cov(rows(module, inputs, targets).T)
    operator = HessianOperator(module, F.cross_entropy, (inputs, targets))
    found = gradient_noise(module, F.cross_entropy, (inputs, targets), hessian=operator).alignment
    truth = float((h @ c).trace().detach())
    assert found.trace_hc.low < truth < found.trace_hc.high
    assert found.cosine == pytest.approx(truth / float(h.norm() * c.norm()), rel=0.6)


def independent(rows):
    """A loss whose gradients are the inputs: w·x."""
    return (
        nn.Linear(rows.shape[1], 1, bias=False),
        (lambda output, target: output.mean()),
        (rows, torch.zeros(len(rows))),
    )


@pytest.mark.parametrize("estimator", ["per_example", "batch_means"])
@pytest.mark.parametrize("many", [5, 6, 21])
def test_the_fewest_gradients_and_more_give_finite_intervals(estimator, many):
    module, (inputs, targets) = network("tanh"), data(20 * many if estimator == "batch_means" else many)
    pairs = list(zip(inputs.chunk(many), targets.chunk(many)))
    found = gradient_noise(module, F.cross_entropy, pairs, estimator=estimator)
    assert found.gradients == many
    for estimate in (found.trace, found.mean_square, found.square_trace, found.isotropy, found.kurtosis):
        assert math.isfinite(estimate.value)
        assert math.isfinite(estimate.error)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["per_example", "batch_means"])
@pytest.mark.parametrize("kind", ["saturated", "dead", "equal", "equal in float32"])
def test_without_noise_the_ratios_are_nan(kind, estimator):
    module, (inputs, targets) = network("relu").float(), data(60)
    inputs, targets = inputs.float(), targets * 0
    if kind == "saturated":  # exp(-1000) is 0 in float32, and with it every gradient
        nn.init.zeros_(module[-1].weight)
        module[-1].bias.data = torch.tensor([1000.0, 0, 0, 0])
    elif kind == "dead":
        nn.init.constant_(module[2].bias, -1000)
    else:
        inputs = inputs[:1].expand(60, -1).contiguous()
        module = module.double() if kind == "equal" else module
    pairs = list(zip(inputs.to(module[0].weight.dtype).split(6), targets.split(6)))
    operator = HessianOperator(module, F.cross_entropy, pairs)
    found = gradient_noise(module, F.cross_entropy, pairs, estimator=estimator, hessian=operator, noise_ratio=0.1)
    assert found.value == pytest.approx(0, abs=1e-6 * max(found.mean_square.value, 1e-9))
    assert found.temperature.value == pytest.approx(0, abs=1e-6)
    assert math.isnan(found.isotropy.value)
    assert math.isnan(found.kurtosis.value)
    if kind == "saturated":
        assert found.value == found.mean_square.value == 0
        assert found.noise_scale is None
        assert math.isnan(found.alignment.cosine)
        assert math.isnan(found.alignment.lift)


def test_without_curvature_the_alignment_is_nan():
    module, loss, pairs = independent(torch.randn(40, 20, generator=torch.Generator().manual_seed(0)))
    found = gradient_noise(module, loss, pairs, hessian=HessianOperator(module, loss, pairs)).alignment
    assert found.trace_hc.value == 0
    assert all(map(math.isnan, (found.cosine, found.cosine_error, found.lift, found.lift_error)))


@pytest.mark.parametrize("estimator", ["per_example", "batch_means"])
def test_gradients_that_are_not_finite_give_nan(estimator):
    module, pairs = network("tanh"), batches(*[8] * 6)
    operator = HessianOperator(module, F.cross_entropy, pairs)

    def loss(output, target):
        return F.cross_entropy(output, target) * math.inf

    found = gradient_noise(module, loss, pairs, estimator=estimator, hessian=operator, noise_ratio=0.1)
    for estimate in (found.trace, found.mean_square, found.isotropy, found.temperature, found.kurtosis):
        assert math.isnan(estimate.value)
    assert found.noise_scale is None
    assert bool(found.top_eigenvalues.isnan().all())
    assert math.isnan(found.alignment.cosine)


class Counting(nn.Module):
    """Buffers that a forward pass reads and then writes to, in every way there is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4).double()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))
        self.register_buffer("bound", torch.zeros(8, dtype=torch.float64))

    def forward(self, x):
        output = self.layer(x - self.mean)  # as it was: with what the batch adds, examples would meet one another
        self.passes += 1
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        self.bound = torch.maximum(self.bound, x.detach().amax(0))
        return output


def normalised():
    torch.manual_seed(7)
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)), nn.Tanh(), nn.Linear(6, 4)).double()


@pytest.mark.parametrize("estimator", ["per_example", "batch_means"])
@pytest.mark.parametrize("make", [Counting, normalised])
def test_buffers_that_a_forward_pass_writes_to_stay_as_they_were(make, estimator):
    module = make()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = gradient_noise(module, F.cross_entropy, batches(*[4] * 10), estimator=estimator, chunk=7)
    operator = GGNOperator(module, F.cross_entropy, data())
    products = [operator.matvec(torch.ones(operator.num_params, dtype=torch.float64)) for _ in range(2)]
    torch.testing.assert_close(*products, rtol=0, atol=0)
    assert found.gradients == (40 if estimator == "per_example" else 10)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("make", [Counting, normalised])
def test_each_example_meets_the_buffers_as_they_were(make):
    module, (inputs, targets) = make().train(), data(12)
    found = []
    for x, y in zip(inputs, targets):
        one = make()
        one.load_state_dict(module.state_dict())
        loss = F.cross_entropy(one.train()(x[None]), y[None])
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(one.parameters()))]))
    truth = float(torch.cov(torch.stack(found).T).trace())
    assert gradient_noise(module, F.cross_entropy, (inputs, targets), chunk=5).value == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("estimator", ["per_example", "batch_means"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_half_precision_are_measured_in_float32(dtype, estimator):
    module, pairs = network("tanh").to(dtype), [(x.to(dtype), y) for x, y in batches(*[5] * 8)]
    found = gradient_noise(module, F.cross_entropy, pairs, estimator=estimator)
    assert {p.dtype for p in module.parameters()} == {dtype}
    exact = gradient_noise(module.double(), F.cross_entropy, [(x.double(), y) for x, y in pairs], estimator=estimator)
    assert found.value == pytest.approx(exact.value, rel=1e-5)
    assert found.kurtosis.value == pytest.approx(exact.kurtosis.value, rel=1e-3)


def test_the_square_of_the_gradient_is_that_of_the_population_not_of_the_training_loss():
    """Over all draws of 5 out of 7 without replacement its mean is |∇L|² - tr C/7, C being a sample's (over 6)."""
    g = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    draws = [_Sums(rows @ rows.T).without(None)[1] for rows in (g[list(c)] for c in combinations(range(7), 5))]
    training = float(g.mean(0) @ g.mean(0))
    assert sum(draws) / len(draws) == pytest.approx(training - float(torch.cov(g.T).trace()) / 7, rel=1e-10)


@pytest.mark.parametrize("number", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_the_alignments_lie_within_their_errors(number):
    module, (inputs, targets) = network("tanh"), data(number)
    h, c = hessian(module, inputs=inputs, targets=targets), torch.cov(rows(module, inputs, targets).T)
    operator = HessianOperator(module, F.cross_entropy, (inputs, targets))
    found = gradient_noise(module, F.cross_entropy, (inputs, targets), hessian=operator).alignment
    inner = float((h @ c).trace())
    cosine, lift = inner / float(h.norm() * c.norm()), len(h) * inner / float(h.trace() * c.trace())
    assert abs(found.cosine - cosine) < found.cosine_error < cosine
    assert abs(found.lift - lift) < found.lift_error < lift


@pytest.mark.parametrize("loss", [lambda o, t: o.sum(1).mean(), nn.Linear(4, 1, bias=False).double()])
def test_the_gauss_newton_matrix_of_a_loss_linear_in_the_outputs_is_zero(loss):
    def linear(output, target):
        return loss(output).mean() if isinstance(loss, nn.Module) else loss(output, target)

    operator = GGNOperator(network("tanh"), linear, batches(20, 20))
    v = torch.ones(operator.num_params, dtype=torch.float64)
    assert torch.equal(operator.matvec(v), torch.zeros_like(v))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: GGNOperator.from_batch_loss(m, lambda m, b: m(b[0]).sum(), [data()]), "batch_loss: '<lambda>'"),
        (lambda m: GGNOperator(m, lambda o, t: o, data()), r"loss: returned a tensor of shape \(40, 4\), not a scalar"),
        (lambda m: GGNOperator(m, lambda o, t: 1.0, data()), "loss: returned a float, not a scalar"),
        (lambda m: GGNOperator(m, lambda o, t: o.detach().sum(), data()), "loss: does not depend on the output"),
    ],
)
def test_what_a_gauss_newton_operator_cannot_take_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(network("tanh")).matvec(torch.ones(sum(p.numel() for p in network("tanh").parameters())))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": batches(10, 10, 10), "estimator": "batch_means"}, "batches: 3 gradients are too few"),
        ({"batches": batches(*[5] * 6, 6), "estimator": "batch_means"}, r"batches: sizes \[5, 6\]"),
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


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_ratio_that_is_undefined_is_nan(value):
    series = torch.full((200,), value, dtype=torch.float64)
    found = stationarity(series, series, square_norm=series + 1)
    assert math.isnan(found.value)
    assert found.verdict == "undefined"


def test_the_autocorrelation_time_of_an_autoregressive_process():
    x, series = 0.0, []
    for xi in torch.randn(50_000, generator=torch.Generator().manual_seed(0)).tolist():
        x = 0.9 * x + xi
        series.append(x)
    assert autocorrelation_time(torch.tensor(series)) == pytest.approx(1.9 / 0.1, rel=0.15)
