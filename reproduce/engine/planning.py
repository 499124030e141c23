"""What a call does: its runs, those that its tuning chooses, and the lines between them; or its simulations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from three_factors.reproduce.engine.contract.spec import Item, PathSpec, RunSpec
from three_factors.reproduce.engine.contract.steps import cost_of
from three_factors.reproduce.engine.definition import Definition, Figure, Theory
from three_factors.reproduce.engine.experiment import Arm, Setting, Settings
from three_factors.reproduce.engine.options import SEEDS, InputError, Options, Scale
from three_factors.reproduce.engine.regime import Regime, regime
from three_factors.reproduce.theory.simulation import Simulation

if TYPE_CHECKING:
    from three_factors.datamodules.prepared import Prepared
    from three_factors.reproduce.engine.contract.results import Results
    from three_factors.reproduce.engine.judge.chains import Chains
    from three_factors.reproduce.engine.judge.table import Table

Say = Callable[..., None]


@dataclass(frozen=True)
class Stage:
    """Work that can be done at the same time.

    Attributes:
        items: in the order in which they are begun.
        words: what they are, if that is to be said.
        alone: whether each takes one device, whatever runs take.
        mirrored: whether W&B gets them.
    """

    items: list[Item]
    words: str = ""
    alone: bool = False
    mirrored: bool = False


class Plan(ABC):
    """Describes what a call does, at a scale, on a data set, in an arm, with so many seeds.

    Attributes:
        scale: at which it is done.
        seeds: how many there are of each setting.
        noun: what is done, in words.
        verb: likewise.
        told: what its arm says of itself, once the runs are known.
    """

    noun: ClassVar[str]
    verb: ClassVar[str]
    scale: Scale
    seeds: int
    told: str = ""

    @abstractmethod
    def foreseen(self) -> list[Stage]:
        """Returns the stages as they are expected before anything has run."""

    @abstractmethod
    def stages(self, results: Results, say: Say) -> Iterator[Stage]:
        """Yields stage after stage; each has been done, as far as it will be, when the next is asked for."""

    @abstractmethod
    def evidence(self, items: list[Item], results: Results, say: Say) -> Table | Chains:
        """Returns what the finished items came to; without labels if that is nothing to draw."""

    @abstractmethod
    def at(self, scale: Scale) -> Plan:
        """Returns the plan of the same call at another scale, on one device."""

    @abstractmethod
    def regime(self) -> Regime | None:
        """Returns how far the runs are from the paper's; None for simulations."""


