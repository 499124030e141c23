"""How often claims may be looked at, and at which level each time.

Whoever adds seeds until a claim is supported supports it in the end. So there are four looks, at n0, 2 n0, 4 n0 and
8 n0 seeds, whose levels add up to 5 % (a union bound: it holds for any statistic and any n0), and a ledger of those
that were spent. At any other number of seeds estimates are printed, and no word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # which has numpy with it
    from three_factors.reproduce.engine.judge.rules import Verdict

ALPHA = 0.05  # one-sided, of a claim over all of its looks
TIMES = (1, 2, 4, 8)  # seeds of a look, over those of the first
LEVELS = (0.025, 0.0125, 0.00625, 0.00625)
DECISIVE = ("supported", "not supported")
STORED = "word"  # how ledgers call the verdict; in claims.json that is what a verdict is called at its scale


@dataclass(frozen=True)
class Look:
    """One look at a claim.

    Attributes:
        number: from 1.
        level: one-sided.
        counts: whether it gives a word; one between two looks has the next one's level and gives none.
    """

    number: int
    level: float
    counts: bool = True

    @property
    def confidence(self) -> float:
        """Returns the confidence of its two-sided intervals."""
        return 1 - 2 * self.level

    def adjusted(self, p: float) -> float:
        """Returns a p of this look on the scale of all looks together, where 5 % is the level."""
        return min(1.0, p * ALPHA / self.level)


ONLY = Look(1, ALPHA)  # of what is looked at once: simulations, whose chains are as many as are needed


def look(seeds: int, first: int) -> Look:
    """Returns the look at so many seeds, where the first is at `first`."""
    for number, (times, level) in enumerate(zip(TIMES, LEVELS), 1):
        if seeds <= times * first:
            return Look(number, level, counts=seeds == times * first)
    return Look(len(TIMES), LEVELS[-1], counts=False)


@dataclass(frozen=True)
class Spent:
    """A line of the ledger: a look that was spent on a claim.

    Attributes:
        claim: "fig4.cyclic.share".
        place: what else it is of: scale, data, arm, precision.
        rules: the tag of the rules.
        look: its number.
        runs: which runs it was spent by: a hash of their keys.
        seeds: of each setting.
        p_support: one-sided, at this look alone.
        p_refute: likewise.
        verdict: what it was judged to be.
        value: the estimate.
        low: bounds it below, at the look's confidence; None if unbounded.
        high: likewise above.
        made: the day.
    """

    claim: str
    place: str
    rules: str
    look: int
    runs: str
    seeds: int
    p_support: float
    p_refute: float
    verdict: Verdict
    value: float | None
    low: float | None
    high: float | None
    made: str = ""

    @property
    def about(self) -> tuple[str, str, str]:
        """Names what its looks are counted together with: runs of another precision are no other experiment."""
        return self.claim, without_precision(self.place), self.rules

    def as_json(self) -> dict[str, Any]:
        """Returns its fields as they are stored."""
        return {STORED if name == "verdict" else name: value for name, value in asdict(self).items()}


def spent(line: Mapping[str, Any]) -> Spent:
    """Returns a line of a ledger. Raises ValueError if it is none."""
    try:
        found = Spent(verdict=line[STORED], **{name: value for name, value in line.items() if name != STORED})
    except (TypeError, KeyError) as error:
        raise ValueError(f"no look: {error}") from error
    if not isinstance(found.look, int) or not 1 <= found.look <= len(TIMES):
        raise ValueError(f"look: {found.look!r} is not one of 1 to {len(TIMES)}")
    return found


def without_precision(place: str) -> str:
    """Returns a place without its last word."""
    return place.rsplit(" ", 1)[0]


class Ledger:
    """The looks that were spent, in their order; the first of a claim and number stands."""

    def __init__(self, lines: Iterable[Spent] = ()) -> None:
        self.lines: list[Spent] = []
        for line in lines:
            if line not in self.lines:
                self.lines.append(line)

    def of(self, claim: str, place: str, rules: str) -> list[Spent]:
        """Returns the looks spent on a claim, in their order; of several with one number the first."""
        first: dict[int, Spent] = {}
        for line in self.lines:
            if line.about == (claim, without_precision(place), rules):
                first.setdefault(line.look, line)
        return [*first.values()]

    def other_runs(self, claim: str, place: str, rules: str, number: int, runs: str) -> bool:
        """Tells whether a look was spent by other runs than these."""
        return any(line.look == number and line.runs != runs for line in self.of(claim, place, rules))
