"""The simulated worlds in which `editions` has both editions of the rules judge: effects with the spreads of seeds.

A world draws, of an effect (0, 1 or 2 times the smallest of interest), seeds and the settings' factors, for every label
columns of end values (seeds,) and of curves (seeds, points).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Columns = dict[str, dict[str, np.ndarray]]
Draw = Callable[[float, int, np.random.Generator, dict[str, Any]], tuple[Columns, Columns]]


def grid(metric: str, slope: float, spread: float, log: bool) -> Draw:
    """Cells whose metric has so large a slope per decade of eta/S, times the effect."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        found: Columns = {}
        of_seed = random.normal(0, spread / 2, seeds)
        for label, of in factors.items():
            n = of.get("n", of.get("eta", 1.0) / of.get("S", 1.0)) / (1 - of.get("momentum", 0.0) if log else 1)
            values = effect * slope * np.log10(n) + of_seed + random.normal(0, spread, seeds)
            found[label] = {metric: 10**values if log else 0.85 + values, "train_subset/loss": np.full(seeds, 0.01)}
        return found, {}

    return draw


def pair(labels: tuple[str, str]) -> Draw:
    """Figure 4: ends and curves of a pair, whose members differ by so many thirds of what noise does."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        four = ("cyclic S", "cyclic eta", "constant, small S", "constant, large S")
        # The pair lies about the others, so that the noise's effect stays what it is.
        shares: dict[str, float | None] = dict.fromkeys(four, 0.0)
        shares |= {labels[0]: effect / 6, labels[1]: -effect / 6, "noise control": None}
        of_seed, found, curves = random.normal(0, 1, seeds), dict[str, dict[str, np.ndarray]](), {}
        for label, share in shares.items():
            level = -1.0 if share is None else share
            spread = 0.8 * of_seed + 0.6 * random.normal(0, 1, seeds)
            found[label] = {"test/accuracy": 0.7 + 0.06 * level + 0.008 * spread}
            logs = 0.6 * level + 0.1 * spread[:, None] + random.normal(0, 0.03, (seeds, 24))
            curves[label] = {"train_subset/loss": np.exp(logs - 2), "train/loss": np.exp(logs - 2)}
        return found, curves

    return draw


def ends_of(metric: str, labels: tuple[str, ...], step: float, spread: float, log: bool) -> Draw:
    """Ends of the first settings beyond the last one's by the effect."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        *above, _ = labels
        found: Columns = {}
        for label in labels:
            values = effect * step * (label in above) + random.normal(0, spread, seeds)
            found[label] = {metric: np.exp(values) if log else 0.8 + values}
        return found, {}

    return draw


def line(effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]) -> tuple[Columns, Columns]:
    """Figure 10's line: every kind of width at theta 2 over that at theta 1."""
    columns = {"loss θ1": np.full(seeds, 0.1), "loss θ2": np.full(seeds, 0.1)}
    ratio = np.exp(effect * np.log(1.2) + random.normal(0, 0.15, seeds))
    for kind in ("width", "relative width", "tangential width", "random width"):
        for rise in (0.1, 0.5, 1):
            for end, values in (("θ1", np.ones(seeds)), ("θ2", ratio)):
                columns |= {f"{kind} {end} {rise:g}": values, f"{kind} at least {end} {rise:g}": values}
    return {"large batch to baseline": columns}, {}


def triplet(equal: dict[str, float], quiet: str, deep: bool) -> Draw:
    """Lines of a triplet: g falls by a factor of .71 an effect; a factor e of eta/S makes a minimum e^.5 wider."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        g, power, found = 0.71**effect, 0.5, dict[str, dict[str, np.ndarray]]()
        for label, log in {**equal, quiet: None}.items():
            # Less log width (or depth) at theta 2: of what noise does, or of what exchanging eta and S does.
            change = g * power * np.log(4) if log is None else (1 - g) * power * log
            ratio = np.exp(-change + random.normal(0, 0.1, seeds))
            columns = {"loss θ1": np.full(seeds, 0.1), "loss θ2": 0.1 * ratio if deep else np.full(seeds, 0.1)}
            for kind in ("width", "relative width", "tangential width", "random width"):
                for rise in (0.1, 0.5, 1):
                    for end, values in (("θ1", np.ones(seeds)), ("θ2", np.ones(seeds) if deep else ratio)):
                        columns |= {f"{kind} {end} {rise:g}": values, f"{kind} at least {end} {rise:g}": values}
            found[label] = columns
        return found, {}

    return draw


def breaks(star: Callable[[float, dict[str, Any]], float]) -> Draw:
    """Figures 6 and 7: accuracy falls beyond a b that the effect moves; a cell's sd is half a point."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        found, moved = dict[str, dict[str, np.ndarray]](), dict[str, np.ndarray]()
        for label, of in factors.items():
            jitter = moved.setdefault(of["panel"], random.normal(0, 0.1, seeds))
            begins = star(effect, of) / 2**0.25 * np.exp(jitter)  # two points are lost a quarter of an octave beyond
            lost = 0.08 * np.maximum(0, np.log2(of["b"] / begins))
            accuracy = 0.8 - lost + random.normal(0, 0.005, seeds)
            found[label] = {"val/accuracy": accuracy, "highest val/accuracy": accuracy}
        return found, {}

    return draw


