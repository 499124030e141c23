"""P(right word) - 5 P(wrong word) of both editions of the rules, in the same simulated worlds and runs.

    python tests/editions.py OLD_CHECKOUT [--trials 200]

OLD_CHECKOUT is a checkout of the first edition (20ce594). A world has an effect of 0, 1 or 2 times the smallest of
interest, with the spreads that quick runs have between seeds, and n0 or 2 n0 seeds. Right is the word that the truth
has: where an effect is 0, that it is not there; at the edge of an equivalence no word is right. The last column has the
right words of the second edition at n0 where spreads are so small that twice the smallest effect is ten seed sds: for
an equivalence where it holds, and where it is missed by as much as it is wide. Nothing was changed after the table was
seen.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
YES, NO = "supported", "not supported"
Columns = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A claim that both editions have.

    Attributes:
        figure: its script.
        first: its id in the first edition.
        second: in the second.
        n0: seeds of the first look.
        draw: (effect, seeds, random, factors) -> label -> columns of end values, and of curves (seeds, points).
        right: the word at effects of 0, 1 and 2; "" where there is none.
    """

    figure: str
    first: str
    second: str
    n0: int
    draw: Callable[[float, int, np.random.Generator, dict[str, Any]], tuple[Columns, Columns]]
    right: tuple[str, str, str]


def grid(metric: str, slope: float, spread: float, log: bool) -> Any:
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


def pair(labels: tuple[str, str]) -> Any:
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


def ends_of(metric: str, labels: tuple[str, ...], step: float, spread: float, log: bool) -> Any:
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


def triplet(equal: dict[str, float], quiet: str, deep: bool) -> Any:
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


def breaks(star: Callable[[float, dict[str, Any]], float]) -> Any:
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


def discrete(share: bool) -> Any:
    """Table 1: discrete S beyond discrete eta by thirds of what a cycle wins, or both below the triangle by .3 pp."""

    def draw(
        effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]
    ) -> tuple[Columns, Columns]:
        apart = 0.06 * effect / 6 if share else 0.0
        ends = {"discrete S": apart, "discrete eta": -apart, "triangle eta": 0.0 if share else 0.003 * effect}
        ends |= {"constant eta": -0.06, "constant eta, quenched": -0.03}
        return {label: {"test/accuracy": 0.8 + of + random.normal(0, 0.006, seeds)} for label, of in ends.items()}, {}

    return draw


def dial(way: str) -> Any:
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


def powers(above: str) -> Any:
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


