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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # behind the checkout that is judged by

from tests.edition_worlds import (
    Draw,
    alike,
    breaks,
    dial,
    discrete,
    ends_of,
    grid,
    half_noise,
    line,
    matched,
    momenta,
    pair,
    powers,
    triplet,
)

YES, NO = "supported", "not supported"


@dataclass(frozen=True)
class Case:
    """A claim that both editions have.

    Attributes:
        figure: its script.
        first: its id in the first edition.
        second: in the second.
        n0: seeds of the first look.
        draw: of its world.
        right: the word at effects of 0, 1 and 2; "" where there is none.
    """

    figure: str
    first: str
    second: str
    n0: int
    draw: Draw
    right: tuple[str, str, str]


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
