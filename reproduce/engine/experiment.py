"""What an experiment is: its settings at every scale, the lines between its runs, its tuning; and an arm of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.options import EPOCHS, Scale

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.contract.measurements import AnyMeasurement
    from three_factors.reproduce.engine.contract.spec import Evaluations, Factors, PathSpec, RunSpec
    from three_factors.reproduce.engine.judge.claims import Finding
    from three_factors.reproduce.engine.judge.table import Evidence, Table


@dataclass(frozen=True)
class Setting:
    """One setting of an experiment.

    Attributes:
        spec: its run of seed 0; other seeds differ in `seed` and in the split of the data (`of_seed`).
        factors: what it is made of (eta, S, panel, ...): columns of the table, by which claims find their runs.
        measurements: what is measured of its runs after their training.
        every_step: whether the loss of every step is kept, besides the epochs' means and variances.
        other_start: whether weights and order are the next seed's; the split of the data stays this seed's.

    Raises:
        ValueError: something is measured at a milestone at which the run keeps no weights.
    """

    spec: RunSpec
    factors: Factors = field(default_factory=dict)
    measurements: tuple[AnyMeasurement, ...] = ()
    every_step: bool = False
    other_start: bool = False

    def __post_init__(self) -> None:
        kept = () if self.spec.keep is None else self.spec.keep.milestones
        for at in (at for measurement in self.measurements for at in measurement.at):
            if at not in kept:
                raise ValueError(f"measurements: {at!r} is no milestone of keep={self.spec.keep}")

    def of_seed(self, seed: int) -> RunSpec:
        """Returns the run of a seed. The split of the data follows it: a small training set is a replicate too."""
        data, evaluations = replace(self.spec.data, split_seed=seed), often_enough(self.spec)
        return replace(self.spec, seed=seed + self.other_start, data=data, evaluations=evaluations)

    def changed(self, **fields: Any) -> Setting:
        """Returns the setting with other fields of its spec."""
        return replace(self, spec=replace(self.spec, **fields))


def whole_evaluations(epochs: float, every: int) -> int:
    """Returns the number of epochs nearest to `epochs` that is whole evaluations, one `every` epochs; at least one."""
    return max(1, round(epochs / every)) * every


Settings = Mapping[str, Setting]  # by label
AT_THE_END = 5  # evaluations in the last tenth of a run, at least: what it ends at is their mean


def often_enough(spec: RunSpec) -> Evaluations | None:
    """Returns when a run is evaluated within epochs: as it says, and at least `AT_THE_END` times where it ends."""
    from three_factors.datamodules.schedules import as_schedule, known_bounds
    from three_factors.reproduce.engine.contract.ends import TAIL, ends_from, of_what
    from three_factors.reproduce.engine.contract.spec import Evaluations
    from three_factors.reproduce.engine.contract.steps import lengths

    tenth, start = of_what(spec), int((1 - TAIL) * spec.epochs)
    if tenth != "steps":
        start = math.floor(ends_from(spec))
    ends = spec.epochs // spec.evaluate_every - start // spec.evaluate_every
    low, high = known_bounds(as_schedule(spec.schedule.batch_size)) or (1.0, float(spec.data.train))
    if tenth == "steps" and low != high and AT_THE_END <= ends < AT_THE_END * high / low:  # other than that of epochs
        steps = lengths(spec).cumsum()
        ends = int((steps[spec.evaluate_every - 1 :: spec.evaluate_every] > (1 - TAIL) * steps[-1]).sum())
    if ends >= AT_THE_END:
        return spec.evaluations
    return replace(spec.evaluations or Evaluations(), last=AT_THE_END, tenth=tenth)


@dataclass(frozen=True)
class Line:
    """A line between two runs.

    Attributes:
        id: its name in claims.
        start: the setting whose run is θ1.
        end: that of θ2.
    """

    id: str
    start: str
    end: str


@dataclass(frozen=True)
class Tuning:
    """Tells how final runs are chosen by an experiment's runs, which then are its tuning.

    Attributes:
        seeds: the seeds of the tuning runs at a scale; no verdict uses them.
        choose: the final settings, of the tuning's and its table; those of the paper's own choice where there is no
            table yet, for the forecast.
    """

    seeds: Callable[[Scale], Sequence[int]]
    choose: Callable[[Scale, Settings, Table | None], Settings]


Reduction = tuple[str, str, str]  # the paper's, what is run instead, why


class Experiment(ABC):
    """Describes what is run at which scale, and what was left out of the paper's; the base class of all experiments.

    Attributes:
        scales: everything that a scale changes; each has `seeds`, how many there are by default.
        reductions: of the scales that have less than the paper: (the paper's, there, why), a line each.
        lines: label -> a line between two runs, along which the loss is evaluated.
        tuning: None unless the runs only choose the final ones.
    """

    scales: Mapping[Scale, Any]
    reductions: Mapping[Scale, Sequence[Reduction]] = MappingProxyType({})
    lines: Mapping[str, Line] = MappingProxyType({})
    tuning: Tuning | None = None

    @abstractmethod
    def runs(self, scale: Scale, source: Prepared) -> Mapping[str, Setting]:
        """Returns label -> setting, on a data set."""

    def path(self, scale: Scale, start: RunSpec, end: RunSpec) -> PathSpec:
        """Returns how the line between two runs is followed; asked for where there are `lines`."""
        raise NotImplementedError(f"{type(self).__name__} has lines, but no `path`")

    def derive(self, rows: pd.DataFrame, spec: RunSpec) -> dict[str, float]:
        """Returns further columns of the table, from a run's rows: one an epoch, and one an evaluation within."""
        return {}

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> Evidence:
        """Draws evidence from a world in which the claims hold.

        A figure that contents.py lists needs it: its claims are tested on it, and the report knows by it whether they
        have changed. What else such a figure needs stands in reproduce/README.md, under "Your own figure".
        """
        raise NotImplementedError(f"{type(self).__name__} has no `imagined` world")


@dataclass(frozen=True)
class Arm:
    """An experiment's runs once more, with one thing changed in all of them: a confound taken away, as a rule.

    Attributes:
        name: what `--arm` calls it.
        words: what it is, for footers and help.
        change: the changed settings; None for the paper's own.
        check: replaces the figure's own claims.
        draw: replaces its own panels.
        tell: says in a line what it can show, of the settings before the change.
    """

    name: str
    words: str
    change: Callable[[Settings], Settings] | None
    check: Callable[[Any], list[Finding]] | None = None
    draw: Callable[[Any, Any], None] | None = None
    tell: Callable[[Settings], str] | None = None


PAPERS = Arm(EPOCHS, "equal epochs, as the paper", None)
