"""What is measured of a trained run: the curvature at the weights that were kept."""

from __future__ import annotations

from three_factors.reproduce.engine.contract.folder import RunFolder
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.spec import Measurement, RunSpec
from three_factors.reproduce.engine.worker.recorder import finite_only
from three_factors.reproduce.engine.worker.train import (
    build_data,
    build_module,
    configure_device,
    hessian_monitor,
    read_weights,
)


def measure(spec: RunSpec, measurement: Measurement, job: Job, folder: RunFolder) -> dict[str, dict[str, float | None]]:
    """Returns milestone -> values, of the milestones that the finished run reached; NaN becomes None."""
    module = build_module(spec.network).to(configure_device(job))
    data = build_data(spec, job)
    data.setup()
    batches = data.measurement_batches(measurement.curvature.examples, measurement.curvature.batch_size)
    found: dict[str, dict[str, float | None]] = {}
    result = folder.result()
    reached = result["milestones"] if result is not None else {}
    for milestone in measurement.at:
        if milestone in reached:  # then its weights must be there: without them the measurement fails, and says so
            module.load_state_dict(read_weights(folder, milestone))
            found[milestone] = finite_only(hessian_monitor(measurement.curvature).measure(module, batches))
    return found
