"""The picture of a figure: one look for all, reductions in the footer, a watermark on other data."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from three_factors.reproduce.engine.contract.files import write_bytes
from three_factors.reproduce.engine.judge.table import Table

PANEL = (4.5, 4.2)  # inches
KINDS = ("png", "svg")
FOOTER, LINE, CHARACTER = 6.5, 0.125, 0.048  # points of the footer's type; inches of a line and of a character

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "three-factors",
    "savefig.dpi": 160,
}


def save(
    draw: Callable[[Table, Any], None],
    table: Table,
    folder: Path,
    name: str,
    *,
    footer: str,
    watermark: str | None,
) -> bytes:
    """Draws and writes NAME.png and NAME.svg, each whole or not at all. Returns the PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=PANEL, layout=(layout := ConstrainedLayoutEngine()))
        FigureCanvasAgg(figure)

        def axes(rows: int, columns: int, **options: Any) -> Any:
            figure.set_size_inches(PANEL[0] * columns, PANEL[1] * rows)
            return np.atleast_1d(figure.subplots(rows, columns, **options)).ravel()

        draw(table, axes)
        width, height = figure.get_size_inches()
        room = (0.08 + LINE * math.ceil(len(footer) * CHARACTER / width)) / height
        layout.set(rect=(0, room, 1, 1 - room))
        figure.text(0.01, 0.05 / height, footer, fontsize=FOOTER, color="#555555", va="bottom", wrap=True)
        if watermark:
            figure.text(
                0.5,
                0.55,
                watermark,
                fontsize=26,
                color="#000000",
                alpha=0.10,
                ha="center",
                va="center",
                rotation=18,
                weight="bold",
            )
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        drawn = {}
        # By the canvases themselves: `savefig` draws everything once more beforehand, to lay it out.
        for ending, canvas in zip(KINDS, (FigureCanvasAgg, FigureCanvasSVG)):
            metadata = {"Date": None} if ending == "svg" else None  # equal figures give equal files
            getattr(canvas(figure), f"print_{ending}")(content := io.BytesIO(), metadata=metadata)
            drawn[ending] = content.getvalue()
            write_bytes(folder / f"{name}.{ending}", drawn[ending])
            figure.set_layout_engine("none")  # it takes a third of the time, and is the same for both
        return drawn["png"]
