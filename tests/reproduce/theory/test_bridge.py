"""The loss of examples is exact to its second derivatives, its noise is that of minibatches, and the script says so."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reproduce import script
from three_factors.reproduce.engine.contract.stored import dumps, loads
from three_factors.reproduce.experiments import bridging
from three_factors.reproduce.theory import gibbs
from three_factors.reproduce.theory import simulate as simulator
from three_factors.reproduce.theory.classifier import Classifier, SoftmaxRegression
from three_factors.reproduce.theory.potentials import Quadratic
from three_factors.reproduce.theory.simulate import CHUNK, _batches, simulate
from three_factors.reproduce.theory.simulation import Examples, Gaussian, Isotropic, Minibatches, Simulation

N, D, CLASSES, L2 = 24, 4, 3, 0.1
POTENTIAL = SoftmaxRegression("0123", (0, 2, 5), N, D - 1, L2)


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    labels = np.tile([0, 2, 5, 7], 10)
    images = random.integers(0, 100, (40, 1, 4, 4)) + 20 * (labels[:, None, None, None] == 2)
    return {"train_images": images.astype(np.uint8), "train_labels": labels}


@pytest.fixture(scope="module")
def classifier(arrays):
    return POTENTIAL.on(arrays)


@pytest.fixture(scope="module")
def theta():
    return np.random.default_rng(1).standard_normal((5, POTENTIAL.dim))


def simulation(noise, batch_size=4, **changes):
    given = {"steps": 3, "record": (3,), "start": "minimum", "chains": 5} | changes
    return Simulation(POTENTIAL, 0.1, batch_size, noise, **given)


def reference(classifier, examples=None):
    """The same loss by torch: all logits, the last one 0."""
    x = torch.tensor(classifier.x)
    labels = torch.tensor(np.where(classifier.truth.any(axis=1), classifier.truth.argmax(axis=1), CLASSES - 1))
    chosen = slice(None) if examples is None else torch.as_tensor(examples)

    def loss(theta):
        logits = torch.cat([x[chosen] @ theta.reshape(CLASSES - 1, D).T, torch.zeros(len(x[chosen]), 1)], dim=1)
        return torch.nn.functional.cross_entropy(logits, labels[chosen]) + L2 / 2 * (theta**2).sum()

    return loss


def test_loss_and_gradient_are_torchs(classifier, theta):
    for point, loss, gradient in zip(theta, classifier.loss(theta), classifier.gradient(theta)):
        at = torch.tensor(point, requires_grad=True)
        value = reference(classifier)(at)
        np.testing.assert_allclose(loss, value.item(), rtol=1e-13)
        np.testing.assert_allclose(gradient, torch.autograd.grad(value, at)[0], atol=1e-14)


def test_the_hessian_is_torchs(classifier, theta):
    found = torch.autograd.functional.hessian(reference(classifier), torch.tensor(theta[0]))
    np.testing.assert_allclose(classifier.hessian(theta[0]), found, atol=1e-13)


def test_a_batchs_gradient_is_torchs_on_its_examples(classifier, theta):
    batches = np.random.default_rng(2).integers(0, N, (5, 6))
    for point, batch, gradient in zip(theta, batches, classifier.batch_gradient(theta, batches)):
        at = torch.tensor(point, requires_grad=True)
        expected = torch.autograd.grad(reference(classifier, batch)(at), at)[0]
        np.testing.assert_allclose(gradient, expected, atol=1e-14)


def test_the_covariance_is_that_of_every_examples_gradient(classifier, theta):
    each = []
    for i in range(N):
        at = torch.tensor(theta[0], requires_grad=True)
        each.append(torch.autograd.grad(reference(classifier, [i])(at), at)[0].numpy())
    expected = np.cov(np.array(each).T, bias=True)
    np.testing.assert_allclose(classifier.covariance(theta[0]), expected, atol=1e-13)
    np.testing.assert_allclose(classifier.noise_trace(theta)[0], np.trace(expected), rtol=1e-12)


def test_no_gradient_is_left_at_the_minimum(classifier):
    assert np.abs(classifier.gradient(classifier.minimum[None])).max() < 1e-10
    assert np.linalg.eigvalsh(classifier.hessian(classifier.minimum)).min() >= L2


def test_logits_may_be_large(classifier):
    theta = np.full((1, POTENTIAL.dim), 1e5)
    assert np.isfinite(classifier.loss(theta)).all()
    assert np.isfinite(classifier.gradient(theta)).all()


def noise(classifier, sampling, batch_size, steps=1, chains=20_000):
    """Of the gradients at the minimum, (steps, chains, q)."""
    draw = _batches(Minibatches(sampling), N, batch_size, np.random.default_rng(3), chains)
    at = np.tile(classifier.minimum, (chains, 1))
    return np.stack([classifier.batch_gradient(at, draw()) for _ in range(steps)])


def test_minibatches_with_replacement_have_the_mean_gradient_and_the_covariance_c_over_s(classifier):
    found, expected = noise(classifier, "replacement", 4)[0], classifier.covariance(classifier.minimum) / 4
    scale = np.sqrt(np.trace(expected))
    assert np.abs(found.mean(axis=0)).max() < 4 * scale / len(found) ** 0.5
    np.testing.assert_allclose(np.cov(found.T), expected, atol=0.05 * np.abs(expected).max())


def test_an_epochs_only_batch_has_no_noise(classifier):
    assert np.abs(noise(classifier, "shuffle", N, steps=2, chains=50)).max() < 1e-14


def test_the_gradients_of_a_shuffled_epoch_add_up_to_none(classifier):
    assert np.abs(noise(classifier, "shuffle", 4, steps=N // 4, chains=50).sum(axis=0)).max() < 1e-13


def test_a_shuffled_epoch_takes_every_example_once_and_in_an_order_of_its_own():
    draw = _batches(Minibatches("shuffle"), N, 4, np.random.default_rng(4), 3)
    epochs = [np.concatenate([draw() for _ in range(N // 4)], axis=1) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=1), np.tile(np.arange(N), (3, 1)))
    assert (epochs[0][0] != epochs[0][1]).any()
    assert (epochs[0] != epochs[1]).any()


def test_isotropic_noise_has_the_trace_of_minibatches(classifier, arrays):
    spec = simulation(Isotropic(), steps=1, record=(1,), chains=20_000)
    moved = (simulate(spec, arrays=arrays)[0] - classifier.minimum) / spec.lr
    expected = np.trace(classifier.covariance(classifier.minimum)) / 4
    np.testing.assert_allclose(np.diag(np.cov(moved.T)), expected / POTENTIAL.dim, rtol=0.05)


def test_the_trace_relation_holds_for_any_covariance(classifier):
    h, c = classifier.hessian(classifier.minimum), classifier.covariance(classifier.minimum)
    n = 0.1 / 4
    assert gibbs.excess_loss(h, gibbs.lyapunov(h, c, n)) == pytest.approx(n * np.trace(c) / 4, rel=1e-10)
    sigma = gibbs.discrete_lyapunov(h, c, 0.1, 4)
    assert 2 * np.trace(h @ sigma) - 0.1 * np.trace(h @ sigma @ h) == pytest.approx(n * np.trace(c), rel=1e-10)


def test_isotropic_noise_has_the_least_variance_of_its_trace(classifier):
    h, c, n = classifier.hessian(classifier.minimum), classifier.covariance(classifier.minimum), 0.02
    t = n * np.trace(c) / (2 * len(h))
    least = gibbs.loss_variance(h, gibbs.gibbs_covariance(h, c, n))
    assert least == pytest.approx(len(h) * t**2 / 2)
    assert gibbs.loss_variance(h, gibbs.lyapunov(h, c, n)) > least


def test_the_key_changes_with_the_datas_content_and_the_spec_holds_none():
    spec = simulation(Minibatches("shuffle"))
    assert spec.key != replace(spec, potential=replace(POTENTIAL, fingerprint="4567")).key
    assert loads(dumps(spec)) == spec
    assert len(dumps(spec)) < 1000


def test_a_seed_gives_the_same_chains_whatever_ran_before(arrays):
    spec = simulation(Minibatches("shuffle"), chains=7)
    np.testing.assert_array_equal(simulate(spec, arrays=arrays), simulate(spec, arrays=arrays))


@pytest.mark.parametrize(
    "spec",
    [
        simulation(Minibatches("replacement"), batch_size=2, chains=4000),
        simulation(Minibatches("shuffle"), batch_size=N, chains=4000),
        simulation(Minibatches("replacement"), batch_size=1000, chains=40),
        simulation(Isotropic(), chains=4000),
    ],
    ids=["small batches", "all examples", "large batches", "isotropic"],
)
def test_the_memory_of_a_steps_gradients_is_a_few_chunks_whatever_the_batch(spec, arrays):
    simulate(replace(spec, chains=1), arrays=arrays)  # what is imported and cached once
    tracemalloc.start()
    found = simulate(spec, arrays=arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - found.nbytes < 5 * 8 * CHUNK


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 5, "noise": Minibatches("shuffle")}, "does not divide 24"),
        ({"noise": Isotropic(), "start": "gibbs"}, "start"),
        ({"noise": Examples(8, "shuffle")}, "noise"),
    ],
)
def test_what_a_loss_of_examples_cannot_have_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        simulation(**changes)


def test_minibatches_need_a_loss_of_examples():
    with pytest.raises(ValueError, match="noise"):
        Simulation(Quadratic(((1.0,),)), 0.1, 1, Minibatches("shuffle"), 1, (1,), (0.0,), 5)


def test_data_that_are_too_few_are_refused(arrays):
    with pytest.raises(ValueError, match="31 training images"):
        replace(POTENTIAL, examples=31).on(arrays)
    with pytest.raises(ValueError, match="needs its data"):
        simulate(simulation(Gaussian()))


def test_records_spread_evenly_over_an_epoch():
    class Source:
        fingerprint = "0"

        @staticmethod
        def arrays():
            random = np.random.default_rng(0)
            labels = np.tile([0, 1, 2], 100)
            return {"train_images": random.integers(0, 255, (300, 1, 6, 6)), "train_labels": labels}

    for label, spec in bridging.simulations("quick", Source).items():
        if label.endswith(("eta x 1", "eta x 2")):
            continue  # the ruler's: drawn with replacement, an epoch means nothing
        batches = bridging.EXAMPLES // spec.batch_size
        places = sorted((step - spec.record[-1]) % batches for step in spec.record[-bridging.RECORDS :])
        assert places == list(range(0, batches, batches // bridging.RECORDS))


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("bridge")
    done = script.run("bridge", out, "--wandb", "disabled", data="digits28")
    return out / "bridge" / "smoke-digits28", done


@pytest.mark.slow
def test_the_script_runs_on_the_digits_and_judges_nothing(on_digits):
    folder, done = on_digits
    assert done.returncode == 0, done.stderr
    assert "*** NOT FASHIONMNIST" in done.stdout
    found = json.loads((folder / "claims.json").read_text())
    assert {claim["verdict"] for claim in found} == {"not judged"}
    assert {claim["data"] for claim in found} == {"digits28"}
    assert all(claim["value"] is not None for claim in found)
    assert {path.name for path in folder.iterdir()} >= {"bridge.png", "bridge.svg", "table.csv", "provenance.json"}


@pytest.mark.slow
def test_provenance_tells_whose_data_they_were(on_digits):
    told = json.loads((on_digits[0] / "provenance.json").read_text())["data"]
    assert told["own"] is False
    assert told["fingerprint"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--data-dir", "/nonexistent"), "--data-dir"),
        (("--arm", "time"), "--arm"),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags, words):
    done = script.run("bridge", tmp_path, *flags, data="")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_theory_without_data_takes_no_data(tmp_path):
    done = script.run("sampling", tmp_path, data="digits")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
def test_a_data_set_without_the_classes_is_one_line(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "data" / "two" / part / label).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / "data" / "two" / part / label / "0.png")
    done = script.run("bridge", tmp_path / "out", "--data-dir", str(tmp_path / "data"), data="two")
    assert done.returncode == 2
    assert "training images of the classes" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_gradient_needs_no_more_than_a_classifier_of_one_number():
    one = Classifier(np.array([[1.0], [-1.0]]), np.array([0, 1]), 2, 1.0)
    np.testing.assert_allclose(one.gradient(one.minimum[None]), 0, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 8, N])
def test_the_inputs_of_all_chains_batches_fit_in_a_chunk(batch_size, arrays, monkeypatch):
    chunk, taken = 5 * N * D, []
    monkeypatch.setattr(simulator, "CHUNK", chunk)
    gradient = Classifier.batch_gradient

    def spied(self, theta, batches):
        taken.append(batches.size * D)
        return gradient(self, theta, batches)

    monkeypatch.setattr(Classifier, "batch_gradient", spied)
    simulate(simulation(Minibatches("replacement"), batch_size, chains=1000, steps=1, record=(1,)), arrays=arrays)
    assert max(taken) <= chunk
    assert sum(taken) == 1000 * batch_size * D


@pytest.mark.slow
def test_adamws_excess_loss_goes_as_eta_over_the_root_of_s(arrays, classifier):
    """Averages over chains; d log excess/d log eta is 1, and /d log S -1/2: g = 1/2, where SGD has 1."""
    lowest = classifier.loss(classifier.minimum[None])[0]

    def excess(times, size, optimizer, lr):
        record = tuple(range(3_000, 4_000, 100)) if optimizer == "adamw" else tuple(range(400, 800, 40))
        spec = Simulation(
            POTENTIAL,
            times * lr,
            size,
            Minibatches("replacement"),
            record[-1],
            record,
            "minimum",
            400,
            optimizer=optimizer,
        )
        theta = simulate(spec, arrays=arrays)
        return classifier.loss(theta.reshape(-1, POTENTIAL.dim)).mean() - lowest

    for optimizer, lr, g in (("adamw", 0.001, 0.5), ("sgd", 0.05, 1.0)):
        y = np.log([[excess(times, size, optimizer, lr) for times in (1, 2)] for size in (4, 16)])
        over_eta = (y[:, 1] - y[:, 0]).mean() / np.log(2)
        over_size = (y[1] - y[0]).mean() / np.log(4)
        assert over_eta == pytest.approx(1, abs=0.15)
        assert -over_size / over_eta == pytest.approx(g, abs=0.1)


def test_adamw_is_torchs(arrays):
    spec = simulation(Gaussian(1e-9), 1, steps=20, record=(20,), start=(0.3,) * POTENTIAL.dim, optimizer="adamw")
    theta = torch.full((POTENTIAL.dim,), 0.3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([theta], lr=0.1, weight_decay=0.0)
    loss = POTENTIAL.on(arrays)
    for _ in range(20):
        theta.grad = torch.tensor(loss.gradient(theta.detach().numpy()[None])[0])
        optimizer.step()
    np.testing.assert_allclose(simulate(spec, arrays=arrays)[0, 0], theta.detach(), rtol=1e-4)


def test_a_quench_takes_the_excess_out_of_the_classifier_as_its_covariance_says(arrays, classifier):
    """Stationary at n tr(C)/4 above the minimum; then 15 % more t_eta while eta falls to 0, and Σ is followed."""
    lr, size, steps = 0.1, 4, 2_000
    h, c = classifier.hessian(classifier.minimum), classifier.covariance(classifier.minimum)
    quench = lr * (1 - (np.arange(round(0.3 * steps)) + 0.5) / round(0.3 * steps))
    assert quench.sum() == pytest.approx(0.15 * lr * steps)
    random, chains = np.random.default_rng(0), 2_000
    theta = np.tile(classifier.minimum, (chains, 1))
    excess = []
    for eta in (*np.full(steps // 4, lr), *quench):
        if eta == quench[0]:
            excess.append(classifier.loss(theta).mean())
        theta = theta - eta * classifier.batch_gradient(theta, random.integers(0, N, (chains, size)))
    excess.append(classifier.loss(theta).mean())
    hot, cold = np.array(excess) - classifier.loss(classifier.minimum[None])[0]
    assert hot == pytest.approx(lr / size * np.trace(c) / 4, rel=0.15)
    sigma, one = gibbs.discrete_lyapunov(h, c, lr, size), np.eye(len(h))
    for eta in quench:
        sigma = (one - eta * h) @ sigma @ (one - eta * h) + eta**2 * c / size
    assert cold == pytest.approx(np.trace(h @ sigma) / 2, rel=0.15)
    assert cold < hot / 5
