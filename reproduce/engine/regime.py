"""How far runs are from the paper's: their rescaled time t_eta, and n·N, over the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from three_factors.datamodules.schedules import Constant, NoiseSchedule, as_schedule
from three_factors.reproduce.engine.contract.spec import RunSpec

POINTS = 8  # an epoch, at which a schedule's eta/S is taken


@dataclass(frozen=True)
class Regime:
    """Describes runs beside the paper's.

    Attributes:
        time: t_eta here over the paper's, the ratio of geometric means over the settings.
        noise: n·N likewise, n = eta/S.
    """

    time: float
    noise: float

    def __str__(self) -> str:
        return f"t_eta {_share(self.time)} of the paper's, n·N {_share(self.noise)}"


def regime(here: Mapping[str, RunSpec], paper: Mapping[str, RunSpec]) -> Regime:
    """Returns how runs, by label, stand to the paper's: those of the same label, if there are any, else all."""
    both = here.keys() & paper.keys()
    (time, noise), (times, noises) = (
        _means([spec for label, spec in of.items() if not both or label in both]) for of in (here, paper)
    )
    return Regime(math.exp(time - times), math.exp(noise - noises))


def mean_noise(spec: RunSpec) -> float:
    """Returns the mean of eta/S over a run's epochs."""
    return _mean_noise(spec.schedule, spec.epochs)


@lru_cache(maxsize=256)
def _mean_noise(schedule: NoiseSchedule, epochs: int) -> float:
    lr, size = as_schedule(schedule.lr), as_schedule(schedule.batch_size)
    if isinstance(lr, Constant) and isinstance(size, Constant):
        return lr.value / size.value
    return float(np.mean([schedule.noise_ratio((i + 0.5) / POINTS) for i in range(epochs * POINTS)]))


def t_eta(spec: RunSpec) -> float:
    """Returns the sum of eta over a run's steps: E N n, n the mean of eta/S, but for what does not fill a batch."""
    return spec.epochs * spec.data.train * mean_noise(spec)


def _means(specs: Iterable[RunSpec]) -> tuple[float, float]:
    pairs = [(math.log(t_eta(spec)), math.log(mean_noise(spec) * spec.data.train)) for spec in specs]
    return float(np.mean([time for time, _ in pairs])), float(np.mean([noise for _, noise in pairs]))


def _share(ratio: float) -> str:
    """Returns '1/9' for a ninth, '0.67' for two thirds, '3.1' for more."""
    if ratio > 0.5:
        return f"{ratio:.2g}"
    return f"1/{1 / ratio:.2g}" if ratio > 0.1 else f"1/{1 / ratio:.0f}"
