"""What a figure is, and what a statement of theory is: its work, its claims, its panels; and one call of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.experiment import PAPERS, Arm, Experiment, Reduction
from three_factors.reproduce.engine.judge.rules import TAG
from three_factors.reproduce.engine.options import EPOCHS, PRECISION, InputError, Options, Scale

if TYPE_CHECKING:
    import pandas as pd

    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.judge.chains import Chains
    from three_factors.reproduce.engine.judge.claims import Finding
    from three_factors.reproduce.engine.judge.looks import Look
    from three_factors.reproduce.engine.judge.table import Table
    from three_factors.reproduce.engine.regime import Regime
    from three_factors.reproduce.theory.simulation import Simulation

BESIDE = "controls"  # how the name of a figure's second picture ends
SIMULATION = "simulation"  # what stands for a data set where there is none
MOST_PRIMARY = 4  # primary claims of a figure


@dataclass(frozen=True, kw_only=True)
class Definition(ABC):
    """Describes what every script defines.

    Attributes:
        name: the script's.
        title: one line.
        doc: the script's docstring: heading, caption, commands.
        data: the data sets on which its claims are judged, each with a folder and a place in the report; by default
            the first is taken. None for simulations that need no data.
        substitute: stands in, loudly, where the first is not to be had and none was named.
        check: what is found of its claims, from the evidence. It is a function defined in the script: `file` is taken
            from it.
        draw: the panels, on `axes(rows, columns)`.
        primary: the ids of the claims that are given a word, on the first of its data sets.
        beside: panels of a second picture, of what the paper leaves out.
        formulas: what is tested, in LaTeX, for the report.
        arms: those it has besides the paper's own.
        later: arm -> its edition, where that is not the figure's: its own runs or claims were changed.
        edition: of its claims, from 1; one more where a claim was changed after verdicts by it were seen. They are then
            given anew, on the next hundred seeds.
    """

    name: str
    title: str
    doc: str
    check: Callable[[Any], list[Finding]]
    draw: Callable[[Any, Any], None]
    primary: tuple[str, ...] | None = ()
    data: tuple[str, ...] = ()
    substitute: str = ""
    beside: Callable[[Any, Any], None] | None = None
    formulas: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    edition: int = 1
    later: Mapping[str, int] = field(default_factory=dict)

    def edition_of(self, arm: str) -> int:
        """Returns the edition of the claims in an arm."""
        return self.later.get(arm, self.edition)

    def rules(self, arm: str) -> str:
        """Returns the rules by which its claims are given words in an arm, as the ledger of looks names them."""
        edition = self.edition_of(arm)
        return TAG if edition == 1 else f"{TAG}.{edition}"

    def arm(self, name: str) -> Arm:
        """Returns the arm of a name. Raises InputError if there is none."""
        known = {arm.name: arm for arm in (PAPERS, *self.arms)}
        if name not in known:
            raise InputError(f"--arm: {self.name} has no arm {name!r}, only {', '.join(known)}")
        return known[name]

    @property
    def file(self) -> Path:
        """Returns the script's file, by its claims."""
        return Path(self.check.__code__.co_filename).resolve()

    def is_own(self, data: str) -> bool:
        """Tells whether claims are judged on a data set."""
        return data in (self.data or (SIMULATION,))

    @property
    @abstractmethod
    def flags(self) -> tuple[str, ...]:
        """Returns the flags of its command line, besides those that all scripts have."""

    def reductions(self, scale: Scale) -> Sequence[Reduction]:
        """Returns (the paper's, at a scale, why), a line each."""
        return ()

    def first_look(self, scale: Scale) -> int | None:
        """Returns at how many seeds claims are first looked at; None if once for all."""
        return None

    def only_at(self, scale: Scale) -> int | None:
        """Returns at how many seeds claims are looked at once for all; None if there are several looks."""
        return None

    @abstractmethod
    def frame(self, evidence: Any) -> pd.DataFrame:
        """Returns the rows of table.csv."""

    @abstractmethod
    def replicates(self, seeds: int, evidence: Any) -> str:
        """Says how often everything was done, for the footer."""


@dataclass(frozen=True, kw_only=True)
class Figure(Definition):
    """A figure of the paper: networks that are trained.

    Attributes:
        experiment: what is run.
        spread: how seeds are drawn, in words for the footer.
    """

    experiment: Experiment
    spread: str = "mean ± sd"

    def __post_init__(self) -> None:
        if self.primary is None or len(self.primary) > MOST_PRIMARY:
            raise ValueError(f"primary: {self.name} names more than {MOST_PRIMARY} primary claims")

    @property
    def flags(self) -> tuple[str, ...]:
        slurm = ("slurm", "partition", "time", "gpus", "detach")
        return ("arm", "data", "data_dir", "precision", "devices", "num_nodes", "part", *slurm, "no_packs")

    def reductions(self, scale: Scale) -> Sequence[Reduction]:
        return self.experiment.reductions.get(scale, ())

    def first_look(self, scale: Scale) -> int:
        return int(self.experiment.scales[scale].seeds)

    def frame(self, evidence: Table) -> pd.DataFrame:
        return evidence.frame

    def replicates(self, seeds: int, evidence: Table) -> str:
        return f"{seeds} seeds, {self.spread}" if seeds > 1 else "1 seed"


