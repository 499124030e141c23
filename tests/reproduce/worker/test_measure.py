"""What is measured of a run's kept weights under training conditions: on batches as training draws them."""

from dataclasses import replace

import pytest

from tests.reproduce.specs import MLP
from three_factors.callbacks import GradientNoiseMonitor
from three_factors.callbacks.functional import HessianOperator, batch_sharpness, top_eigenvalues
from three_factors.datamodules.prepared import prepare
from three_factors.datamodules.schedules import NoiseSchedule
from three_factors.reproduce.engine.contract.files import write_json
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import Curvature, Measurement, NoiseMeasurement
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import Keep
from three_factors.reproduce.engine.worker.measure import measure
from three_factors.reproduce.engine.worker.train import build_data, build_module, read_weights, train

PLAIN = replace(MLP, schedule=NoiseSchedule(0.1, 24), momentum=0.0, keep=Keep(best=True))
NORMED = replace(PLAIN, network=replace(PLAIN.network, batch_norm=True))


@pytest.fixture(scope="module", params=[PLAIN, NORMED], ids=["plain", "batch norm"])
def trained(request, tmp_path_factory):
    """A spec, its folder, the module with its weights at the end, its data."""
    spec, job = request.param, Job(prepare("digits28"))
    folder = RunFolder(tmp_path_factory.mktemp("run") / request.param.key)
    folder.path.mkdir()
    write_json(folder.path / "result.json", {"key": spec.key} | train(spec, job, folder))
    module, data = build_module(spec.network), build_data(spec, job)
    data.setup()
    module.load_state_dict(read_weights(folder, "end"))
    return spec, folder, module, data


def measured(trained, measurement):
    spec, folder, *_ = trained
    return measure(spec, measurement, Job(prepare("digits28")), folder)


def test_the_curvature_of_training_is_that_of_drawn_batches_in_train_mode(trained):
    _, _, module, data = trained
    curvature = Curvature(90, 24, ("top_eigenvalue", "batch_sharpness"), tol=1e-4, training=True)
    found = measured(trained, Measurement(curvature, ("best", "end")))
    assert set(found) == {"best", "end"}
    batches = data.drawn_batches(4, 24)
    operator = HessianOperator(module, module.loss, batches, training=True)
    wanted = {
        "training_hessian/top_eigenvalue": float(top_eigenvalues(operator, 1, 1e-4).values[0]),
        "training_hessian/batch_sharpness": batch_sharpness(operator).value,
    }
    assert {name: found["end"][name] for name in wanted} == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("alignment", [True, False])
def test_the_noise_is_of_single_examples_or_under_batch_norm_of_batches(trained, alignment):
    spec, _, module, data = trained
    found = measured(trained, NoiseMeasurement(24, 10, 120, alignment=alignment))["end"]
    batches = data.drawn_batches(10, 24) if spec.network.batch_norm else data.drawn_batches(1, 120)
    wanted = GradientNoiseMonitor(alignment=alignment).measure(module, batches)
    assert wanted.estimator == ("batch_means" if spec.network.batch_norm else "per_example")
    assert (wanted.gradients, wanted.batch_size) == ((10, 24) if spec.network.batch_norm else (120, 1))
    assert found["gradient_noise/trace"] == pytest.approx(wanted.trace.value, rel=1e-5)
    assert found["gradient_noise/isotropy"] == pytest.approx(wanted.isotropy.value, rel=1e-5)
    assert ("gradient_noise/alignment" in found) is alignment


@pytest.mark.slow
def test_a_measurement_is_the_same_each_time(trained):
    assert measured(trained, NoiseMeasurement(24, 10, 120)) == measured(trained, NoiseMeasurement(24, 10, 120))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NoiseMeasurement(0, 10, 100), "batch_size: 0 is less than 1"),
        (lambda: NoiseMeasurement(8, 4, 100), "batches: 4 are too few for a covariance"),
        (lambda: NoiseMeasurement(8, 10, 3), "examples: 3 are too few for a covariance"),
    ],
)
def test_too_little_for_a_covariance_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
