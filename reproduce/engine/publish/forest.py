"""Estimates of several figures on common axes: every primary claim, and every g, by which rivals are told apart."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from three_factors.reproduce.engine.judge.rules import Direction, Range, from_json
from three_factors.reproduce.engine.judge.stored_claims import word
from three_factors.reproduce.engine.publish import plots
from three_factors.reproduce.engine.publish.picture import STYLE

COLOURS = {"supported": "#1a7f37", "not supported": "#c62828", "inconclusive": "#9a6700", "not judged": plots.GREY}
ROW, WIDTH = 0.24, 11.0  # inches


@dataclass(frozen=True)
class Axis:
    """Describes what rows are drawn on.

    Attributes:
        title: what its numbers mean.
        ends: beyond which an arrow points.
        lines: where it has lines, with their words.
    """

    title: str
    ends: tuple[float, float]
    lines: dict[float, str]


DIRECTIONS = Axis(
    "directions: 0 no effect, 1 the smallest effect of interest, the claimed way", (-3.0, 5.0), {0.0: "", 1.0: ""}
)
RANGES = Axis("ranges: from -1 to 1 the claim holds", (-3.0, 3.0), {-1.0: "", 1.0: ""})
INDICES = Axis("g: eta/S^g decides, at equal t_eta", (-1.0, 3.0), {0.0: "η", 0.5: "η/√S", 1.0: "η/S"})


@dataclass(frozen=True)
class Row:
    """A claim on a common axis.

    Attributes:
        label: figure and claim.
        value: the estimate; None if there is none.
        low: bounds it below; -inf if nothing does.
        high: likewise above.
        verdict: by which it is coloured.
        told: word, look and scale.
        direction: whether it is one; else a range.
    """

    label: str
    value: float | None
    low: float
    high: float
    verdict: str
    told: str
    direction: bool


def row(name: str, scale: str, claim: dict[str, Any]) -> Row:
    """Returns a stored claim on the axis of its kind."""
    rule, log = from_json(claim["rule"]), claim.get("scale") == "log"

    def at(value: float) -> float:
        if not log:
            return value
        return math.log(value) if value > 0 else -math.inf

    if isinstance(rule, Direction):
        zero = at(rule.null)
        unit = rule.sign * (abs(at(rule.interesting) - zero) or abs(zero) or 1.0)
    else:
        assert isinstance(rule, Range)
        zero, unit = (at(rule.low) + at(rule.high)) / 2, (at(rule.high) - at(rule.low)) / 2

    def scaled(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else (at(value) - zero) / unit

    ends = (claim["low"], claim["high"]) if unit > 0 else (claim["high"], claim["low"])
    value = None if claim["value"] is None else scaled(claim["value"], 0.0)
    look = f", look {claim['look']}" if claim.get("look") and claim["verdict"] != "not judged" else ""
    return Row(
        f"{name}: {claim['claim']}",
        value,
        scaled(ends[0], -math.inf),
        scaled(ends[1], math.inf),
        claim["verdict"],
        f"{word(claim)}{look}, {scale}",
        isinstance(rule, Direction),
    )


def index_row(name: str, scale: str, claim: dict[str, Any]) -> Row:
    """Returns a stored claim whose quantity is g, on the axis of all of them."""
    low, high = ((edge if claim[end] is None else claim[end]) for end, edge in (("low", -math.inf), ("high", math.inf)))
    told = scale if claim["verdict"] == "estimated" else f"{word(claim)}, {scale}"
    return Row(f"{name}: {claim['claim']}", claim["value"], low, high, claim["verdict"], told, direction=False)


def of_claims(rows: Sequence[Row], ending: str) -> bytes:
    """Returns the picture of claims, an "svg" or a "png"."""
    kinds = [[one for one in rows if one.direction is direction] for direction in (True, False)]
    return _drawn([(axis, kind) for axis, kind in zip((DIRECTIONS, RANGES), kinds) if kind], ending)


def of_indices(rows: Sequence[Row], ending: str) -> bytes:
    """Returns the picture of g, likewise."""
    return _drawn([(INDICES, rows)], ending)


def _drawn(panels: Sequence[tuple[Axis, Sequence[Row]]], ending: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    heights = [len(rows) for _, rows in panels]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, ROW * sum(heights) + 1.6), layout="constrained")
        canvas = (FigureCanvasAgg if ending == "png" else FigureCanvasSVG)(figure)
        places = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for place, (axis, rows) in zip(places, panels):
            _draw(place, rows, axis)
        content = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else None
        getattr(canvas, f"print_{ending}")(content, metadata=metadata)
    return content.getvalue()


def _draw(panel: Any, rows: Sequence[Row], axis: Axis) -> None:
    low, high = axis.ends
    for line, words in axis.lines.items():
        panel.axvline(line, color=plots.GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        panel.annotate(words, (line, len(rows) - 0.4), (2, 2), textcoords="offset points", fontsize=7.5)
    for place, one in enumerate(rows):
        colour = COLOURS.get(one.verdict, plots.GREY)
        if one.value is not None:
            panel.plot([max(one.low, low), min(one.high, high)], [place, place], color=colour, linewidth=1.4)
            for bound, end, marker in ((one.low, low, "<"), (one.high, high, ">")):
                if (bound < low) if end == low else (bound > high):
                    panel.plot([end], [place], marker=marker, color=colour, markersize=4, clip_on=False)
            if low <= one.value <= high:
                panel.plot([one.value], [place], marker="o", color=colour, markersize=4)
        panel.text(high + 0.1, place, one.told, color=colour, fontsize=7.5, va="center")
    panel.set_yticks(range(len(rows)), [one.label for one in rows], fontsize=7.5)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(low, high)
    panel.set_title(axis.title, fontsize=8.5, loc="left")
