"""Noise changed alone. What the paper's experiments cannot part: eta, S, steps and t_eta stay, only the noise changes.

Fig. 1's MLP on FashionMNIST without and with batch norm, and Fig. 4's VGG-11 on CIFAR-10, with batches of S, with
batches of 4 S, and with batches of 4 S to which the missing noise is given back: by weighting the gradients of two half
batches, g = (g1 + g2)/2 + √3 (g1 - g2)/2, which has the same mean and exactly 4 times the covariance C; by Gaussian
noise of C's shape, or isotropic, of equal trace or of equal tr(HC); or in part, along the Hessian's top ten
eigenvectors or off them. Examples are drawn with replacement, since a shuffled epoch's noise cancels in part. Claims,
of the MLP without batch norm: the noise given back, a run ends as SGD at S does, in half batches and isotropic, as
Theorem 1 takes it to be; and, each of eta, S and C varied by itself to the same t_eta, S acts only through C/S, and
only eta/S counts. The arm `quench` says it of minima, not of hot iterates.

    python reproduce/noise_only.py
    python reproduce/noise_only.py --data cifar10 --data-dir data
    python reproduce/noise_only.py --scale paper --wandb online
"""

from __future__ import annotations

if __package__ in (None, ""):
    import _checkout  # noqa: F401

from dataclasses import dataclass
from typing import Any

import numpy as np

from three_factors.reproduce.engine import Evidence, Figure, Table, claims, main, plots, seedwise
from three_factors.reproduce.experiments import arms, loss_levels
from three_factors.reproduce.experiments.metrics import END_NORM, LOSS, TEST
from three_factors.reproduce.experiments.noise_dial import (
    BATCH_NORM,
    CURVED,
    EXPONENTS,
    HALVES,
    ISOTROPIC,
    NOISE_DIAL,
    OF_ITS_SHAPE,
    PLAIN,
    QUIET,
    RATIO,
    REST,
    SGD,
    SHARPNESS,
    SUFFIX,
    TOP,
    VGG,
    exponents,
)

NAMES = {
    SGD: "S",
    QUIET: "4 S",
    HALVES: "4 S, half batches",
    OF_ITS_SHAPE: "4 S, Gaussian, C's shape",
    ISOTROPIC: "4 S, Gaussian, isotropic",
    CURVED: "4 S, isotropic, equal tr(HC)",
    TOP: "4 S, along 10 eigenvectors",
    REST: "4 S, off 10 eigenvectors",
}
TICKS = ["S", "4 S", "halves", "C's\nshape", "iso-\ntropic", "equal\ntr(HC)", "along", "off"]
IDS = {
    HALVES: "halves",
    OF_ITS_SHAPE: "its_shape",
    ISOTROPIC: "isotropic",
    CURVED: "isotropic_hc",
    TOP: "top",
    REST: "rest",
}
NETWORKS = {PLAIN: "MLP", BATCH_NORM: "MLP with batch norm", VGG: "VGG-11"}
PRIMARY = ("halves.loss", "isotropic.loss", "exponents.s_over_c", "exponents.s_over_eta")  # without batch norm
EXPONENT_PANELS = ("η/S", "η C/S", "η")
EQUAL = (0.71, 1.41)  # a ratio of two exponents


