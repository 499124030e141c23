"""What a figure is: its experiment, its claims, its panels, and one call of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from three_factors.reproduce.engine.options import EPOCHS, Options, Scale

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.claims import Claim
    from three_factors.reproduce.engine.spec import Measurement, PathSpec, RunSpec
    from three_factors.reproduce.engine.table import Evidence, Table


class Experiment(Protocol):
    """A module of `reproduce.experiments`: what is run at which scale, and what was left out of the paper's."""

    SETTINGS: dict[Scale, Any]  # each has .seeds
    REDUCTIONS: list[tuple[str, str, str]]

    def runs(self, scale: Scale, source: Prepared) -> Specs: ...
    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> Evidence: ...


BESIDE = "controls"  # how the name of a figure's second picture ends
Specs = dict[str, "RunSpec"]  # label -> the run of seed 0


@dataclass(frozen=True)
class Arm:
    """What changes, in words for footers and help, and how. `check` and `draw` replace the figure's own."""

    words: str
    change: Callable[[Specs], Specs]
    check: Callable[[Any], list[Claim]] | None = None
    draw: Callable[[Table, Any], None] | None = None


@dataclass(frozen=True)
class Tuning:
    """Makes an experiment's runs the tuning of its final ones.

    Attributes:
        seeds: of the tuning runs at a scale; no verdict uses them.
        choose: the final runs (label -> spec of seed 0), of the tuning's specs and its table; of the paper's own choice
            where there is no table yet, for the forecast.
    """

    seeds: Callable[[Scale], tuple[int, ...]]
    choose: Callable[[Scale, Specs, Table | None], Specs]


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes:
        data: its own data set; `substitute` stands in, loudly, where that is not to be had and none was named.
        also_on: further data sets that are its own; each has a folder and a place in the report.
        check: the claims about a table. draw: the panels, on `axes(rows, columns)`.
        beside: panels of a second picture, of what the paper leaves out.
        arms: those it has besides "epochs".
        spread: how seeds are drawn, in words for the footer.
        measurements: what is measured of a run (scale, label) after its training.
        paths: label -> the line between two runs, of a seed's specs and the next seed's (none if there is one seed).
        derive: further columns of the table, from a run's rows (one an epoch).
        tuning: where the final runs are chosen by tuning runs.
    """

    name: str
    title: str
    doc: str
    data: str
    substitute: str
    experiment: Any
    check: Callable[[Any], list[Claim]]
    draw: Callable[[Table, Any], None]
    beside: Callable[[Table, Any], None] | None = None
    also_on: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    spread: str = "mean ± sd"
    measurements: Callable[[Scale, str], tuple[Measurement, ...]] = lambda scale, label: ()
    derive: Callable[[pd.DataFrame], dict[str, float]] = lambda rows: {}
    paths: Callable[[Scale, Specs, Specs], dict[str, PathSpec]] = lambda scale, specs, following: {}
    tuning: Tuning | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """The data sets on which its claims are judged."""
        return (self.data, *self.also_on)


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
    arm: Arm

    @property
    def check(self) -> Callable[[Any], list[Claim]]:
        return self.arm.check or self.figure.check

    @property
    def draw(self) -> Callable[[Table, Any], None]:
        return self.arm.draw or self.figure.draw

    @property
    def own_data(self) -> bool:
        return self.source.name in self.figure.own

    @property
    def folder(self) -> str:
        """SCALE[-DATA][-ARM]."""
        parts = [self.options.scale, "" if self.source.name == self.figure.data else self.source.name]
        return "-".join(filter(None, [*parts, "" if self.options.arm == EPOCHS else self.options.arm]))
