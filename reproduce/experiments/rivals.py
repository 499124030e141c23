"""Figure 1's grid at equal t_eta, without batch norm and with it over ghosts: the runs of rivals.

Only there can g be judged, of y = s(log eta - g log S): at equal epochs t_eta follows eta/S, so that whatever follows
training time alone has g = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine import claims, estimates, seedwise, statistics
from three_factors.reproduce.engine.experiment import Experiment, Setting
from three_factors.reproduce.engine.judge.looks import LEVELS
from three_factors.reproduce.engine.judge.table import EIGENVALUE, NORMALISED, STABILITY, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import arms, edge
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, end
from three_factors.reproduce.experiments.mlp_grids import BATCH_NORM_MLP
from three_factors.reproduce.experiments.noise_grid import RATIO

PLAIN, GHOSTS = "mlp", "mlp_bn"  # the factor `network`
SUFFIX = {PLAIN: ", no batch norm", GHOSTS: ", ghost batch norm"}  # of a label
NOTHING = 0.05  # of log10 y per decade of eta/S: noise does not act
TIME_ALONE = "time alone: at equal t_eta eta/S changes nothing"
NOT_SHOWN = "eta/S is not shown to act at equal t_eta, and so g is no number"
NAMED = 0.95  # confidence at which a rival is named beside g, whatever the look's
THEORY, ROOT, ALONE = (
    "eta/S (a stochastic differential equation, implicit regularisation)",
    "eta/√S (linear stability)",
    "eta alone (edge of stability)",
)
RIVALS = {THEORY: (RATIO.low, RATIO.high), ROOT: (0.35, 0.71), ALONE: (-0.35, 0.35)}  # who has which g
STABLE = 0.1  # of a slope of log(eta |H|/√S), which linear stability keeps constant
AT_THE_EDGE = (1.5, 2.5)  # of eta·lambda_max, which the edge of stability keeps at 2
STATISTIC = "g of log y = s(log eta - g log S), s cubic, at equal t_eta, least squares a seed"
VALUES = {"η/S": 1.0, "η/√S": 0.5, "η": 0.0}  # lines in the picture


@dataclass(frozen=True)
class Outcome:
    """Names what eta and S are to decide.

    Attributes:
        name: in ids.
        words: for people.
        metrics: network -> its column; with batch norm H goes as 1/|θ|², which is taken out.
    """

    name: str
    words: str
    metrics: Mapping[str, str]

    def of(self, network: str) -> str:
        """Returns what it is in a network, in words."""
        return NORMALISED_WORDS if self.metrics[network] == end(NORMALISED) else self.words


NORMALISED_WORDS = "scale-normalised sharpness"  # with batch norm in place of the norm
SHARPEST = Outcome("eigenvalue", "largest eigenvalue", dict.fromkeys((PLAIN, GHOSTS, edge.EDGE), end(EIGENVALUE)))
OUTCOMES = (
    Outcome("norm", "norm of the Hessian", {PLAIN: END_NORM, GHOSTS: end(NORMALISED)}),
    SHARPEST,
    Outcome("loss", "training loss", {PLAIN: LOSS, GHOSTS: LOSS}),
)


class Rivals(Experiment):
    """Every cell of Figure 1 that reaches the middle t_eta in at most 5 times its epochs, in both networks."""

    scales = BATCH_NORM_MLP.scales
    reductions = BATCH_NORM_MLP.reductions

    def runs(self, scale: Scale, source: Prepared) -> dict[str, Setting]:
        equal = arms.at_equal_time(BATCH_NORM_MLP.runs(scale, source))
        found = {}
        for network, change in ((PLAIN, arms.without_batch_norm), (GHOSTS, arms.with_ghosts)):
            for label, setting in change(equal).items():
                found[label + SUFFIX[network]] = replace(setting, factors={**setting.factors, "network": network})
        return found | edge.settings(scale, source, self.scales[scale])

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws a world in which only eta/S counts: a norm and an eigenvalue as its root, a loss as its square."""
        s, at_the_edge = self.scales[scale], edge.imagined(seeds, random)
        cells = {f"eta {lr:g}, S {size}": {"eta": lr, "S": size} for lr in s.lrs for size in s.batch_sizes}
        middle = np.sqrt(np.prod([f([of["eta"] / of["S"] for of in cells.values()]) for f in (min, max)]))
        finals, factors = {}, {}
        for label, of in cells.items():
            n = of["eta"] / of["S"]
            if not 1 / arms.CAP <= middle / n <= arms.CAP:
                continue
            for network, suffix in SUFFIX.items():
                factors[label + suffix] = {"network": network, **of}
                finals[label + suffix] = {
                    outcome.metrics[network]: np.exp(power * np.log(n) + random.normal(0, s.seed_sd / 2, seeds))
                    for outcome, power in zip(OUTCOMES, (-0.5, -0.5, 1.0))
                }
        return SyntheticTable(finals | at_the_edge, factors=factors | edge.cells())


