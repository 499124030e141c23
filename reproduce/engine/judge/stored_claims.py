"""What stored claims say, the dictionaries of claims.json: how they read, which go together, how many have a word."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

from three_factors.reproduce.engine.judge.claims import refers
from three_factors.reproduce.engine.judge.rules import BELOW, Verdict


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
