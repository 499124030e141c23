"""What a noise's shape takes from the Hessian: against dense matrices, and renewed when the spec says so."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.functional import hessian as dense_of
from torch.func import functional_call

from tests.reproduce.specs import MLP
from three_factors.datamodules import DigitsDataModule
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.lightning_modules import MLP as Network
from three_factors.lightning_modules import Renewed
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise, Renewal
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.worker import renewing
from three_factors.reproduce.engine.worker.renewing import Renewing
from three_factors.reproduce.engine.worker.train import train

PLAN = Renewal(examples=40, batch_size=40, eigenvectors=3)


@pytest.fixture(scope="module")
def there():
    """A small network after some training, its data, and the dense Hessian of 40 images."""
    torch.manual_seed(0)
    data = DigitsDataModule(gray=True, validation=50, train=200, test=50, dtype=torch.float64)
    data.setup()
    pool = torch.nn.AvgPool2d(7)
    data.splits["train"] = pool(data.splits["train"][0]), data.splits["train"][1]
    module = Network(hidden=(4,), in_features=16).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        images, labels = data.splits["train"]
        module.loss(module(images), labels).backward()
        optimizer.step()
    given = {name: p.detach() for name, p in module.named_parameters()}
    lengths, shapes = [p.numel() for p in given.values()], [p.shape for p in given.values()]
    (images, labels), *_ = data.measurement_batches(40, 40)

    def loss(flat):
        tensors = {k: x.view(s) for k, x, s in zip(given, flat.split(lengths), shapes)}
        return module.loss(functional_call(module, tensors, (images,)), labels)

    return module, data, dense_of(loss, torch.cat([p.reshape(-1) for p in given.values()]))


def renewed(there, what, epoch=0):
    module, data, _ = there
    found = Renewed()
    callback = Renewing(PLAN, what, found, batch_size=20)
    logged = {}
    module.log = lambda name, value: logged.update({name: value})
    trainer = SimpleNamespace(current_epoch=epoch, datamodule=data)
    callback.on_train_epoch_start(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    return found, logged, callback


def each_gradient(module, data):
    images, labels = data.splits["train"]
    found = []
    for i in range(len(labels)):
        loss = module.loss(module(images[i : i + 1]), labels[i : i + 1])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    return torch.stack(found)


def gauss_newton(module, images):
    """Σ J' (diag p - p p') J / n of the examples' outputs, (q, q)."""
    given = {name: p.detach() for name, p in module.named_parameters()}
    outputs = lambda tensors: functional_call(module, tensors, (images,))  # noqa: E731
    parts = torch.func.jacrev(outputs)(given)
    jacobian = torch.cat([part.flatten(2) for part in parts.values()], 2)  # (n, classes, q)
    p = outputs(given).softmax(1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nki,nkl,nlj->ij", jacobian, curvature, jacobian) / len(images)


def test_directions_are_the_largest_eigenvectors(there, monkeypatch):
    monkeypatch.setattr(renewing, "TOLERANCE", 1e-6)
    found, _, _ = renewed(there, "directions")
    q = len(there[2])
    values, vectors = torch.linalg.eigh(there[2])
    assert values[-4] < 0.98 * values[-3]
    torch.testing.assert_close(
        found.directions @ found.directions.T, vectors[:, -3:] @ vectors[:, -3:].T, rtol=0, atol=1e-3
    )
    assert found.directions.shape == (q, 3)


@pytest.mark.slow
def test_lift_and_share_are_those_of_the_covariance_of_the_examples(there, monkeypatch):
    monkeypatch.setattr(renewing, "PAIRS", 600)
    monkeypatch.setattr(renewing, "TRACE_TOLERANCE", 0.01)
    module, data, _ = there
    h = gauss_newton(module, data.measurement_batches(40, 40)[0][0])
    c = torch.cov(each_gradient(module, data).T, correction=0)
    expected = len(h) * float((h * c).sum() / (h.trace() * c.trace()))
    found, logged, _ = renewed(there, "lift")
    assert found.lift == pytest.approx(expected, rel=0.15)
    assert logged == {"train/noise_lift": found.lift}
    found, logged, _ = renewed(there, "directions")
    inside = found.directions.T @ c @ found.directions
    assert logged["train/noise_inside"] == pytest.approx(float(inside.trace() / c.trace()), rel=0.15)


def test_it_is_renewed_when_it_is_due_and_goes_on_from_its_state(there):
    assert [epoch for epoch in range(35) if Renewal(until=3, every=10).due(epoch)] == [0, 1, 2, 10, 20, 30]
    found, logged, callback = renewed(there, "directions")
    other = Renewed()
    again = Renewing(PLAN, "directions", other, batch_size=20)
    again.load_state_dict(callback.state_dict())
    assert torch.equal(other.directions, found.directions)
    trainer = SimpleNamespace(current_epoch=0, datamodule=None)  # nothing is measured in the same epoch
    told = {}
    there[0].log = lambda name, value: told.update({name: value})
    again.on_train_epoch_start(trainer, there[0])
    again.on_train_epoch_end(trainer, there[0])
    assert told == logged


@pytest.mark.parametrize(
    "noise",
    [
        HalfBatchNoise(3**0.5, "top", Renewal(24, 24, until=1, every=2, eigenvectors=3)),
        GaussianNoise(1.0, "isotropic", equal="curvature", renewal=Renewal(48, 24)),
    ],
)
def test_a_run_records_what_was_in_force(noise, tmp_path):
    spec = replace(MLP, noise=noise, momentum=0.0, schedule=NoiseSchedule(0.02, 24))
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    result = train(spec, Job(prepare("digits28")), folder)
    assert result["status"] == "ok"
    name = "train/noise_inside" if isinstance(noise, HalfBatchNoise) else "train/noise_lift"
    values = [row[name] for row in folder.rows()]
    assert all(value > 0 for value in values)
    if isinstance(noise, HalfBatchNoise):  # renewed at epochs 0 and 2 alone
        assert values[0] == values[1] != values[2]
    with pytest.raises(ValueError, match="--devices: the shape of this noise is measured on one device"):
        spec.check_devices(2)


def test_what_does_not_go_together_is_refused():
    for make, words in (
        (lambda: HalfBatchNoise(1.0, "top"), "renewal: None does not go with part 'top'"),
        (lambda: HalfBatchNoise(1.0, renewal=Renewal()), "does not go with part 'all'"),
        (lambda: GaussianNoise(1.0, "covariance", equal="curvature"), "equal: 'curvature' is not"),
        (lambda: GaussianNoise(1.0, "isotropic", equal="curvature"), "renewal: None does not go with"),
        (lambda: Renewal(every=0), "every: 0 is less than 1"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