@dataclass(frozen=True, kw_only=True)
class Theory(Definition):
    """A statement of the paper's theory: SGD on known losses, simulated.

    Attributes:
        simulations: label -> the simulation of seed 0, at a scale; called with the data set too where there is one, and
            raises ValueError if that does not do.
        seeds: how many of each there are at a scale, all independent; at gpu there are quick's.
        primary: None: each of its claims, checks of the simulator, is given a word.
        table: the rows of table.csv, where they are not those of `Chains.frame`.
    """

    simulations: Callable[..., dict[str, Simulation]]
    seeds: Mapping[Scale, int]
    primary: tuple[str, ...] | None = None
    table: Callable[[Chains], pd.DataFrame] = lambda chains: chains.frame

    @property
    def flags(self) -> tuple[str, ...]:
        return ("data", "data_dir") if self.data else ()

    @staticmethod
    def simulated_at(scale: Scale) -> Scale:
        """Returns the scale of the simulations of a call: those at gpu are quick's, a GPU has no part in them."""
        return "quick" if scale == "gpu" else scale

    def only_at(self, scale: Scale) -> int:
        return self.seeds[self.simulated_at(scale)]

    def frame(self, evidence: Chains) -> pd.DataFrame:
        return self.table(evidence)

    def replicates(self, seeds: int, evidence: Chains) -> str:
        return f"{seeds} x {max(spec.chains for spec in evidence.specs.values())} chains"


@dataclass(frozen=True)
class Context:
    """Describes what a call is about, as its outputs tell it.

    Attributes:
        definition: of the script.
        options: of the call.
        source: the data set; None for simulations without one.
        seeds: how many there are of each setting.
        hardware: in words.
        arm: what is changed in all runs.
        regime: how far its runs are from the paper's; None for simulations.
    """

    definition: Definition
    options: Options
    source: Prepared | None
    seeds: int
    hardware: str
    arm: Arm = PAPERS
    regime: Regime | None = None

    @property
    def papers_words(self) -> bool:
        """Tells whether verdicts have the paper scale's words: elsewhere only where t_eta is within a factor of 3."""
        if self.regime is None or self.options.scale == "paper":
            return True
        return self.options.scale == "gpu" and self.near

    @property
    def near(self) -> bool:
        """Tells whether t_eta is within a factor of 3 of the paper's."""
        return self.regime is None or 1 / 3 <= self.regime.time <= 3

    @property
    def check(self) -> Callable[[Any], list[Finding]]:
        return self.arm.check or self.definition.check

    @property
    def primary(self) -> tuple[str, ...] | None:
        """Returns the ids of the claims that are given a word; None: all of them are."""
        return () if self.arm.check is not None else self.definition.primary

    @property
    def look(self) -> Look:
        """Returns the look at so many seeds; simulations are looked at once."""
        from three_factors.reproduce.engine.judge import looks

        first = self.definition.first_look(self.options.scale)
        return looks.ONLY if first is None else looks.look(self.seeds, first)

    @property
    def place(self) -> str:
        """Names what a claim's looks are counted together with, besides its figure: scale, data, arm, precision.

        Data by their content: another copy of a set, recompressed say, is another one, and has looks of its own.
        """
        data = self.data if self.source is None else f"{self.data}-{self.source.fingerprint[:8]}"
        return " ".join((self.options.scale, data, self.arm.name, self.options.arithmetic))

    @property
    def draw(self) -> Callable[[Any, Any], None]:
        return self.arm.draw or self.definition.draw

    @property
    def data(self) -> str:
        """Returns the data set's name."""
        return SIMULATION if self.source is None else self.source.name

    @property
    def own_data(self) -> bool:
        return self.definition.is_own(self.data)

    @property
    def other_data(self) -> str | None:
        """Describes what is to be said of data that are not the definition's own."""
        return None if self.own_data else f"{self.data}, not {' or '.join(self.definition.data)}"

    @property
    def folder(self) -> str:
        """Returns SCALE[-DATA][-ARM][-PRECISION], the last where it is not the scale's."""
        first = self.definition.data[0] if self.definition.data else SIMULATION
        parts = [self.options.scale, "" if self.data == first else self.data]
        precision = self.options.arithmetic
        parts += ["" if self.arm.name == EPOCHS else self.arm.name]
        parts += ["" if precision == PRECISION[self.options.scale] else precision]
        return "-".join(filter(None, parts))


@dataclass(frozen=True)
class Contents:
    """The table of contents: which scripts there are.

    Attributes:
        page: their names in the order of the report.
        running: in the order in which they are run, shortest first.
        load: a script's definition by its name.
    """

    page: tuple[str, ...]
    running: tuple[str, ...]
    load: Callable[[str], Definition]
