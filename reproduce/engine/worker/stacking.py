"""What a stack of runs is made of: their networks as their own runs start them, and their data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from three_factors.datamodules.parts import Parts
from three_factors.datamodules.schedules import as_schedule
from three_factors.datamodules.stacked import StackedData
from three_factors.reproduce.engine.contract.job import Job
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.worker.train import initial_module, real


def stacked_data(specs: Sequence[RunSpec], job: Job, device: torch.device) -> StackedData:
    """Returns the members' data."""
    first, source = specs[0], job.source
    arrays = source.arrays()
    parts = [
        Parts.of(
            source,
            arrays,
            validation=spec.data.validation,
            train=spec.data.train,
            test=spec.data.test,
            split_seed=spec.data.split_seed,
            label_noise=spec.data.label_noise,
            seed=spec.seed,
        )
        for spec in specs
    ]
    return StackedData(
        source,
        parts,
        [spec.seed for spec in specs],
        as_schedule(first.schedule.batch_size, "batch_size"),
        sampling=first.sampling,
        max_batch_size=first.max_batch_size,
        subset=first.data.subset,
        dtype=real(first),
        device=device,
    )


def initial_network(spec: RunSpec) -> Any:
    """Returns a member's network as its own run starts it."""
    return initial_module(spec).network