LESS_NOISE = "equal eta/S to a quarter of the noise"
SCHEDULES = ("discrete S", "discrete eta")
SCALED = {"b = 1 to b = 4": -float(np.log(4)), "b = 1 to b = 0.25": float(np.log(4))}, "b = 1 to a quarter of the noise"
EXACT = dict.fromkeys(("equal eta/S", "large batch to small eta"), float(np.log(8))), LESS_NOISE
IMAGES = {"a": 384, "b": 768, "c": 1_536, "d": 1_536}
RISES, ALIKE = (NO, YES, YES), (YES, "", NO)  # a direction, from no effect; an equivalence, whose margin is at 1
CASES = [
    Case("fig1", "norm.all", "norm", 4, grid("end hessian/frobenius", -0.05, 0.09, log=True), RISES),
    Case("fig1", "accuracy.all", "accuracy", 4, grid("val/accuracy", 0.005, 0.01, log=False), RISES),
    Case("fig3", "wide.larger.random", "wide", 4, triplet(*SCALED, deep=False), ALIKE),
    Case("fig3", "deep.larger", "deep", 4, triplet(*SCALED, deep=True), ALIKE),
    Case("fig4", "cyclic.share", "cyclic.share", 4, pair(("cyclic S", "cyclic eta")), ALIKE),
    Case("fig4", "constant.share", "constant.share", 4, pair(("constant, small S", "constant, large S")), ALIKE),
    Case("fig6", "rises", "rises", 4, breaks(lambda of, f: 3 * (IMAGES[f["panel"]] / 768) ** (0.25 * of)), RISES),
    Case("fig6", "half_noise", "half_noise", 4, breaks(half_noise), ALIKE),
    Case("fig7", "factor", "factor", 4, breaks(lambda of, f: 28**0.5 * 1.323**of), ALIKE),
    Case("fig9", "good.norm.all", "norm", 4, grid("end hessian/frobenius", -0.05, 0.09, log=True), RISES),
    Case("fig9", "good.accuracy.all", "accuracy", 4, grid("val/accuracy", 0.005, 0.01, log=False), RISES),
    Case("fig10", "wider.large_batch", "wider", 4, line, RISES),
    Case("fig12", "wide.about_equal.random", "wide", 4, triplet(*EXACT, deep=False), ALIKE),
    Case("fig12", "deep.about_equal", "deep", 4, triplet(*EXACT, deep=True), ALIKE),
    Case("fig13", "cyclic.curves", "cyclic.curves", 4, pair(("cyclic S", "cyclic eta")), ALIKE),
    Case("fig13", "constant.curves", "constant.curves", 4, pair(("constant, small S", "constant, large S")), ALIKE),
    Case("fig15", "norm.25.momentum_0", "norm", 4, grid("best hessian/frobenius", -0.05, 0.05, log=True), RISES),
    Case("fig15", "one_curve.25", "effective", 4, momenta, ALIKE),
    Case("fig16", "matched_loss.discrete_s", "matched_loss", 4, matched, RISES),
    Case("fig16", "tension.alike", "tension.alike", 4, alike, ALIKE),
    Case(
        "table1",
        "higher.discrete_s",
        "higher",
        4,
        ends_of("test/accuracy", (*SCHEDULES, "triangle eta", "constant eta"), 0.003, 0.006, log=False),
        RISES,
    ),
    Case("table1", "discrete_alike", "alike", 4, discrete(share=True), ALIKE),
    Case("table1", "not_below.discrete_s", "not_below", 4, discrete(share=False), ALIKE),
    Case("noise_only", "mlp.halves.loss", "mlp.halves.loss", 4, dial("4 S, noise doubled by half batches"), ALIKE),
    Case("noise_only", "mlp.isotropic.loss", "mlp.isotropic.loss", 4, dial("4 S, isotropic Gaussian noise"), ALIKE),
    Case("noise_only", "mlp.exponents.s_over_c", "mlp.exponents.s_over_c", 4, powers("C"), ALIKE),
    Case("noise_only", "mlp.exponents.s_over_eta", "mlp.exponents.s_over_eta", 4, powers("eta"), ALIKE),
]


class Spread:
    """Draws with the spreads of seeds multiplied by a factor.

    Args:
        random: draws.
        factor: of every sd.
    """

    def __init__(self, random: np.random.Generator, factor: float) -> None:
        self.random, self.factor = random, factor

    def normal(self, mean: float, sd: float, size: Any) -> np.ndarray:
        """Returns normal values."""
        return self.random.normal(mean, sd * self.factor, size)