GRID = Rivals()


@dataclass(frozen=True)
class Found:
    """Tells what one outcome says in one network, a number a seed: g, and the slope of log10 y per decade of eta/S."""

    g: np.ndarray
    slope: np.ndarray

    @property
    def acts(self) -> tuple[float, str]:
        """Returns the one-sided p of noise acting, and why g means nothing where that is not shown."""
        slopes = estimates.estimated([self.slope], estimates.OverSeeds)
        if slopes is None:
            return 0.0, ""
        alone = slopes.p_inside(-NOTHING, NOTHING) <= LEVELS[-1]
        return slopes.p_outside(-NOTHING, NOTHING), TIME_ALONE if alone else NOT_SHOWN


def found(table: Evidence, network: str, outcome: Outcome) -> Found:
    """Returns g and the slope of an outcome over a network's cells."""
    labels, eta, size = cells(table, network)
    if not labels:
        return Found(np.full(2, np.nan), np.full(2, np.nan))
    y = _log(table, labels, outcome.metrics[network]) / np.log(10)
    return Found(statistics.index(np.log(eta), np.log(size), y), statistics.slopes(np.log10(eta / size), y))


def cells(table: Evidence, network: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns the labels of a network's cells, and their eta and S."""
    labels = table.select(network=network)
    eta, size = (table.column(labels, factor).astype(float) for factor in ("eta", "S"))
    return labels, eta, size


def _log(table: Evidence, labels: list[str], metric: str) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(table.grid(labels, metric))


def judged(table: Evidence, network: str, outcome: Outcome, name: str) -> list[claims.Finding]:
    """States that only eta/S counts, and estimates what noise does; names the rivals whose g are in the interval."""
    of, labels = found(table, network, outcome), table.select(network=network)
    words = outcome.of(network)
    about = claims.Statement(
        f"{network}.{outcome.name}",
        f"only eta/S decides: g = 1; {words}, {name}",
        STATISTIC,
        note=_rivals(of.g, levels(table, network, name)) if table.measured else "",
        quantity=claims.G,
    )
    whole = seedwise.over_seeds(about, of.g, seedwise.Range(*RIVALS[THEORY]), labels=labels)
    slope = claims.Statement(
        f"{network}.{outcome.name}.acts",
        f"time alone: eta/S changes nothing in the {words} at equal t_eta, {name}",
        "slope of log10 y per decade of eta/S over cells, a seed",
    )
    return [
        replace(whole, needs=of.acts),
        seedwise.over_seeds(slope, of.slope, seedwise.within(NOTHING), labels=labels),
    ]


def calibrated(table: Evidence) -> list[claims.Finding]:
    """States that the ruler finds g = 0 where it is known, and that those runs are at the edge."""
    about = claims.Statement(
        f"{edge.EDGE}.eigenvalue",
        "calibration: g = 0 on the square loss with N, N/2 and N/4 examples a step; largest eigenvalue",
        STATISTIC,
        paper="0 (known)",
        quantity=claims.G,
    )
    g, labels = found(table, edge.EDGE, SHARPEST).g, table.select(network=edge.EDGE)
    return [
        seedwise.over_seeds(about, g, seedwise.Range(*RIVALS[ALONE]), labels=labels),
        levels(table, edge.EDGE, "the calibration's runs")[ALONE],
    ]


def levels(table: Evidence, network: str, name: str) -> dict[str, claims.Finding]:
    """Returns rival -> the finding that runs end at the level it predicts; a power of S alone names no rival.

    Linear stability (Wu, Wang and Su 2022) has eta |H|_F/√S constant, the edge of stability eta·lambda_max = 2. The
    latter is of eval mode: with batch norm it says little of the operator of training.
    """
    labels, eta, size = cells(table, network)
    stable = claims.Statement(
        f"{network}.level.stability",
        f"linear stability: eta |H|/√S is the same at every eta and S, {name}",
        "slopes of log(eta |H|_F/√S) on log eta and on log S over cells, a seed; the larger",
    )
    at_the_edge = claims.Statement(
        f"{network}.level.edge",
        f"edge of stability: eta·lambda_max is about 2, {name}",
        "geometric mean of eta·lambda_max over cells, at the end, in eval mode, a seed",
        note=_range_of(table, labels) if table.measured else "",
    )
    rule, values = seedwise.within(STABLE), np.full(2, np.nan)
    slopes = np.full((2, 2), np.nan)
    if labels:
        values = np.exp(statistics.nanmean(list(_log(table, labels, end(STABILITY)).T)))
        product = _log(table, labels, END_NORM) + np.log(eta / np.sqrt(size))
        slopes = statistics.coefficients(product, np.log(eta), np.log(size))
    both = [estimates.estimated([of], estimates.OverSeeds) for of in slopes.T]
    parts = [of for of in both if of is not None]
    either = estimates.AllOf(parts, estimates.furthest) if len(parts) == len(both) else None
    return {
        ROOT: claims.Finding(stable, rule, either, tuple(labels)),
        ALONE: seedwise.over_seeds(at_the_edge, values, seedwise.Range(*AT_THE_EDGE), seedwise.LOG, labels=labels),
    }


def _range_of(table: Evidence, labels: list[str]) -> str:
    """Says from what to what eta·lambda_max goes over cells: a mean of 2 alone is no edge."""
    cells = np.exp(statistics.nanmean(_log(table, labels, end(STABILITY)))) if labels else np.full(1, np.nan)
    known = cells[np.isfinite(cells)]
    return f"cells from {known.min():.2g} to {known.max():.2g}" if len(known) else ""


def _rivals(g: np.ndarray, at: Mapping[str, claims.Finding]) -> str:
    """Says whose g the 95 % interval has; a rival with a level is named only where runs end at it."""
    of = estimates.estimated([g], estimates.OverSeeds)
    bounds = None if of is None else of.interval(NAMED)
    if bounds is None:
        return ""
    low, high = bounds
    inside = [name for name, (a, b) in RIVALS.items() if a <= low and high <= b]
    touched = [name for name, (a, b) in RIVALS.items() if low <= b and a <= high]
    there = [name for name in touched if name not in at or at[name].p_support <= (1 - NAMED) / 2]
    elsewhere = [name for name in touched if name not in there]
    if inside and there:
        return f"within {there[0]}"
    notes = [f"could be {', '.join(there)}"] if there else []
    notes += [f"has a g of {', '.join(elsewhere)}, but is not at its level"] if elsewhere else []
    return "; ".join(notes) or "no rival has it"


def interval(table: Any, network: str, outcome: Outcome) -> tuple[float, float, float] | None:
    """Returns g and its 95 % interval, for the picture; None where there is none."""
    of = estimates.estimated([found(table, network, outcome).g], estimates.OverSeeds)
    if of is None or of.value is None:
        return None
    bounds = of.interval(NAMED)
    return None if bounds is None else (of.value, *bounds)
