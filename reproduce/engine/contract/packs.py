"""Which runs are trained as one stack, and where a pack of them has its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from three_factors.datamodules.schedules import as_schedule
from three_factors.reproduce.engine.contract.networks import MLPNetwork
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.contract.stored import Typed, short_hash

# What members of a pack may differ in, of the fields of a RunSpec; of `data` and `schedule` a part of them may
# (`same_stack`). A pack must look these up member by member: it takes everything else from its first member.
OF_A_MEMBER = frozenset(
    (
        "epochs",
        "seed",
        "momentum",
        "weight_decay",
        "evaluate_every",
        "keep",
        "noise",
        "stop_at_loss",
        "stop_at_accuracy",
        "evaluations",
    )
)


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


def same_stack(spec: RunSpec) -> tuple[Any, ...]:
    """Returns what must be equal in runs that are trained as one stack: all that is not known to be a member's own."""
    data = replace(spec.data, split_seed=0, label_noise=None)
    in_parts = {"data": data, "schedule": as_schedule(spec.schedule.batch_size)}
    names = [field.name for field in fields(spec) if field.name not in OF_A_MEMBER]
    return tuple(in_parts.get(name, getattr(spec, name)) for name in names)
