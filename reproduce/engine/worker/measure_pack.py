"""What is measured of the members of a pack: as of single runs, with all products of a stack at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from three_factors.callbacks import GradientNoiseMonitor
from three_factors.callbacks.functional.members import MemberGradients, MemberOperator, together
from three_factors.callbacks.functional.stacked import StackedOperator
from three_factors.datamodules.stacked import StackedData
from three_factors.lightning_modules.losses import example_losses
from three_factors.lightning_modules.stack import StackedMLP
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement, Measurement, NoiseMeasurement
from three_factors.reproduce.engine.contract.run_folder import RunFolder
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.members import finite_only
from three_factors.reproduce.engine.worker.stacking import stacked_data
from three_factors.reproduce.engine.worker.train import (
    build_module,
    configure_device,
    hessian_monitor,
    read_weights,
    real,
)

Found = dict[str, dict[str, float | None]]
VECTORS = 80  # as long as the parameters, that a measurement of one member holds
BYTES = {"cpu": 2 << 30, "cuda": 24 << 30}  # of them that are held at a time; another number may change roundings


def measure_pack(
    specs: Sequence[RunSpec], measurement: AnyMeasurement, job: Job, folders: Sequence[RunFolder]
) -> list[Found | Exception]:
    """Returns milestone -> values of each finished run, as `measure` does; the exception where it raised one.

    Args:
        specs: members of one pack.
        folders: those of their results.
    """
    where, first = configure_device(job), specs[0]
    parameters = sum(p.numel() for p in build_module(first.network).network.parameters())
    at_once = max(1, BYTES[where.type] // (VECTORS * parameters * real(first).itemsize))
    found: list[Found | Exception] = []
    for start in range(0, len(specs), at_once):
        block = slice(start, start + at_once)
        found += _measured(specs[block], measurement, job, folders[block], where)
    return found


def _measured(
    specs: Sequence[RunSpec],
    measurement: AnyMeasurement,
    job: Job,
    folders: Sequence[RunFolder],
    where: torch.device,
) -> list[Found | Exception]:
    data = stacked_data(specs, job, where)
    reached = [(folder.result() or {"milestones": {}})["milestones"] for folder in folders]
    found: list[Found] = [{} for _ in specs]
    failed: dict[int, Exception] = {}
    for milestone in measurement.at:
        there = [i for i in range(len(specs)) if milestone in reached[i] and i not in failed]
        networks = {}
        for i in there:
            try:
                module = build_module(specs[i].network)
                module.to(real(specs[i])).load_state_dict(read_weights(folders[i], milestone))
                networks[i] = module.network
            except Exception as error:  # of one member's file: the others are measured
                failed[i] = error
        if not networks:
            continue
        # Members that are not there are filled with another: the stack, and so the bits of all, are always the same.
        filler = next(iter(networks.values()))
        stack = StackedMLP([networks.get(i, filler) for i in range(len(specs))]).to(where)
        for i, values in zip(networks, _of_stack(specs[0], measurement, stack, data)(list(networks))):
            if isinstance(values, Exception):
                failed[i] = values
            else:
                found[i][milestone] = finite_only(values)
    return [failed.get(i, of) for i, of in enumerate(found)]


def _of_stack(
    spec: RunSpec, measurement: AnyMeasurement, stack: StackedMLP, data: StackedData
) -> Callable[[list[int]], list[dict[str, float] | Exception]]:
    """Returns what measures members of a stack."""

    def losses(outputs: Any, targets: Any) -> Any:
        return example_losses(spec.loss, outputs, targets)

    if isinstance(measurement, NoiseMeasurement):
        number, size = measurement.gradients(spec.network)
        batches = data.drawn_batches(number, size) if size > 1 else data.drawn_batches(1, number)
        training, evaluating = (StackedOperator(stack, losses, batches, training=mode) for mode in (True, False))
        noise = GradientNoiseMonitor(alignment=measurement.alignment)

        def of_noise(member: MemberOperator) -> dict[str, float]:
            rows = MemberGradients(member, alone=size == 1)
            return noise.values_of(rows, member.beside(evaluating) if measurement.alignment else None)

        return lambda members: together(training, of_noise, members)
    assert isinstance(measurement, Measurement)
    curvature = measurement.curvature
    if curvature.training:
        batches = data.drawn_batches(curvature.batches, curvature.batch_size)
    else:
        batches = data.measurement_batches(curvature.examples, curvature.batch_size)
    operator = StackedOperator(stack, losses, batches, training=curvature.training)
    monitor = hessian_monitor(curvature)
    return lambda members: together(operator, monitor.measure_of, members)