class Worlds:
    """One edition's judgement of the worlds of one case."""

    def __init__(self, edition: int, number: int) -> None:
        from importlib import import_module

        self.edition, self.number, self.case = edition, number, CASES[number]
        self.figure = import_module(f"three_factors.reproduce.{self.case.figure}").FIGURE
        self.name = self.case.first if edition == 1 else self.case.second

    def claim(self, effect: float, seeds: int, entropy: list[int], factor: float = 1.0) -> Any:
        """Returns the claim in one world."""
        from three_factors.reproduce.engine.judge.table import SyntheticTable

        random: Any = Spread(np.random.default_rng(entropy), factor)
        base = self.figure.experiment.imagined("quick", seeds, np.random.default_rng(entropy[-1]))
        ends, curves = self.case.draw(effect, seeds, random, base.factors)
        finals = {label: base.finals.get(label, {}) | ends.get(label, {}) for label in {**base.finals, **ends}}
        series = {label: base.series.get(label, {}) | curves.get(label, {}) for label in {**base.series, **curves}}
        check = self.figure.check(SyntheticTable(finals, series, base.factors))
        if self.edition == 1:
            from three_factors.reproduce.engine.judge import claims

            judged = claims.holm(check)  # type: ignore[attr-defined]
        else:
            from three_factors.reproduce.engine.judge.looks import look
            from three_factors.reproduce.engine.judge.verdicts import judge

            # What is only estimated beside them takes most of the time, and no part in the words.
            check = [finding for finding in check if finding.about.id in self.figure.primary]
            judged = judge(check, look(seeds, self.case.n0), self.figure.primary)
        return next(claim for claim in judged if claim.id == self.name)

    def counted(self, effect: float, times: int, trials: int, factor: float = 1.0) -> dict[str, int]:
        """Returns how often each word came."""
        counts = dict[str, int]()
        for trial in range(trials):
            entropy = [self.number, times, int(effect), trial]
            word = self.claim(effect, times * self.case.n0, entropy, factor).verdict
            counts[word] = counts.get(word, 0) + 1
        return counts

    def tenfold(self) -> float:
        """Returns the factor at which twice the smallest effect, or the way across a range, is ten seed sds."""
        seeds, entropy = 40 * self.case.n0, [self.number, 0]
        truth = [self.claim(effect, seeds, entropy, 1e-3) for effect in (0, 2)]
        log = truth[0].scale == "log"
        found = [*(claim.value for claim in truth), *self._ends(seeds, entropy)]
        low, high, *ends = np.log(found) if log else found
        sd = abs(ends[1] - ends[0]) / 2 / 1.975 * seeds**0.5
        return float(abs(high - low) / (10 * sd))

    def _ends(self, seeds: int, entropy: list[int]) -> tuple[float, float]:
        for factor in (1.0, 0.3, 0.1):  # a Fieller set may be unbounded
            claim = self.claim(0, seeds, entropy, factor)
            if claim.low is not None and claim.high is not None:
                middle, half = (claim.low + claim.high) / 2, (claim.high - claim.low) / 2 / factor
                if claim.scale == "log":
                    return claim.low ** (1 / factor), claim.high ** (1 / factor)
                return middle - half, middle + half
        raise ValueError(f"{self.name}: no interval")


def words(edition: int, trials: int) -> list[Any]:
    """Returns, for every case, [number of seeds][effect] how often each word came; and that at ten seed sds."""
    found = []
    for number in range(len(CASES)):
        worlds = Worlds(edition, number)
        rows: list[Any] = [[worlds.counted(effect, times, trials) for effect in (0, 1, 2)] for times in (1, 2)]
        if edition == 2:
            factor = worlds.tenfold()
            rows.append([worlds.counted(effect, 1, trials, factor) for effect in (0, 2)])
        found.append(rows)
        print(number, file=sys.stderr, flush=True)
    return found


def score(counts: dict[str, int], right: str) -> str:
    total = sum(counts.values())
    if not right:
        return f"{-5 * sum(counts.get(word, 0) for word in (YES, NO)) / total + 0.0:>6.2f}"
    wrong = NO if right == YES else YES
    return f"{(counts.get(right, 0) - 5 * counts.get(wrong, 0)) / total:>6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--edition", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.edition:
        checkout = options.old if options.edition == 1 else ROOT
        sys.path[:0] = [str(checkout / "reproduce" / "_name"), str(checkout)]
        print(json.dumps(words(options.edition, options.trials)))
        return
    answers = []
    for edition in (1, 2):
        command = [
            sys.executable,
            __file__,
            str(options.old),
            "--trials",
            str(options.trials),
            "--edition",
            str(edition),
        ]
        answers.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print("| claim | seeds | first edition: effect 0, 1, 2 | second edition: 0, 1, 2 | right at ten seed sds |")
    print("|---|---|---|---|---|")
    for i, case in enumerate(CASES):
        for j, times in enumerate((1, 2)):
            first, second = (
                " ".join(score(counts, right) for counts, right in zip(answer[i][j], case.right)) for answer in answers
            )
            ten = "" if j else ", ".join(_right(answers[1][i][2], case))
            print(f"| {case.figure}: {case.second} | {times * case.n0} | {first} | {second} | {ten} |", flush=True)


def _right(counts: list[dict[str, int]], case: Case) -> list[str]:
    """Returns how often the right word came; of a direction only where there is an effect."""
    words = zip(counts, (case.right[0], case.right[2]))
    kept = [(of, word) for of, word in words if case.right is ALIKE or word == YES]
    return [f"{100 * of.get(word, 0) / sum(of.values()):.0f} %" for of, word in kept]


if __name__ == "__main__":
    main()
