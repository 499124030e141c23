"""How wide and how deep the minima at the ends of a line are, θ2's over θ1's: the ratios of Figures 2, 3 and 10-12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from three_factors.reproduce.engine import claims, seedwise
from three_factors.reproduce.engine.contract.spec import RISES
from three_factors.reproduce.engine.judge.table import Evidence

RANDOM = "random width"  # the headline: along a line between ends with batch norm the far end is flat by its scale
KINDS = {  # a width's kind -> its name in ids, its words in claims
    "width": ("line", ", on the line"),
    "relative width": ("relative", ", in units of |θ|"),
    "tangential width": ("tangential", ", on the line without its radial part"),
    RANDOM: ("random", ", in random directions"),
}
ENDS = ("θ1", "θ2")


def width(kind: str, end: str, rise: float, *, at_least: bool = False) -> str:
    """Returns the name of a width's column: where the loss has risen by `rise`, or how far it was followed."""
    return f"{kind}{' at least' if at_least else ''} {end} {rise:g}"


WIDER = seedwise.Direction(1, smallest=0.2, null=1.0)


def statistic(kind: str) -> str:
    """Returns the words of what is computed of a kind of width."""
    rises = ", ".join(f"{rise:g}" for rise in RISES)
    return f"{kind} of θ2 over that of θ1, geometric mean over rises of {rises}, a seed"


@dataclass(frozen=True)
class WidthRatio:
    """The log of θ2's width over θ1's, a mean over rises.

    Attributes:
        value: (seeds,); NaN where a run is missing.
        start: whether rises of θ1 were not reached, so that it is at most this, (seeds,).
        end: whether rises of θ2 were not reached, so that it is at least this, (seeds,).
    """

    value: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Returns the ratios that are no bounds, (seeds,); NaN for the others."""
        return np.where(self.start | self.end, np.nan, self.value)

    @property
    def note(self) -> str:
        """Says in how many seeds a rise was not reached."""
        words = [f"of {name} in {int(of.sum())}" for name, of in zip(ENDS, (self.start, self.end)) if of.any()]
        return f"rises not reached: {' and '.join(words)} seeds, which bound the ratio" if words else ""


def log_width_ratio(table: Evidence, label: str, kind: str) -> WidthRatio:
    """Returns a line's ratio of widths of a kind. A rise that is not reached counts with how far it was followed."""
    logs, censored = [], {end: np.zeros(len(table.grid([label], "loss θ1")), dtype=bool) for end in ENDS}
    for rise in RISES:
        widths = []
        for end in ENDS:
            reached = table.grid([label], width(kind, end, rise))[:, 0]
            edge = table.grid([label], width(kind, end, rise, at_least=True))[:, 0]
            censored[end] |= np.isnan(reached) & ~np.isnan(edge)
            widths.append(np.where(np.isnan(reached), edge, reached))
        logs.append(np.log(widths[1]) - np.log(widths[0]))
    return WidthRatio(np.mean(logs, axis=0), *censored.values())


def mean(ratios: Sequence[WidthRatio]) -> WidthRatio:
    """Returns the mean over lines; a seed bounded on both sides has no value."""
    start, end = (np.any([getattr(of, side) for of in ratios], axis=0) for side in ("start", "end"))
    return WidthRatio(np.mean([of.value for of in ratios], axis=0), start, end)


def finding(about: claims.Statement, ratio: WidthRatio, rule: claims.Rule) -> claims.Finding:
    """Returns the finding of a width ratio; what was not reached bounds it."""
    value = np.exp(ratio.value)
    values = np.where(ratio.start & ratio.end, np.nan, value)
    values = np.where(ratio.end & ~ratio.start, np.inf, np.where(ratio.start & ~ratio.end, -np.inf, values))
    return seedwise.over_seeds(about, values, rule, seedwise.LOG, at_least=value, at_most=value)


def log_depth_ratio(table: Evidence, label: str) -> np.ndarray:
    """Returns the log of the training loss at θ2 over that at θ1, (seeds,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.log(table.grid([label], "loss θ2") / table.grid([label], "loss θ1"))[:, 0]
    return found
