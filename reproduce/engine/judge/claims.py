"""Claims: what is stated before anything has run, and what was found of it; `verdicts` gives it a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from three_factors.reproduce.engine.judge.estimates import Estimate
from three_factors.reproduce.engine.judge.rules import Rule

ALL_CLAIMS = "*"

Unit = Literal["", "share"]
Quantity = Literal["", "g", "g at equal epochs"]
# The power g of S in eta/S^g; mixed at equal epochs, where whatever follows training time alone has g = 1.
G: Quantity = "g"
MIXED: Quantity = "g at equal epochs"
AT_EQUAL_EPOCHS = " (mixed at equal epochs, where t_eta follows eta/S)"  # in the words of claims about it


@dataclass(frozen=True)
class Statement:
    """Says what is claimed, before anything has run. Verdicts and controls go by `id` alone; the rest is words.

    Attributes:
        id: names the claim within its figure, words joined by dots: "cyclic.accuracy".
        text: the claim.
        statistic: what is computed; the rule's words are added.
        paper: the paper's own value.
        quote: the paper's sentence, in few words.
        note: what else is to be said.
        control_of: the id of the claim of which it asks whether it survives a confound taken away, or the beginning of
            several up to a dot (`ALL_CLAIMS`: all of the figure's); empty for a claim of its own.
        location: whether it says where something lies, which moves with t_eta.
        quantity: what is estimated, where several figures estimate the same: see `G` and `MIXED`.
    """

    id: str
    text: str
    statistic: str = ""
    paper: str | None = None
    quote: str = ""
    note: str = ""
    control_of: str = ""
    location: bool = False
    quantity: Quantity = ""

    def noting(self, *notes: str) -> Statement:
        """Returns the statement with more notes; empty ones are left out."""
        return replace(self, note=joined(self.note, *notes))


@dataclass(frozen=True)
class Finding:
    """Describes what was found of a statement, before it is given a word.

    Attributes:
        about: the statement.
        rule: by which it is judged.
        estimate: None where too few runs have a value.
        labels: the settings whose runs it is about; empty if it is about all of the figure's.
        gate: the one-sided p of noise acting on the same outcome, without which alike pairs show nothing. Where it is
            above the look's level the claim is not supported but inconclusive, and may still be refuted; None where
            there is no such condition.
        unit: "share" for a share of 1, printed as percentage points.
        unjudged: why it is given no word, whatever was found; "" if it is.
        needs: the one-sided p of what has to be shown before it is given any word, and why there is none where it is
            not. Where it is above the look's level the claim is not judged, whatever was found, and spends no look.
    """

    about: Statement
    rule: Rule
    estimate: Estimate | None
    labels: tuple[str, ...] = ()
    gate: float | None = None
    unit: Unit = ""
    unjudged: str = ""
    needs: tuple[float, str] | None = None

    @property
    def p_support(self) -> float:
        """Returns the one-sided p of a support; 1 where nothing can be decided."""
        if self.estimate is None or self.estimate.too_many_lost:
            return 1.0
        return max(self.rule.p_support(self.estimate), self.gate or 0.0)

    @property
    def p_refute(self) -> float:
        """Returns the one-sided p of a refutation; 1 where nothing can be decided."""
        if self.estimate is None or self.estimate.too_many_lost:
            return 1.0
        return self.rule.p_refute(self.estimate)

    def why_not(self, level: float) -> str:
        """Returns why it is given no word at a level; "" if it is."""
        needed = "" if self.needs is None or self.needs[0] <= level else self.needs[1]
        return joined(self.unjudged, needed)

    def without(self, why: str) -> Finding:
        """Returns the finding, which is given no word."""
        return replace(self, unjudged=joined(self.unjudged, why))


def key(value: float) -> str:
    """Returns a number as a word of an id, which has no dots: '0_9'."""
    return f"{value:g}".replace(".", "_").replace("-", "m")


def joined(*notes: str) -> str:
    """Joins notes; empty ones and repetitions are left out."""
    return "; ".join(dict.fromkeys(filter(None, notes)))


def refers(control_of: str, claim: str) -> bool:
    """Tells whether a control's `control_of` means a claim's id: it, ids below it, or `ALL_CLAIMS`."""
    return control_of == ALL_CLAIMS or claim == control_of or claim.startswith(f"{control_of}.")


def check_ids(findings: Iterable[Finding]) -> None:
    """Raises ValueError if two claims have one id, or a control names no claim."""
    statements = [finding.about for finding in findings]
    counts = Counter(about.id for about in statements)
    for name, count in counts.items():
        if count > 1 or not name:
            raise ValueError(f"id: {count} claims are named {name!r}")
    for about in statements:
        if about.control_of and not any(refers(about.control_of, name) for name in counts if name != about.id):
            raise ValueError(f"control_of: {about.control_of!r} of {about.id!r} is no claim")
