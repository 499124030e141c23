"""Which runs are trained as one stack, and where a pack of them has its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from three_factors.datamodules.schedules import as_schedule
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.contract.stored import Typed, short_hash


@dataclass(frozen=True)
class Pack(Typed):
    """Runs that are trained as one stack.

    Attributes:
        keys: those of the members, in order.
    """

    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        return short_hash(self)

    @classmethod
    def of(cls, specs: Sequence[RunSpec]) -> Pack:
        return cls(tuple(sorted(spec.key for spec in specs)))


def stackable(spec: RunSpec) -> bool:
    """Tells whether a run can be a member of a pack: an MLP, without what is measured while it trains."""
    noise = spec.noise
    dialled = (
        noise is None
        or isinstance(noise, HalfBatchNoise)
        or (isinstance(noise, GaussianNoise) and noise.shape == "covariance")
    )
    return (
        isinstance(spec.network, MLPNetwork)
        and not spec.data.augment
        and spec.watch is None
        and spec.precision != "bf16"
        and dialled
    )


def shared(spec: RunSpec) -> tuple[Any, ...]:
    """Returns what the members of a pack have in common: all that decides the shape of a step."""
    data = replace(spec.data, split_seed=0, label_noise=None)
    size = as_schedule(spec.schedule.batch_size)
    return spec.network, data, size, spec.sampling, spec.precision, spec.max_batch_size, spec.loss, spec.protocol
