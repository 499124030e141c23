"""What stored claims say, the dictionaries of claims.json: how they read, which go together, how many have a word."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

from three_factors.reproduce.engine.judge.claims import refers
from three_factors.reproduce.engine.judge.looks import ALPHA
from three_factors.reproduce.engine.judge.rules import BELOW, Direction, Verdict, from_json

HOLM = "alone it would be {}; not with the figure's other primary claims counted (Holm)"
GATED = "no effect of noise on this outcome is shown, so that being alike says nothing"


def interval(claim: dict[str, Any]) -> str:
    """Returns '0.933 [0.878, 0.962]' of a stored claim; percentage points where the value is a share of 1."""
    if claim["value"] is None:
        return "no value"
    share = claim["unit"] == "share"

    def shown(value: float) -> str:
        return f"{100 * value:.2f}" if share else f"{value:.3g}"

    value, low, high = (claim[key] for key in ("value", "low", "high"))
    if low is None and high is None:
        return f"{shown(value)} [unbounded]"
    below, above = ("-∞" if low is None else shown(low)), ("∞" if high is None else shown(high))
    return f"{shown(value)} [{below}, {above}]{' pp' if share else ''}"


def own(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those of stored claims that are no controls."""
    return [claim for claim in claims if not claim["control_of"]]


def primaries(claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those of stored claims that are given a word."""
    return [claim for claim in claims if claim.get("primary")]


def controls(claim: dict[str, Any], claims: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns those of stored claims that are controls of this one."""
    return [c for c in claims if c["control_of"] and refers(c["control_of"], claim["id"])]


def elsewhere(claim: dict[str, Any], arms: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Returns arm -> the same claim there, of arm -> all of its stored claims."""
    return {arm: of for arm, claims in arms.items() for of in claims if of["id"] == claim["id"]}


def survives(claim: dict[str, Any], arms: list[dict[str, Any]]) -> str:
    """Says whether a stored claim survives the controls: the same claim in other arms.

    "survives" if it is supported itself and in each of them, "falls" if it is not supported in one, else "open". (An
    estimate that is left on the claim's side with next to nothing of its size is no survivor.)
    """
    if any(of["verdict"] == "not supported" for of in arms):
        return "falls"
    return "survives" if arms and all(of["verdict"] == "supported" for of in (claim, *arms)) else "open"


def tally(claims: list[dict[str, Any]]) -> dict[str, int]:
    """Returns the word of a verdict -> how many of stored claims have it; those that are only estimated have none."""
    counts = Counter(map(word, claims))
    order = [called for verdict in get_args(Verdict) for called in (verdict, BELOW.get(verdict, verdict))]
    return {called: counts[called] for called in order if counts[called] and called != "estimated"}


def word(claim: dict[str, Any]) -> str:
    """Returns what a stored claim's verdict is called; until 0.1 that was its name everywhere."""
    return str(claim.get("word") or claim["verdict"])


def why_undecided(claim: dict[str, Any]) -> str:
    """Returns what a stored claim lacked for a word, "support: p 0.041, at most 0.025 needed".

    Of support and refutation it is the one that came nearer. "" where the claim is not undecided, where its note says
    it already, and where nothing is known of it: too many seeds have no value, or an earlier edition stored no p.
    """
    known: list[Any] = [claim.get(key) for key in ("confidence", "p_support", "p_refute")]
    if claim["verdict"] != "inconclusive" or None in known:
        return ""
    confidence, support, refute = known
    level = round((1 - confidence) / 2, 12)
    for verdict, p, holm in (("supported", support, "holm_support"), ("not supported", refute, "holm_refute")):
        if p <= level:
            return "" if HOLM.format(verdict) in claim["note"] else _lacking("Holm", claim.get(holm), ALPHA)
    if _interval_supports(claim):  # so that the rule's p is no larger than the level, and the larger one the gate's
        return "" if GATED in claim["note"] else _lacking("noise acts", support, level)
    return _lacking("support", support, level) if support <= refute else _lacking("refutation", refute, level)


def _interval_supports(claim: dict[str, Any]) -> bool:
    """Tells whether a stored claim's interval lies beyond its rule's null, or inside its range."""
    if not claim.get("rule"):
        return False
    rule, low, high = from_json(claim["rule"]), claim["low"], claim["high"]
    if isinstance(rule, Direction):
        edge = low if rule.sign > 0 else high
        return edge is not None and rule.holds(edge)
    return low is not None and high is not None and rule.holds(low) and rule.holds(high)


def _lacking(what: str, p: float | None, needed: float) -> str:
    """Says which p was too large, with as many digits as show it; "" where it was not."""
    if p is None or p <= needed:
        return ""
    shown = next((f"{p:.{digits}g}" for digits in range(2, 17) if float(f"{p:.{digits}g}") > needed), f"{p!r}")
    return f"{what}: p {shown}, at most {needed:g} needed"
