"""What is measured of a trained run at the weights that were kept: the curvature, and the gradients' noise."""

from __future__ import annotations

from collections.abc import Callable

from three_factors.callbacks import GradientNoiseMonitor
from three_factors.datamodules.vision import ImageDataModule
from three_factors.lightning_modules.classifier import SGDClassifier
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement, Measurement, NoiseMeasurement
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.members import finite_only
from three_factors.reproduce.engine.worker.train import (
    build_data,
    configure_device,
    hessian_monitor,
    module_of,
    read_weights,
    real,
)

OfWeights = Callable[[SGDClassifier], dict[str, float]]


def measure(
    spec: RunSpec, measurement: AnyMeasurement, job: Job, folder: RunFolder
) -> dict[str, dict[str, float | None]]:
    """Returns milestone -> values, of the milestones that the finished run reached; NaN becomes None."""
    module = module_of(spec).to(configure_device(job), real(spec))
    data = build_data(spec, job)
    data.setup()
    of_weights = (
        _noise(spec, measurement, data) if isinstance(measurement, NoiseMeasurement) else _hessian(measurement, data)
    )
    found: dict[str, dict[str, float | None]] = {}
    result = folder.result()
    reached = result["milestones"] if result is not None else {}
    for milestone in measurement.at:
        if milestone in reached:  # then its weights must be there: without them the measurement fails, and says so
            module.load_state_dict(read_weights(folder, milestone))
            found[milestone] = finite_only(of_weights(module))
    return found


def _hessian(measurement: Measurement, data: ImageDataModule) -> OfWeights:
    curvature = measurement.curvature
    if curvature.training:
        batches = data.drawn_batches(curvature.batches, curvature.batch_size)
    else:
        batches = data.measurement_batches(curvature.examples, curvature.batch_size)
    return lambda module: hessian_monitor(curvature).measure(module, batches)


def _noise(spec: RunSpec, measurement: NoiseMeasurement, data: ImageDataModule) -> OfWeights:
    number, size = measurement.gradients(spec.network)
    batches = data.drawn_batches(number, size) if size > 1 else data.drawn_batches(1, number)
    return lambda module: GradientNoiseMonitor(alignment=measurement.alignment).values(module, batches)
