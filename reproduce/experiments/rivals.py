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
from three_factors.reproduce.engine.judge.table import EIGENVALUE, NORMALISED, Evidence, SyntheticTable
from three_factors.reproduce.engine.options import Scale
from three_factors.reproduce.experiments import arms
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, end
from three_factors.reproduce.experiments.noise_grid import BATCH_NORM_MLP

PLAIN, GHOSTS = "mlp", "mlp_bn"  # the factor `network`
SUFFIX = {PLAIN: ", no batch norm", GHOSTS: ", ghost batch norm"}  # of a label
NOTHING = 0.05  # of log10 y per decade of eta/S: noise does not act
RIVALS = {  # who has which g
    "eta/S (a stochastic differential equation, implicit regularisation)": (0.71, 1.41),
    "eta/√S (linear stability)": (0.35, 0.71),
    "eta alone (edge of stability)": (-0.35, 0.35),
}
VALUES = {"η/S": 1.0, "η/√S": 0.5, "η": 0.0}  # lines in the picture


@dataclass(frozen=True)
class Outcome:
    """What eta and S are to decide.

    Attributes:
        name: in ids.
        words: for people.
        metrics: network -> its column; with batch norm H goes as 1/|θ|², which is taken out.
    """

    name: str
    words: str
    metrics: Mapping[str, str]


OUTCOMES = (
    Outcome("norm", "norm of the Hessian", {PLAIN: END_NORM, GHOSTS: end(NORMALISED)}),
    Outcome("eigenvalue", "largest eigenvalue", {PLAIN: end(EIGENVALUE), GHOSTS: end(EIGENVALUE)}),
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
        return found

    def imagined(self, scale: Scale, seeds: int, random: np.random.Generator) -> SyntheticTable:
        """Draws a world in which only eta/S counts: a norm and an eigenvalue as its root, a loss as its square."""
        s = self.scales[scale]
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
        return SyntheticTable(finals, factors=factors)


GRID = Rivals()


@dataclass(frozen=True)
class Found:
    """What one outcome says in one network, a number a seed: g, and the slope of log10 y per decade of eta/S."""

    g: np.ndarray
    slope: np.ndarray

    @property
    def acts(self) -> str:
        """Says why g means nothing: noise is not shown to act, or not to; "" where it acts."""
        slopes = estimates.estimated([self.slope], estimates.OverSeeds)
        if slopes is None or slopes.p_outside(-NOTHING, NOTHING) <= 0.025:
            return ""
        if slopes.p_inside(-NOTHING, NOTHING) <= 0.025:
            return "time alone: at equal t_eta eta/S changes nothing"
        return "eta/S is not shown to act at equal t_eta, and so g is no number"


def found(table: Evidence, network: str, outcome: Outcome) -> Found:
    """Returns g and the slope of an outcome over a network's cells."""
    labels = table.select(network=network)
    if not labels:
        return Found(np.full(2, np.nan), np.full(2, np.nan))
    eta, size = (table.column(labels, factor).astype(float) for factor in ("eta", "S"))
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log10(table.grid(labels, outcome.metrics[network]))
    return Found(statistics.index(np.log(eta), np.log(size), y), statistics.slopes(np.log10(eta / size), y))


def judged(table: Evidence, network: str, outcome: Outcome, name: str) -> list[claims.Finding]:
    """States that only eta/S counts, and estimates what noise does; names the rivals whose g are in the interval."""
    of = found(table, network, outcome)
    about = claims.Statement(
        f"{network}.{outcome.name}",
        f"only eta/S decides: g = 1; {outcome.words}, {name}",
        "g of log y = s(log eta - g log S), s cubic, at equal t_eta, least squares a seed",
        note=_rivals(of.g) if table.measured else "",
    )
    whole = seedwise.over_seeds(about, of.g, seedwise.Range(*next(iter(RIVALS.values()))))
    slope = claims.Statement(
        f"{network}.{outcome.name}.acts",
        f"eta/S acts on the {outcome.words} at equal t_eta, {name}",
        "slope of log10 y per decade of eta/S over cells, a seed",
    )
    return [
        whole.without(of.acts) if of.acts else whole,
        seedwise.over_seeds(slope, of.slope, seedwise.within(NOTHING)),
    ]


def _rivals(g: np.ndarray) -> str:
    of = estimates.estimated([g], estimates.OverSeeds)
    interval = None if of is None else of.interval(0.95)
    if interval is None:
        return ""
    low, high = interval
    inside = [name for name, (a, b) in RIVALS.items() if a <= low and high <= b]
    touched = [name for name, (a, b) in RIVALS.items() if low <= b and a <= high]
    if inside:
        return f"within {inside[0]}"
    return f"reaches {', '.join(touched)}" if touched else "no rival has it"


def interval(table: Any, network: str, outcome: Outcome) -> tuple[float, float, float] | None:
    """Returns g and its 95 % interval, for the picture; None where there is none."""
    of = estimates.estimated([found(table, network, outcome).g], estimates.OverSeeds)
    if of is None or of.value is None:
        return None
    bounds = of.interval(0.95)
    return None if bounds is None else (of.value, *bounds)