class Dial:
    """Makes what is stated about one network's runs; its name stands before the ids."""

    def __init__(self, table: Evidence, network: str) -> None:
        self.table, self.network, self.suffix = table, network, SUFFIX[network]
        self.before = "" if network == VGG else f"{network}."
        self.words = "" if network == VGG else f"{NETWORKS[network]}: "

    def say(self, name: str, text: str, statistic: str = "", *, control_of: str = "", **more: Any) -> claims.Statement:
        about = self.before + control_of if control_of else ""
        return claims.Statement(self.before + name, self.words + text, statistic, control_of=about, **more)

    def of(self, way: str) -> str:
        return way + self.suffix

    def effect(self, outcome: Outcome) -> seedwise.NoiseContrast:
        """Returns what four times less noise does."""
        return seedwise.NoiseContrast(
            (self.of(SGD), self.of(SGD)), self.of(QUIET), outcome.metric, outcome.sign, outcome.scale
        )

    def share(self, way: str, outcome: Outcome, *, control_of: str = "") -> claims.Finding:
        """States that with the noise given back in one way a run ends as SGD does at S, in one outcome."""
        text = f"ends as SGD at S, in {outcome.words}: {way}"
        about = self.say(f"{IDS[way]}.{outcome.name}", text, control_of=control_of)
        return seedwise.share(about, self.table, self.of(way), self.of(SGD), self.effect(outcome))

    def acts(self, outcome: Outcome) -> claims.Finding:
        """States that noise acts on an outcome at all: SGD at S less that at 4 S."""
        effect = self.effect(outcome)
        about = self.say(
            f"quiet.{outcome.name}",
            f"a quarter of the noise shows in {outcome.words}",
            f"{outcome.shown}, {' less '.join(repr(way) for way in (SGD, QUIET)[:: outcome.sign])}, a seed",
        )
        share = outcome.scale is seedwise.PLAIN
        rule = seedwise.Direction(1, smallest=0.005 if share else 0.1)
        return seedwise.over_seeds(about, effect.effect(self.table), rule, unit="share" if share else "")

    def at_equal_loss(self) -> claims.Finding:
        over, note = loss_levels.ratio(self.table, self.of(QUIET), self.of(SGD))
        about = self.say(
            "quiet.equal_loss",
            "a quarter of the noise has a larger Hessian norm at equal training loss",
            f"norm of '{QUIET}' over that of '{SGD}', geometric mean over levels, a seed",
            note=note,
            control_of="quiet.norm",
        )
        return seedwise.over_seeds(about, over, seedwise.Direction(1, smallest=0.1, null=1.0), seedwise.LOG)

    def projections(self, outcome: Outcome) -> claims.Finding:
        """Estimates how much of the noise's effect the two projections have together: they add up to C."""
        about = self.say(
            f"projections.{outcome.name}",
            f"noise along the Hessian's top eigenvectors and off them add up, in {outcome.words}",
            f"sum of both shares of what noise does, {outcome.shown}",
        )
        effect = self.effect(outcome)
        values = [outcome.scale.to(self.table.grid([self.of(way)], outcome.metric)[:, 0]) for way in (TOP, REST, QUIET)]
        above = effect.sign * (values[0] + values[1] - 2 * values[2])
        return seedwise.ratio(about, above, effect.effect(self.table), seedwise.Range(2 / 3, 4 / 3))

    def all(self) -> list[claims.Finding]:
        found = []
        for outcome in OUTCOMES:
            found.append(self.acts(outcome))
            found += [self.share(way, outcome) for way in IDS]
            found.append(self.projections(outcome))
        return [*found, self.at_equal_loss()]


@dataclass(frozen=True)
class Outcome:
    """Names what the noise is to show in.

    Attributes:
        name: in ids.
        metric: its column.
        words: for people.
        sign: of what noise does to it: more noise, a higher loss where runs end, a smaller norm, a higher accuracy.
        scale: on which it is compared.
    """

    name: str
    metric: str
    words: str
    sign: int
    scale: seedwise.Scale

    @property
    def shown(self) -> str:
        """Returns the metric on its scale."""
        return f"{'log ' if self.scale is seedwise.LOG else ''}{self.metric}"


OUTCOMES = (
    Outcome("loss", LOSS, "training loss", 1, seedwise.LOG),
    Outcome("norm", END_NORM, "the Hessian norm", -1, seedwise.LOG),
    Outcome("accuracy", TEST, "test accuracy", 1, seedwise.PLAIN),
)


def equal_exponents(table: Evidence, network: str) -> list[claims.Finding]:
    """States that eta, 1/S and C have the same exponent, in the sharpness where runs end."""
    say, found = Dial(table, network).say, []
    fits = exponents(table, network, SHARPNESS[network])
    words = "normalised sharpness" if network == BATCH_NORM else "norm"
    for name, text, above, below in (
        ("s_over_c", "S acts only through C/S", 1, 2),
        ("s_over_eta", "only eta/S counts", 1, 0),
        ("c_over_eta", "the covariance counts as eta does", 2, 0),
    ):
        p = ("eta", "S", "C")
        about = say(
            f"exponents.{name}",
            f"{text}: {words} at the end",
            f"p_{p[above]}/p_{p[below]} of log y = c - p_eta log eta + p_S log S - p_C log C, least squares a seed",
            quantity=claims.G if name == "s_over_eta" else "",
        )
        rule, labels = seedwise.Range(*EQUAL), table.select(network=network, part=EXPONENTS)
        found.append(seedwise.ratio(about, fits[:, above], fits[:, below], rule, labels=labels))
    return found


def networks(table: Evidence) -> list[str]:
    return [name for name in NETWORKS if table.select(network=name)]


def check(table: Evidence) -> list[claims.Finding]:
    found = []
    for network in networks(table):
        found += Dial(table, network).all()
        if table.select(network=network, part=EXPONENTS):
            found += equal_exponents(table, network)
    return found


