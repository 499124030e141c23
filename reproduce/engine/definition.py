"""What a figure is: its experiment, its claims, its panels, and one call of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from reproduce.engine.options import Options, Scale

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from datamodules.sources import Prepared
    from reproduce.engine.claims import Claim
    from reproduce.engine.spec import Measurement, PathSpec, RunSpec
    from reproduce.engine.table import Evidence, Table


class Experiment(Protocol):
    """A module of `reproduce.experiments`: what is run at which scale, and what was left out of the paper's."""

    SETTINGS: dict[Scale, Any]  # each has .seeds
    REDUCTIONS: list[tuple[str, str, str]]

    def runs(self, scale: Scale, source: Prepared) -> dict[str, RunSpec]: ...
    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> Evidence: ...


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes:
        data: its own data set; `substitute` stands in, loudly, where that is not to be had and none was named.
        check: the claims about a table. draw: the panels, on `axes(rows, columns)`.
        measurements: what is measured of every run after its training.
        paths: label -> the line between two runs, of a seed's specs.
        derive: further columns of the table, from a run's rows (one an epoch).
    """

    name: str
    title: str
    doc: str
    data: str
    substitute: str
    experiment: Any
    check: Callable[[Any], list[Claim]]
    draw: Callable[[Table, Any], None]
    measurements: Callable[[Scale], tuple[Measurement, ...]] = lambda scale: ()
    derive: Callable[[pd.DataFrame], dict[str, float]] = lambda rows: {}
    paths: Callable[[Scale, dict[str, RunSpec]], dict[str, PathSpec]] = lambda scale, specs: {}


@dataclass(frozen=True)
class PlannedRun:
    label: str
    seed: int
    spec: RunSpec
    measurements: tuple[Measurement, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.label} seed {self.seed}"


@dataclass(frozen=True)
class PlannedPath:
    label: str
    seed: int
    spec: PathSpec

    @property
    def name(self) -> str:
        return f"{self.label} seed {self.seed}"


@dataclass(frozen=True)
class Context:
    """What a call of a figure was about, as its outputs tell it."""

    figure: Figure
    options: Options
    source: Prepared
    seeds: int
    hardware: str

    @property
    def own_data(self) -> bool:
        return self.source.name == self.figure.data
