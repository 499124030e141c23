"""Runs at several (eta, S) and lines between where they end: the experiment of Figures 2, 3 and 10-12."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import NoiseSchedule, Steps
from three_factors.reproduce.engine import claims, seedwise
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.contract.spec import RISES, Keep, PathSpec, RunSpec
from three_factors.reproduce.engine.experiment import Experiment, Line, Reduction, Setting
from three_factors.reproduce.engine.judge.table import Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import triplets, widths
from three_factors.reproduce.experiments.measured import measurements
from three_factors.reproduce.experiments.subset import fitting, subset

APART = ", other initialisation"
FURTHEST = 16.0  # |θ|: how far a random direction is followed
TRAINED = 0.5  # a loss in eval mode above which an end is no minimum, as when the quick sizes were frozen
UNTRAINED = "an end is no minimum in most seeds"
UNCONTROLLED = "the control that shows what noise does is not among these runs"


def apart(name: str) -> str:
    """Returns the label of a setting's run from another initialisation."""
    return name + APART


@dataclass(frozen=True)
class Size:
    """Holds everything that a scale changes.

    Attributes:
        pairs: setting -> (eta, S).
        stretched: setting -> how many times the epochs it takes, where that is not 1.
        apart: the setting that is also trained from another initialisation.
        measured: training examples whose Hessian is measured at the end; None for none.
        examples: on which lines are evaluated.
        points: of a line, in [-1, 2].
        directions: random ones from each end.
        seed_sd: assumed for the power, before training; of a log width ratio.
    """

    network: Network
    pairs: dict[str, tuple[float, int]]
    train: int
    validation: int
    test: int
    epochs: int
    augment: bool
    examples: int
    points: int
    directions: int
    seeds: int
    evaluate_every: int = 1
    seed_sd: float = 0.3
    stretched: Mapping[str, int] = field(default_factory=dict)
    apart: str = ""
    measured: int | None = None


