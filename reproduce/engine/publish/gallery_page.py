"""The gallery's page, as Markdown: every figure with its claims, at the highest scale that was run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from three_factors.reproduce.engine.console import duration
from three_factors.reproduce.engine.definition import SIMULATION
from three_factors.reproduce.engine.judge.claims import joined
from three_factors.reproduce.engine.judge.stored_claims import (
    elsewhere,
    interval,
    primaries,
    survives,
    tally,
    why_undecided,
    word,
)
from three_factors.reproduce.engine.options import PRECISION, Scale
from three_factors.reproduce.engine.publish import forest
from three_factors.reproduce.engine.publish.page import indices

FOREST, INDICES = "claims.png", "g.png"
INTRODUCTION = """\
Written by `python reproduce/gallery.py`; each figure's tables and claims lie in its folder. Of each figure the highest
scale that was run is shown; lower ones are folded behind it.

A figure names at most four primary claims, which are given a word: by the interval of their look (95 % at the first,
wider ones later) and by Holm's p over the family. *Undecided*, or *inconclusive*: neither shown nor excluded at the
look's level, or not with the family counted, or noise is not shown to act; what was lacking stands beside the word or
in the note. Everything else is estimated, with no word. *Control*: the same statement with a confound taken away. A
claim that is seen *survives* the arms, the same runs with a confound taken away, if it is seen in each of them; it
*falls* if in one it is not supported (not seen); else it is *open*. *Not judged*: no value, because too few runs
trained or crossed a level, or chains from different starts did not agree. *Checks* are of the simulators. *Shares
runs*: with the figure above it that has a time. The hours of the paper scale are a forecast; `--dry-run` makes it for
your machine.
"""


@dataclass(frozen=True)
class Shown:
    """One figure of the gallery, at one scale.

    Attributes:
        name: unique in the gallery.
        script: its name without the data set.
        title: one line.
        scale: at which it was made.
        pictures: file name -> PNG.
        claims: as they are stored.
        arms: arm -> its claims.
        provenance: as it is stored.
        theory: whether it is simulated.
        kept: tables and claims, as they are, by their place.
        behind: the same at lower scales.
    """

    name: str
    script: str
    title: str
    scale: Scale
    pictures: dict[str, bytes]
    claims: list[dict[str, Any]]
    arms: dict[str, list[dict[str, Any]]]
    provenance: dict[str, Any]
    theory: bool
    kept: dict[str, bytes]
    behind: tuple[Shown, ...] = ()


def claim_rows(shown: Sequence[Shown]) -> list[forest.Row]:
    """Returns the primary claims about networks, for the picture of all."""
    return [
        forest.row(one.name, one.scale, claim)
        for one in shown
        if not one.theory
        for claim in primaries(one.claims)
        if claim.get("rule")
    ]


def index_rows(shown: Sequence[Shown]) -> list[forest.Row]:
    """Returns every g, for the picture in which rivals are told apart."""
    return [forest.index_row(one.name, one.scale, claim) for one in shown for claim in indices(one.claims, one.arms)]


def outcome(shown: Sequence[Shown]) -> str:
    """Returns lines for the README: how many primary claims, and how many checks of simulators, have which word."""
    networks, checks, became = dict[str, list[dict[str, Any]]](), list[dict[str, Any]](), Counter[tuple[bool, str]]()
    for one in shown:
        if one.theory:
            checks += primaries(one.claims)
            continue
        networks.setdefault(one.scale, []).extend(primaries(one.claims))
        for claim in primaries(one.claims):
            if others := elsewhere(claim, one.arms):
                became[claim["verdict"] == "supported", survives(claim, [*others.values()])] += 1
    lines = {
        f"primary claims about trained networks, at {scale} scale, without their arms": of
        for scale, of in networks.items()
    }
    lines["checks of the theory's simulators"] = checks
    told = [f"- {len(claims)} {words}: {_counted(claims)}." for words, claims in lines.items() if claims]
    if became:
        survive, fall, left = (became[True, fate] for fate in ("survives", "falls", "open"))
        rest = became.total() - survive - fall - left
        fates = f"of {survive + fall + left} seen ones {survive} survive it, {fall} fall, {left} are open"
        fates += f"; of the other {rest}, {became[False, 'falls']} fall"
        told.insert(len(networks), f"- {became.total()} of them with a confound taken away (arms): {fates}.")
    return "\n".join(told)


def page(shown: Sequence[Shown], forecast: dict[str, Any]) -> str:
    """Returns the page.

    Args:
        forecast: of the paper scale: a device, and hours by figure.
    """
    parts = [
        "# Gallery: every figure, as measured\n",
        INTRODUCTION,
        *([f"![all primary claims on common axes]({FOREST})\n"] if claim_rows(shown) else []),
        *([f"![g of every figure that has one]({INDICES})\n"] if index_rows(shown) else []),
        _overview(shown, forecast) + "\n",
    ]
    for one in shown:
        parts.append(f'<a id="{one.name}"></a>\n\n## {one.name}: {one.title}\n')
        parts += [f"![{one.name}]({name})\n" for name in one.pictures]
        parts += _told(one)
        for lower in one.behind:
            parts += [f"<details><summary>At {lower.scale} scale</summary>\n", *_told(lower), "</details>\n"]
    return "\n".join(parts)


def _overview(shown: Sequence[Shown], forecast: dict[str, Any]) -> str:
    """Returns one row a figure: what it says, the words of its primary claims, command, times."""
    rows = [
        f"| figure | claim | scale | primary claims | command | took | paper scale, {forecast['device']} |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in shown:
        seconds = one.provenance["seconds"]
        own_runs = seconds > 10 or one.provenance["data"]["name"] == SIMULATION
        hours = forecast["hours"].get(one.name)
        cells = (
            f"[{one.name}](#{one.name})",
            one.title,
            one.scale,
            _counted(primaries(one.claims)),
            f"`{_command(one)}`",
            duration(seconds) if own_runs else "shares runs",
            "–" if hours is None else f"{hours:.0f} h",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _told(one: Shown) -> list[str]:
    """Returns every claim of a figure at its scale, the primary ones first, and where they come from."""
    rows = [
        "| claim | value [interval] | n, look | paper | word | with a confound taken away | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in sorted(one.claims, key=lambda claim: not claim.get("primary")):
        primary, look = bool(claim.get("primary")), claim.get("look")
        cells = (
            claim["claim"] + (" *(control)*" if claim["control_of"] else ""),
            interval(claim),
            f"{claim['n']}, {look}" if primary and look else claim["n"],
            claim["paper"] or "",
            _worded(claim) if primary else "–",
            _in_arms(one, claim) if primary else "",
            claim["note"],
        )
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    told = one.provenance
    changed = " and changes" if told["uncommitted_changes"] else ""
    commit = (told["commit"] or "unknown")[:7] + changed
    regime = f"{told['regime']}, " if told.get("regime") else ""
    return [*rows, f"\n{told['data']['name']}, {one.scale} scale, {regime}{told['hardware']}, commit {commit}.\n"]


def _worded(claim: dict[str, Any], note: str = "") -> str:
    """Returns a claim's word, with what it lacked and a note in brackets."""
    told = joined(why_undecided(claim), note)
    return word(claim) + (f" ({told})" if told else "")


def _in_arms(one: Shown, claim: dict[str, Any]) -> str:
    """Says what became of a primary claim in every arm that was run, and whether it survives them."""
    others = elsewhere(claim, one.arms)
    if not others:
        return ""
    each = ", ".join(f"{arm} {interval(of)} {_worded(of, of['note'])}" for arm, of in others.items())
    return f"{survives(claim, [*others.values()])}: {each}"


def _command(one: Shown) -> str:
    data, scale = one.provenance["data"]["name"], "" if one.scale == "quick" else f" --scale {one.scale}"
    precision = one.provenance.get("precision")
    last = "" if precision in (None, PRECISION[one.scale]) else f" --precision {precision}"
    return f"reproduce/{one.script}.py{scale}" + ("" if data == SIMULATION else f" --data {data}") + last


def _counted(claims: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in tally(list(claims)).items())