class FigurePlan(Plan):
    """The runs of a figure, and the lines between them."""

    noun, verb = "runs", "train"

    def __init__(self, figure: Figure, options: Options, source: Prepared, arm: Arm) -> None:
        self.figure, self.options, self.source, self.arm = figure, options, source, arm
        self.experiment, self.told = figure.experiment, ""
        self.scale, self.seeds = options.scale, options.seeds or self.experiment.scales[options.scale].seeds
        # 0 to 99, and 1000 and more, are pilots'.
        first = 0 if options.scale == "smoke" else figure.edition_of(arm.name) * SEEDS
        self.judged = range(first, first + self.seeds)

    def foreseen(self) -> list[Stage]:
        runs = self.runs()
        final = self.final(runs, None)
        return [Stage(runs), Stage(final), Stage(self.lines(runs), alone=True)]

    def stages(self, results: Results, say: Say) -> Iterator[Stage]:
        runs = self.runs()
        yield Stage(runs, mirrored=True)
        if self.experiment.tuning is not None and not results.missing(runs, say):
            final = self.final(runs, self.evidence(runs, results, say))
            yield Stage(final, mirrored=True)
            runs = runs + final
        yield Stage(self._possible(self.lines(runs), results, say), "lines between runs", alone=True)

    def evidence(self, items: list[Item], results: Results, say: Say) -> Table:
        from three_factors.reproduce.engine.evidence import table_of

        return table_of(self.experiment, items, results, say)

    def runs(self) -> list[Item]:
        """Returns all that is known before anything has run: of a tuned figure, the tuning.

        Raises InputError where the data or the devices do not do, or where the arm leaves no run.
        """
        try:
            settings: Settings = self.experiment.runs(self.options.scale, self.source)
            self.told = "" if self.arm.tell is None else self.arm.tell(settings)
            if self.arm.change is not None:
                settings = self.arm.change(settings)
                if not settings:
                    raise InputError(f"--arm: {self.arm.name!r} leaves no run at scale {self.scale}")
            precision = self.options.arithmetic
            settings = {label: setting.changed(precision=precision) for label, setting in settings.items()}
            for setting in settings.values():
                setting.spec.check_devices(self.options.devices * self.options.num_nodes)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        tuning = self.experiment.tuning
        return self._seedwise(settings, self.judged if tuning is None else tuning.seeds(self.options.scale))

    def final(self, tuned: list[Item], table: Table | None) -> list[Item]:
        """Returns the runs that the tuning's table chooses, or before there is one those that the paper chose."""
        tuning = self.experiment.tuning
        if tuning is None:
            return []
        settings = {item.label: _setting(item) for item in tuned}
        return self._seedwise(tuning.choose(self.options.scale, settings, table), self.judged)

    def lines(self, runs: list[Item]) -> list[Item]:
        """Returns the lines between runs of one seed."""
        specs: dict[tuple[str, int], Any] = {(item.label, item.seed): item.spec for item in runs}
        found = []
        for seed in self.judged:
            for label, line in self.experiment.lines.items():
                start, end = specs.get((line.start, seed)), specs.get((line.end, seed))
                if start and end:
                    found.append(Item(label, seed, self.experiment.path(self.options.scale, start, end)))
        return found

    def regime(self) -> Regime:
        ours, papers = ({item.label: item.spec for item in plan._of_claims()} for plan in (self, self.at("paper")))
        return regime(ours, papers)  # type: ignore[arg-type]

    def _of_claims(self) -> list[Item]:
        """Returns the runs that claims are about: of a tuned figure the final ones; none that calibrate."""
        first, final, _ = self.foreseen()
        return [item for item in final.items or first.items if "calibration" not in item.factors]

    def at(self, scale: Scale) -> FigurePlan:
        name = self.source.name if self.figure.is_own(self.source.name) else self.figure.data[0]
        own = replace(self.source, name=name, train=10**9, test=10**9)  # only its shape is asked for
        options = replace(self.options, scale=scale, seeds=None, devices=1, num_nodes=1)
        return FigurePlan(self.figure, options, own, self.arm)

    @staticmethod
    def _seedwise(settings: Settings, seeds: Iterable[int]) -> list[Item]:
        """Orders runs seed by seed, so that an interrupted figure has whole seeds; the longest first within one."""
        longest_first = sorted(settings.items(), key=lambda item: -cost_of(item[1].spec))
        return [
            Item(
                label,
                seed,
                setting.of_seed(seed),
                setting.measurements,
                setting.factors,
                setting.every_step,
            )
            for seed in seeds
            for label, setting in longest_first
        ]

    @staticmethod
    def _possible(lines: list[Item], results: Results, say: Say) -> list[Item]:
        """Returns the lines whose runs are done; says which are none because a run diverged."""
        found = []
        for line in lines:
            assert isinstance(line.spec, PathSpec)
            runs = [Item("", line.seed, run) for run in (line.spec.start, line.spec.end)]
            ends = [results.finished(run, say) for run in runs]
            if all(end is not None and end["status"] == "ok" for end in ends):
                found.append(line)
            elif None not in ends:
                say(f"no line '{line.label}' for seed {line.seed}: a run at its end diverged")
        return found


class TheoryPlan(Plan):
    """The simulations of a statement of theory."""

    noun, verb = "simulations", "simulate"

    def __init__(self, theory: Theory, options: Options, source: Prepared | None) -> None:
        self.theory, self.options, self.source = theory, options, source
        self.scale = theory.simulated_at(options.scale)
        self.seeds = options.seeds or theory.seeds[self.scale]
        self.specs = self._specs()

    def foreseen(self) -> list[Stage]:
        return [Stage(self._items())]

    def stages(self, results: Results, say: Say) -> Iterator[Stage]:
        yield Stage(self._items(), alone=True)

    def evidence(self, items: list[Item], results: Results, say: Say) -> Chains:
        """Returns the chains of all simulations: of a part there is none, since all of them are one statement."""
        from three_factors.reproduce.engine.evidence import chains_of

        whole = not results.missing(items, say)
        return chains_of(self.specs, items if whole else [], results, self.source)

    def at(self, scale: Scale) -> TheoryPlan:
        return TheoryPlan(self.theory, replace(self.options, scale=scale, seeds=None), self.source)

    def regime(self) -> None:
        return None

    def _items(self) -> list[Item]:
        longest_first = sorted(self.specs.items(), key=lambda item: -values_of(item[1]))
        return [
            Item(label, seed, replace(spec, seed=seed)) for seed in range(self.seeds) for label, spec in longest_first
        ]

    def _specs(self) -> dict[str, Simulation]:
        if self.source is None:
            return self.theory.simulations(self.scale)
        try:
            return self.theory.simulations(self.scale, self.source)
        except ValueError as error:  # too few images, or none of these classes
            raise InputError(f"--data: {self.source.name!r} does not do: {error}") from error


def plan_of(definition: Definition, options: Options, source: Prepared | None, arm: Arm) -> Plan:
    """Returns the plan of a call."""
    if isinstance(definition, Theory):
        return TheoryPlan(definition, options, source)
    assert isinstance(definition, Figure)
    assert source is not None
    return FigurePlan(definition, options, source, arm)


def values_of(spec: Simulation) -> float:
    """Counts what is computed: steps x chains x dimensions, or examples where a gradient goes over more of those."""
    return float(spec.record[-1] * spec.chains * max(spec.potential.dim, spec.examples_a_step))


def _setting(item: Item) -> Setting:
    assert isinstance(item.spec, RunSpec)
    return Setting(item.spec, item.factors, item.measurements)