class Valleys(Experiment):
    """Runs at several (eta, S), and lines between pairs of them.

    Args:
        lines: label -> line.
        decay: eta is divided by 10 at 50 % and 75 % of the epochs.
    """

    def __init__(
        self,
        scales: dict[Scale, Size],
        lines: dict[str, Line],
        reductions: Mapping[Scale, Sequence[Reduction]],
        *,
        decay: bool = False,
    ) -> None:
        self.scales, self.lines, self.reductions, self.decay = scales, lines, reductions, decay

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        s = self.scales[scale]
        network = fitting(s.network, source)
        data = subset(source, scale, s, augment=s.augment)

        def run(name: str, lr: float, batch_size: int) -> Setting:
            longer = s.stretched.get(name, 1)
            epochs = longer * s.epochs
            eta: Any = lr
            if self.decay:
                eta = Steps((lr, lr / 10, lr / 100), (epochs * 0.5, epochs * 0.75))
            schedule, every = NoiseSchedule(eta, batch_size), longer * s.evaluate_every
            spec = RunSpec(network, data, schedule, epochs, seed=0, evaluate_every=every, keep=Keep())
            found = () if s.measured is None else measurements(spec, scale, s.measured)
            return Setting(spec, {"eta": lr, "S": batch_size}, found)

        found = {name: run(name, *pair) for name, pair in s.pairs.items()}
        if s.apart:
            found[apart(s.apart)] = replace(found[s.apart], other_start=True)
        return found

    def path(self, scale: Scale, start: RunSpec, end: RunSpec) -> PathSpec:
        s = self.scales[scale]
        alphas = tuple(round(-1 + 3 * i / (s.points - 1), 9) for i in range(s.points))
        # Random directions give the headline: followed until the rise, and not along a filter, where the loss is flat.
        size = min(500, s.examples)
        return PathSpec(start, end, alphas, s.examples, size, s.directions, until=FURTHEST, tangential=True)

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws minima half as sharp at higher noise, alike at equal noise."""
        s, finals = self.scales[scale], {}
        for label, line in self.lines.items():
            ends = [s.pairs.get(name.removesuffix(APART)) for name in (line.start, line.end)]
            if None in ends:
                continue
            ratio = np.log(np.divide(*ends[1]) / np.divide(*ends[0]))
            gain = 0.35 * ratio if abs(ratio) > 0.5 else 0.0
            drawn: dict[str, np.ndarray] = {"loss θ1": np.exp(random.normal(-3, 0.1, seeds))}
            drawn["loss θ2"] = drawn["loss θ1"] * np.exp(gain + random.normal(0, 0.1, seeds))
            for kind in widths.KINDS:
                for rise in RISES:
                    drawn[widths.width(kind, "θ1", rise)] = np.full(seeds, 1.0)
                    drawn[widths.width(kind, "θ2", rise)] = np.exp(gain + random.normal(0, s.seed_sd, seeds))
                    for end in widths.ENDS:
                        drawn[widths.width(kind, end, rise, at_least=True)] = drawn[widths.width(kind, end, rise)]
            finals[label] = drawn
        return SyntheticTable(finals)

    def wider(self, table: Evidence, labels: Sequence[str], *, quote: str = "") -> list[claims.Finding]:
        """States that θ2, at higher noise, lies in the wider minimum: in random directions, a mean over the lines.

        Beside it every line and kind of width; a line to another initialisation is a control.
        """
        there = [label for label in labels if not label.endswith(APART)]
        ratios = [widths.log_width_ratio(table, label, widths.RANDOM) for label in there]
        untrained, most = self._untrained(table, there)
        about = claims.Statement(
            "wider",
            "the minimum at higher eta/S is wider",
            f"{widths.statistic(widths.RANDOM)}; mean over {len(there)} line{'s' if len(there) > 1 else ''}",
            quote=quote,
            note=claims.joined(*(ratio.note for ratio in ratios), untrained),
        )
        wider = widths.finding(about, widths.mean(ratios), widths.WIDER)
        found = [wider.without(UNTRAINED) if most else wider]
        for label in labels:
            line = self.lines[label]
            for kind, (name, words) in widths.KINDS.items():
                if kind == widths.RANDOM and len(there) == 1 and label in there:
                    continue  # it is the primary one
                ratio = widths.log_width_ratio(table, label, kind)
                one = claims.Statement(
                    f"wider.{line.id}.{name}",
                    f"the minimum at higher eta/S ('{line.end}') is wider: {label}{words}",
                    widths.statistic(kind),
                    note=ratio.note,
                    control_of="wider" if label.endswith(APART) else "",
                )
                found.append(widths.finding(one, ratio, widths.WIDER))
        return found

    def _untrained(self, table: Evidence, labels: Sequence[str]) -> tuple[str, bool]:
        """Says which ends of lines are no minima, and in how many seeds; and whether one is none in most of them."""
        found, most = [], False
        for label in labels:
            for end, run in (("θ1", self.lines[label].start), ("θ2", self.lines[label].end)):
                loss = table.grid([label], f"loss {end}")
                if many := int((loss > TRAINED).sum()):
                    found.append(f"'{run}' ends above a loss of {TRAINED:g} in {many} of {len(loss)} seeds")
                most = most or 2 * many > len(loss)
        return claims.joined(*dict.fromkeys(found)), most

    def alike(self, table: Evidence, of: Triplet, *, quote: str = "", paper: str | None = None) -> list[claims.Finding]:
        """States that minima at equal noise are as wide and as deep as one another, measured by what noise does.

        Beside it the ratios of every line, which say nothing where noise does nothing.
        """
        found = []
        untrained, most = self._untrained(table, [label for label in (*of.equal, of.quiet) if label in table.labels])
        for name, words, outcome in (
            ("wide", "equally wide", lambda label: -widths.log_width_ratio(table, label, widths.RANDOM).known),
            ("deep", "equally deep", lambda label: -widths.log_depth_ratio(table, label)),
        ):
            r = outcome(of.quiet) / np.log(of.less)
            q = np.mean([outcome(label) / exchanged for label, exchanged in of.equal.items()], axis=0)
            statistic = "less log width in random directions" if name == "wide" else "less log training loss"
            text, statistic = f"minima at equal eta/S are {words}", f"{statistic} where runs end"
            about = claims.Statement(name, text, statistic, paper=paper, quote=quote, note=untrained)
            exponent = triplets.exponent(about, r, q)
            if of.quiet not in table.labels:
                exponent = exponent.without(UNCONTROLLED)
            found.append(exponent.without(UNTRAINED) if most else exponent)
        for label in (*of.equal, *of.beside):
            line = self.lines[label]
            for kind, (name, words) in widths.KINDS.items():
                ratio = widths.log_width_ratio(table, label, kind)
                text = f"minima at equal eta/S are equally wide: {label}{words}"
                about = claims.Statement(f"wide.{line.id}.{name}", text, widths.statistic(kind), note=ratio.note)
                found.append(widths.finding(about, ratio, seedwise.Range(1 / 1.5, 1.5)))
            about = claims.Statement(
                f"deep.{line.id}",
                f"minima at equal eta/S are equally deep: {label}",
                "training loss at θ2 over that at θ1, a seed",
            )
            ends = np.exp(widths.log_depth_ratio(table, label))
            found.append(seedwise.over_seeds(about, ends, seedwise.Range(1 / 1.25, 1.25), seedwise.LOG))
        return found


@dataclass(frozen=True)
class Triplet:
    """Names the lines of a triplet A, B, C (`triplets`).

    Attributes:
        equal: line between A and B -> log k where θ2 is A, -log k where θ1 is; several are averaged.
        quiet: the line from A to C.
        less: k', how many times less noise C has.
        beside: lines that are measured too: what the paper calls equal, and is not quite.
    """

    equal: Mapping[str, float]
    quiet: str
    less: float
    beside: tuple[str, ...] = ()
