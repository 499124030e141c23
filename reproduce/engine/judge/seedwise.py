"""Findings whose statistic is one number a seed: a slope over a grid, a log ratio, a share, a location.

Seeds are the replicates and arms of one seed are pairs: they share initial weights, data and the order of every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from three_factors.reproduce.engine.judge.claims import Finding, Statement, Unit
from three_factors.reproduce.engine.judge.estimates import LOG, PLAIN, OverSeeds, Ratio, Scale, Trend, estimated
from three_factors.reproduce.engine.judge.rules import Direction, Range, Rule, within
from three_factors.reproduce.engine.judge.statistics import page
from three_factors.reproduce.engine.judge.table import Evidence

__all__ = [
    "LOG",
    "PLAIN",
    "Direction",
    "NoiseContrast",
    "Range",
    "Scale",
    "Statement",
    "differ",
    "gate",
    "over_seeds",
    "ratio",
    "rising",
    "share",
    "within",
]

THIRD = 1 / 3  # margin of a share of what noise does: for a triplet with equal factors, g in [.71, 1.4]


def over_seeds(
    about: Statement,
    values: np.ndarray,
    rule: Rule,
    scale: Scale = PLAIN,
    *,
    labels: Sequence[str] = (),
    unit: Unit = "",
    at_least: np.ndarray | float | None = None,
    at_most: np.ndarray | float | None = None,
    gate: float | None = None,
) -> Finding:
    """Returns the finding of a number a seed, (n,); NaN where a seed has none.

    Args:
        at_least: of seeds whose value lies beyond what was tried (+inf): what it is at least.
        at_most: likewise of those below what was tried (-inf).
        gate: see `Finding`.

    Raises:
        ValueError: a direction from a null that the scale does not have.
    """
    if scale is LOG and isinstance(rule, Direction) and min(rule.null, rule.interesting) <= 0:
        raise ValueError(f"null: {rule.null:g} is not positive, as values on a logarithmic scale are")
    low, high = (
        None if bound is None else np.broadcast_to(np.asarray(bound, dtype=float), np.shape(values))
        for bound in (at_least, at_most)
    )

    def made(of: np.ndarray) -> OverSeeds:
        return OverSeeds(of, scale, at_least=low, at_most=high)

    found = estimated([values], made)
    if isinstance(found, OverSeeds) and found.bounded:
        about = about.noting(f"{found.bounded} of {found.n} seeds have it beyond the range that was tried")
    return Finding(about, rule, found, tuple(labels), gate, unit)


def ratio(about: Statement, above: np.ndarray, below: np.ndarray, rule: Rule, *, labels: Sequence[str] = ()) -> Finding:
    """Returns the finding of mean(above)/mean(below) of numbers a seed (n,), paired, by Fieller."""
    about = replace(about, statistic=f"{about.statistic}; Fieller over seeds")
    return Finding(about, rule, estimated([above, below], Ratio), tuple(labels))


def differ(
    about: Statement,
    table: Evidence,
    a: str,
    b: str,
    rule: Rule,
    *,
    on: str,
    scale: Scale = PLAIN,
    gate: float | None = None,
) -> Finding:
    """Returns the finding of a metric of setting `a` less that of `b`, a seed; on a log scale of their ratio."""
    x, y = _columns(table, (a, b), on)
    words = f"{on}, '{a}' {'over' if scale is LOG else 'minus'} '{b}', a seed"
    with np.errstate(invalid="ignore", divide="ignore"):
        values = x / y if scale is LOG else x - y
    unit: Unit = "share" if scale is PLAIN and on.endswith("accuracy") else ""
    return over_seeds(replace(about, statistic=words), values, rule, scale, labels=(a, b), unit=unit, gate=gate)


@dataclass(frozen=True)
class NoiseContrast:
    """Says what the noise alone does to `on`: the mean of a pair less its control, at equal eta, steps and t_eta.

    Attributes:
        pair: two settings of equal noise.
        control: a setting of less.
        on: the metric.
        sign: of the mean of the pair less the control, where noise acts as is claimed.
        scale: `LOG` where logarithms are compared.
    """

    pair: tuple[str, str]
    control: str
    on: str
    sign: int = 1
    scale: Scale = PLAIN

    def effect(self, table: Evidence) -> np.ndarray:
        """Returns it a seed, (n,), positive where it is as claimed."""
        first, second, control = (self.scale.to(of) for of in _columns(table, (*self.pair, self.control), self.on))
        found: np.ndarray = self.sign * ((first + second) / 2 - control)
        return found

    @property
    def words(self) -> str:
        """Names the denominator of a share."""
        return f"mean of '{self.pair[0]}' and '{self.pair[1]}' less '{self.control}'"


def share(about: Statement, table: Evidence, a: str, b: str, noise: NoiseContrast, *, margin: float = THIRD) -> Finding:
    """Returns the finding of the difference of a pair as a share of what the noise does: within `margin` they are
    alike. A share that is unbounded shows nothing, unless every ratio within the margin is excluded.
    """
    x, y = (noise.scale.to(of) for of in _columns(table, (a, b), noise.on))
    what = f"{'log ' if noise.scale is LOG else ''}{noise.on}"
    about = replace(about, statistic=f"('{a}' less '{b}') as a share of ({noise.words}), {what}")
    labels = tuple(dict.fromkeys((a, b, *noise.pair, noise.control)))
    return ratio(about, noise.sign * (x - y), noise.effect(table), within(margin), labels=labels)


def gate(effect: np.ndarray) -> float:
    """Returns the one-sided p of noise acting in the stated direction, of its effect a seed (n,); 1 if unknown."""
    found = estimated([effect], OverSeeds)
    return 1.0 if found is None or found.too_many_lost else found.p_above(0.0)


def rising(about: Statement, groups: Sequence[np.ndarray], slopes: np.ndarray, smallest: float) -> Finding:
    """Returns the finding of a rise of a number a seed over ordered groups, (n,) each, by Page's L with seeds as
    blocks; it is refuted by a slope a seed (n,) below the smallest of interest.
    """
    about = replace(about, statistic=f"{about.statistic}; Page's L over seeds")
    values = np.stack(groups, axis=1)
    found = estimated([slopes], OverSeeds)
    if isinstance(found, OverSeeds):
        return Finding(about, Direction(1, smallest), Trend(found, page(values)))
    return Finding(about, Direction(1, smallest), None)


def _columns(table: Evidence, labels: Sequence[str], metric: str) -> list[np.ndarray]:
    """Returns a metric of settings, (n,) each; the same seed in the same place."""
    return list(table.grid(list(labels), metric).T)
