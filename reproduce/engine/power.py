"""What a figure's claims can hope for, simulated before anything is trained: their power, and the seeds they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from three_factors.reproduce.engine import provenance
from three_factors.reproduce.engine.claims import Claim, holm
from three_factors.reproduce.engine.definition import Context
from three_factors.reproduce.engine.files import read_cache, write_json
from three_factors.reproduce.engine.table import Evidence

WEAK = 0.6  # below this power a claim is seldom confirmed where it holds
SEEDS_DRAWN = 3_000  # in all experiments of a size: a share of 40 experiments is known to 8 %
GRID = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)  # seeds


@dataclass(frozen=True)
class Planned:
    """What a claim can hope for before anything is trained."""

    power: float | None = None
    needs_n: str | None = None


def plans(context: Context, say: Callable[..., None]) -> list[Planned]:
    """Each claim's power at this many seeds; warns of the weak ones. OUT/power.json keeps what this code has simulated.

    None where nothing is judged, and in an arm that has claims of its own: they are not imagined.
    """
    figure, options, seeds = context.figure, context.options, context.seeds
    if options.scale == "smoke" or seeds < 2 or not context.own_data or context.arm.check is not None:
        return []

    def draw(n: int, random: np.random.Generator) -> Evidence:
        return figure.experiment.imagined(options.scale, n, random)

    file, code, name = options.out / "power.json", provenance.judging(), f"{figure.name} {options.scale} {seeds}"
    known = read_cache(file)
    if known.get("code") != code:
        known = {"code": code}
    if name not in known:
        powers = simulated(figure.check, draw, seeds)
        known[name] = [asdict(Planned(*plan)) for plan in zip(powers, needed(figure.check, draw, powers, seeds))]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
    planned = [Planned(**entry) for entry in known[name]]
    weak = sum(plan.needs_n is not None for plan in planned)
    say(
        f"power at n = {seeds} seeds and the spread between them that is assumed: {weak} of {len(planned)} claims "
        f"would seldom be confirmed where they hold (power below {100 * WEAK:.0f} %)"
    )
    for claim, plan in zip(figure.check(draw(seeds, np.random.default_rng(0))), planned):
        needs = f" (needs n {plan.needs_n})" if plan.needs_n is not None else ""
        say(f"  {100 * (plan.power or 0):>3.0f} %  {claim.claim}{needs}")
    return planned


def simulated(
    check: Callable[[Any], list[Claim]], draw: Callable[[int, np.random.Generator], Evidence], n: int, trials: int = 300
) -> list[float]:
    """The share of simulated experiments of n seeds, drawn under the claims' truth, in which each is 'supported'."""
    random = np.random.Generator(np.random.PCG64(20171113))
    verdicts = [[c.verdict == "supported" for c in holm(check(draw(n, random)))] for _ in range(trials)]
    return [round(float(share), 3) for share in np.mean(verdicts, axis=0)]


def needed(
    check: Callable[[Any], list[Claim]],
    draw: Callable[[int, np.random.Generator], Evidence],
    powers: list[float],
    n: int,
    trials: int = 150,
) -> list[str | None]:
    """For every claim whose power at n seeds is weak, the smallest number of `GRID` that gives enough: "≥ 16"."""
    weak = [i for i, p in enumerate(powers) if p < WEAK]
    known: dict[int, list[float]] = {}

    def enough(size: int, claim: int) -> bool:
        if size not in known:
            known[size] = simulated(check, draw, size, max(40, min(trials, SEEDS_DRAWN // size)))
        return known[size][claim] >= WEAK

    answers: list[str | None] = [None] * len(powers)
    larger = [size for size in GRID if size > n]
    for i in weak:
        low, high = 0, len(larger)
        while low < high:  # power grows with n
            middle = (low + high) // 2
            low, high = (low, middle) if enough(larger[middle], i) else (middle + 1, high)
        answers[i] = f"≥ {larger[low]}" if low < len(larger) else f"> {GRID[-1]}"
    return answers
