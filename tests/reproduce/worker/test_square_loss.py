"""The square loss: its derivatives, its evaluations, and the edge of stability, where only eta decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.reproduce.specs import MLP
from three_factors.callbacks.functional import GGNOperator, HessianOperator, top_eigenvalues
from three_factors.datamodules import DigitsDataModule
from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.lightning_modules import MLP as Network
from three_factors.lightning_modules import HalfBatch
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.worker.measure import measure
from three_factors.reproduce.engine.worker.train import build_data, read_weights, train


def network():
    torch.manual_seed(0)
    module = Network(hidden=(5,), in_features=6, num_classes=3).double()
    module.criterion = "square"
    return module


def test_it_is_half_the_squared_distance_to_the_labels_indicator():
    module, images, labels = network(), torch.randn(8, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    outputs = module(images)
    expected = (outputs - torch.eye(3).double()[labels]).square().sum() / 16
    torch.testing.assert_close(module.loss(outputs, labels), expected)
    torch.testing.assert_close(module.training_step((images, labels), 0), expected)
    module.gradient_noise = HalfBatch(2.0)
    parts = [module.loss(outputs[part], labels[part]) for part in (slice(4), slice(4, None))]
    noisy = (parts[0] + parts[1]) / 2 + 2.0 * (parts[0] - parts[1]) / 2
    torch.testing.assert_close(module.training_step((images, labels), 0)["loss"], noisy)


def test_its_gauss_newton_matrix_is_that_of_the_jacobian_alone():
    module, images = network(), torch.randn(8, 6, dtype=torch.float64)
    labels = torch.zeros(8, dtype=torch.long)
    given = {name: p.detach() for name, p in module.named_parameters()}
    jacobian = torch.func.jacrev(lambda tensors: torch.func.functional_call(module, tensors, (images,)))(given)
    flat = torch.cat([part.flatten(2) for part in jacobian.values()], 2)
    expected = torch.einsum("nki,nkj->ij", flat, flat) / 8
    matrix = GGNOperator(module, module.loss, [(images, labels)])
    torch.testing.assert_close(matrix.matmat(torch.eye(len(expected)).double()), expected)


def run(spec, folder):
    found = RunFolder(folder)
    found.path.mkdir(parents=True)
    result = train(spec, Job(prepare("digits28")), found)
    return found, result


def test_what_is_recorded_and_measured_is_of_the_square_loss(tmp_path):
    spec = replace(MLP, loss="square", momentum=0.0, schedule=NoiseSchedule(0.02, 24))
    folder, result = run(spec, tmp_path / "run")
    write_json(folder.path / "result.json", {"key": folder.path.name} | result)
    assert result["final"]["train_subset/loss"] < 0.6  # half of 1 where nothing is learnt, 2.3 of the cross-entropy
    at = Measurement(Curvature(100, 100, ("top_eigenvalue",), tol=1e-4))
    found = measure(spec, at, Job(prepare("digits28")), folder)["end"]["hessian/top_eigenvalue"]
    module = Network(hidden=(16,))
    module.load_state_dict(read_weights(folder, "end"))
    module.criterion = "square"
    images, labels = _subset(spec)
    operator = HessianOperator(module, module.loss, [(images[:100], labels[:100])])
    vector = torch.randn(operator.num_params)
    for _ in range(80):
        vector = operator.matvec(vector / vector.norm())
    assert found == pytest.approx(float(vector.norm()), rel=1e-2)


def _subset(spec):
    data = build_data(spec, Job(prepare("digits28")))
    data.setup()
    return data.splits["train"]


@pytest.mark.slow
def test_at_the_edge_of_stability_only_eta_decides_whatever_the_batch():
    """Descent on all examples or a quarter, random labels: eta·lambda_max comes to 2 (Cohen et al. 2021), so g = 0."""
    data = DigitsDataModule(gray=True, validation=50, train=240, test=50, label_noise=LabelNoise(1.0))
    data.setup()
    images, labels = data.splits["train"]
    top = {}
    for eta in (0.08, 0.16):
        for size in (240, 60):
            torch.manual_seed(0)
            module, order = Network(hidden=(100,) * 3, init="glorot"), torch.Generator().manual_seed(0)
            module.criterion = "square"
            optimizer = torch.optim.SGD(module.parameters(), lr=eta)
            for _ in range(300):
                for chosen in torch.randperm(240, generator=order).split(size):
                    optimizer.zero_grad()
                    module.loss(module(images[chosen]), labels[chosen]).backward()
                    optimizer.step()
            values = top_eigenvalues(HessianOperator(module, module.loss, [(images, labels)]), 1, 0.02).values
            top[eta, size] = float(values[0])
            assert 1.7 < eta * top[eta, size] < 2.4
    y = np.log([[top[eta, size] for size in (60, 240)] for eta in (0.08, 0.16)])
    over_eta, over_size = (y[1] - y[0]).mean() / np.log(2), (y[:, 1] - y[:, 0]).mean() / np.log(4)
    assert over_eta == pytest.approx(-1, abs=0.2)
    assert over_size / over_eta == pytest.approx(0, abs=0.15)