def colours() -> dict[str, str]:
    shades = (plots.RED, plots.BLUE, plots.ORANGE, plots.PURPLE, plots.GREEN, plots.GREY, "#8c564b", "#17becf")
    return dict(zip(NAMES, shades))


def draw_ends(table: Table, panel: Any, metric: str, network: str) -> None:
    """Draws a metric where the runs end, a point a way of making noise."""
    for place, (way, name) in enumerate(NAMES.items()):
        label = way + SUFFIX[network]
        values = table.grid([label], metric) * (100 if metric == TEST else 1)
        plots.points(panel, [place], values, plots.all_trained(table, [label]), colours()[way], name)
    panel.set_xticks(range(len(NAMES)), TICKS, fontsize=7)
    if metric != TEST:
        plots.log_scale(panel.yaxis)


def draw_beside(table: Table, axes: Any) -> None:
    """Draws what the norm alone does not tell, and the three exponents."""
    there = networks(table)
    grids = [name for name in there if table.select(network=name, part=EXPONENTS)]
    shown, each = plots.beside(table, "end"), len(EXPONENT_PANELS)
    columns = len(shown)
    panels = axes(len(there) + -(-each * len(grids) // columns), columns)
    for row, network in enumerate(there):
        for panel, (metric, words) in zip(panels[row * columns :], shown.items()):
            draw_ends(table, panel, metric, network)
            panel.set(ylabel=f"{words}, at the end", title=NETWORKS[network])
            if plots.STABILITY in metric:
                plots.edge_of_stability(panel)
    others = panels[len(there) * columns :]
    for place, network in enumerate(grids):
        draw_exponents(table, others[place * each : (place + 1) * each], network)
    for panel in others[len(grids) * each :]:
        panel.set_axis_off()


def draw_exponents(table: Table, panels: Any, network: str) -> None:
    """Draws the sharpness against eta/S, against eta·C/S, and against eta alone."""
    labels = table.select(network=network, part=EXPONENTS)
    eta, size, c = (table.column(labels, factor).astype(float) for factor in ("eta", "S", "C"))
    values, solid = table.grid(labels, SHARPNESS[network]), np.array(plots.all_trained(table, labels))
    for panel, (words, x) in zip(panels, zip(EXPONENT_PANELS, (eta / size, eta * c / size, eta))):
        for level, colour in plots.shades(sorted(set(c))).items():
            chosen = np.flatnonzero(c == level)
            plots.points(panel, x[chosen], values[:, chosen], solid[chosen], colour, f"C x {level:g}")
        panel.set(xlabel=words, ylabel="sharpness at the end", title=f"{NETWORKS[network]}, three exponents")
        plots.log_scale(panel.xaxis)
        plots.log_scale(panel.yaxis)
        plots.legend_below(panel, columns=3)


def draw(table: Table, axes: Any) -> None:
    there = networks(table)
    panels = axes(2 * len(there), 2)
    for row, network in enumerate(there):
        curves, accuracy, loss, norm = panels[4 * row : 4 * row + 4]
        for way, name in NAMES.items():
            style: dict[str, Any] = {"percent": True, "stretch": 1.0 if way == SGD else float(RATIO)}
            plots.band(curves, table, way + SUFFIX[network], TEST, colours()[way], legend=name, **style)
        curves.set(xlabel="epoch of the run at S, at equal steps", ylabel="test accuracy (%)", title=NETWORKS[network])
        plots.legend_below(curves, columns=2)
        for panel, metric in ((accuracy, TEST), (loss, LOSS), (norm, END_NORM)):
            draw_ends(table, panel, metric, network)
        accuracy.set(ylabel="test accuracy at the end (%)")
        loss.set(ylabel="training loss at the end")
        norm.set(ylabel="Hessian norm at the end (Frobenius)")


FIGURE = Figure(
    name="noise_only",
    title="Noise changed alone, at equal eta and equal steps",
    doc=__doc__,
    data=("fashionmnist", "cifar10"),
    substitute="digits28",
    edition=2,  # t_eta of the exponents differed by 15 %, that of quenches by 25 %
    experiment=NOISE_DIAL,
    check=check,
    primary=tuple(f"{PLAIN}.{name}" for name in PRIMARY),
    draw=draw,
    beside=draw_beside,
    arms=(*arms.TRIPLET, arms.NO_BN, *arms.FOR_ALL),
)


if __name__ == "__main__":
    main(FIGURE)
