"""P(right word) - 5 P(wrong word) of both editions of the rules, in the same simulated worlds and runs.

    python tests/editions.py OLD_CHECKOUT [--trials 200]

OLD_CHECKOUT is a checkout of the first edition (20ce594). A world has an effect of 0, 1 or 2 times the smallest of
interest, with the spreads that quick runs have between seeds, and n0 or 2 n0 seeds. Right is the word that the truth
has: where an effect is 0, that it is not there; at the edge of an equivalence no word is right. Nothing was changed
after the table was seen.
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


def pair(effect: float, seeds: int, random: np.random.Generator, factors: dict[str, Any]) -> tuple[Columns, Columns]:
    """Figure 4: ends and curves of a pair that differ by so many thirds of what noise does."""
    ends, curves = {"cyclic S": 1 / 3, "cyclic eta": 0.0, "constant, small S": 0.0, "constant, large S": 0.0}, {}
    of_seed, found = random.normal(0, 1, seeds), dict[str, dict[str, np.ndarray]]()
    for label, share in (ends | {"noise control": None}).items():
        level = -1.0 if share is None else effect * share
        spread = 0.8 * of_seed + 0.6 * random.normal(0, 1, seeds)
        found[label] = {"test/accuracy": 0.7 + 0.06 * level + 0.008 * spread}
        logs = 0.6 * level + 0.1 * spread[:, None] + random.normal(0, 0.03, (seeds, 24))
        curves[label] = {"train_subset/loss": np.exp(logs - 2), "train/loss": np.exp(logs - 2)}
    return found, curves


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


CASES = [
    Case("fig1", "norm.all", "norm", 4, grid("end hessian/frobenius", -0.05, 0.09, log=True), (NO, YES, YES)),
    Case("fig1", "accuracy.all", "accuracy", 4, grid("val/accuracy", 0.005, 0.01, log=False), (NO, YES, YES)),
    Case("fig4", "cyclic.share", "cyclic.share", 4, pair, (YES, "", NO)),
    Case("fig10", "wider.large_batch", "wider", 3, line, (NO, YES, YES)),
    Case("fig13", "cyclic.curves", "cyclic.curves", 4, pair, (YES, "", NO)),
    Case(
        "fig15", "norm.25.momentum_0", "norm", 4, grid("best hessian/frobenius", -0.05, 0.05, log=True), (NO, YES, YES)
    ),
    Case(
        "fig16",
        "tension.alike",
        "tension.alike",
        3,
        ends_of("hessian/frobenius", ("discrete S", "discrete eta"), float(np.log(1.25)), 0.1, log=True),
        (YES, "", NO),
    ),
    Case(
        "table1",
        "higher.discrete_s",
        "higher",
        3,
        ends_of(
            "test/accuracy", ("discrete S", "discrete eta", "triangle eta", "constant eta"), 0.005, 0.006, log=False
        ),
        (NO, YES, YES),
    ),
]


def words(edition: int, trials: int) -> list[list[list[dict[str, int]]]]:
    """Returns, for every case, number of seeds and effect, how often each word came, by the checkout at sys.path[0]."""
    from importlib import import_module

    from three_factors.reproduce.engine.judge import claims
    from three_factors.reproduce.engine.judge.table import SyntheticTable

    found = []
    for number, case in enumerate(CASES):
        figure = import_module(f"three_factors.reproduce.{case.figure}").FIGURE
        name, of_case = case.first if edition == 1 else case.second, []
        for times in (1, 2):
            row = []
            for effect in (0, 1, 2):
                counts = dict[str, int]()
                for trial in range(trials):
                    random = np.random.default_rng([number, times, effect, trial])
                    seeds = times * case.n0
                    base = figure.experiment.imagined("quick", seeds, np.random.default_rng(trial))
                    ends, curves = case.draw(effect, seeds, random, base.factors)
                    finals = {label: of | ends.get(label, {}) for label, of in base.finals.items()}
                    series = {label: of | curves.get(label, {}) for label, of in base.series.items()}
                    check = figure.check(SyntheticTable(finals, series, base.factors))
                    if edition == 1:
                        judged = claims.holm(check)  # type: ignore[attr-defined]
                    else:
                        from three_factors.reproduce.engine.judge.looks import look

                        judged = claims.judge(check, look(seeds, case.n0), figure.primary)
                    word = next(claim.verdict for claim in judged if claim.id == name)
                    counts[word] = counts.get(word, 0) + 1
                row.append(counts)
            of_case.append(row)
        found.append(of_case)
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
    print("| claim | seeds | first edition: effect 0, 1, 2 | second edition: 0, 1, 2 |\n|---|---|---|---|")
    for i, case in enumerate(CASES):
        for j, times in enumerate((1, 2)):
            first, second = (
                " ".join(score(counts, right) for counts, right in zip(answer[i][j], case.right)) for answer in answers
            )
            print(f"| {case.figure}: {case.second} | {times * case.n0} | {first} | {second} |", flush=True)


if __name__ == "__main__":
    main()
