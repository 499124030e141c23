"""Which processes train a run together, and who has started them: Lightning, torchrun or srun."""

from __future__ import annotations

import os

from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)


def cluster(world_size: int) -> ClusterEnvironment:
    """Returns the ClusterEnvironment for Lightning: where ranks learn of one another.

    Left to itself, Lightning takes any SLURM allocation around it for its own: a run on one device would wait for as
    many ranks as the allocation has tasks.
    """
    if world_size > 1 and TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if world_size > 1 and by_srun(world_size):
        return SLURMEnvironment(auto_requeue=False)  # what is requeued is the array task, with all its runs
    return LightningEnvironment()


def by_srun(world_size: int) -> bool:
    """Tells whether srun has started one process for each rank."""
    return os.environ.get("SLURM_STEP_NUM_TASKS") == str(world_size)


def is_first(world_size: int) -> bool:
    """Tells whether this is rank 0, before the ranks have met: as Lightning, torchrun and srun count them."""
    if world_size == 1:
        return True
    names = ["LOCAL_RANK", "RANK", *(["SLURM_PROCID"] if by_srun(world_size) else [])]
    return all(os.environ.get(name, "0") == "0" for name in names)