def half_noise(effect: float, of: dict[str, Any]) -> float:
    """Returns b*, twice as large at half the noise where there is no effect."""
    return 3 * (2 * 1.35**effect if of["panel"] == "d" else 1)


def momenta(effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]) -> tuple[Columns, Columns]:
    """Figure 15: momentum shifts the cloud by 1 - .2 effect of what eta/(1 - beta) says."""
    found, of_seed = dict[str, dict[str, np.ndarray]](), random.normal(0, 0.05, seeds)
    for label, of in factors.items():
        logs = -0.3 * (np.log10(of["n"]) - (1 - 0.2 * effect) * np.log10(1 - of["momentum"]))
        values = 10 ** (logs + of_seed + random.normal(0, 0.05, seeds))
        found[label] = {"best hessian/frobenius": values, "train_subset/loss": np.full(seeds, 0.01)}
    return found, {}


def matched(effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]) -> tuple[Columns, Columns]:
    """Figure 16: at equal loss the norm of a cyclic run is a tenth lower than both constants', an effect."""
    curves: Columns = {}
    for label in ("discrete S", "discrete eta", "triangle eta", "constant, low eta", "constant, high eta"):
        loss = np.linspace(0, -2, 6) + np.zeros((seeds, 1))
        lower = effect * np.log(0.9) * (not label.startswith("constant"))
        noise = random.normal(0, 0.1, (seeds, 1)) + random.normal(0, 0.1, (seeds, 6))
        curves[label] = {"train_subset/loss": np.exp(loss), "hessian/frobenius": np.exp(3 + 0.5 * loss + lower + noise)}
    return {}, curves


def alike(effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]) -> tuple[Columns, Columns]:
    """Figure 16: discrete S ends wider than discrete eta by so many quarters; five times the noise halves the norm."""
    logs = {"discrete S": effect * np.log(1.25), "discrete eta": 0.0}
    logs |= {"constant, low eta": 0.0, "constant, high eta": -np.log(2)}
    return {label: {"hessian/frobenius": np.exp(of + random.normal(0, 0.1, seeds))} for label, of in logs.items()}, {}


def discrete(share: bool) -> Draw:
    """Table 1: discrete S beyond discrete eta by thirds of what a cycle wins, or both below the triangle by .3 pp."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        apart = 0.06 * effect / 6 if share else 0.0
        ends = {"discrete S": apart, "discrete eta": -apart, "triangle eta": 0.0 if share else 0.003 * effect}
        ends |= {"constant eta": -0.06, "constant eta, quenched": -0.03}
        return {label: {"test/accuracy": 0.8 + of + random.normal(0, 0.006, seeds)} for label, of in ends.items()}, {}

    return draw


def dial(way: str) -> Draw:
    """noise_only: the loss of a way of giving noise back differs from SGD's by thirds of what 4 S does."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        of_seed = random.normal(0, 0.1, seeds)
        found = {}
        for label, level in (("S", 0.0), ("4 S", -1.0), (way, -effect / 3)):
            logs = 0.6 * level + of_seed + random.normal(0, 0.06, seeds)
            found[label] = {"train_subset/loss": np.exp(logs - 2)}
        return found, {}

    return draw


def powers(above: str) -> Draw:
    """noise_only: the exponent of S over that of C, or of eta, is 1.41 to the power of the effect."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        p = {"eta": 0.5, "S": 0.5, "C": 0.5} | {above: 0.5 * 1.41**-effect}
        found = {}
        for label, of in factors.items():
            if of.get("part") == "exponents":
                logs = -p["eta"] * np.log(of["eta"]) + p["S"] * np.log(of["S"]) - p["C"] * np.log(of["C"])
                found[label] = {"end hessian/frobenius": np.exp(logs + random.normal(0, 0.1, seeds))}
        return found, {}

    return draw
