"""What panels are drawn from, in matplotlib: curves, points, scales, legends, and the colours of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from three_factors.reproduce.engine.contract.steps import WEIGHT_NORM
from three_factors.reproduce.engine.judge.table import BATCH_STABILITY, NORMALISED, STABILITY, Table

# S, eta, and controls: told apart also without colour vision
BLUE, RED, GREY = "#1f5fa8", "#c23b31", "#7a7a7a"
ORANGE, GREEN, PURPLE = "#e69f00", "#1b9e77", "#8e5aa8"
PARTS = 2_000  # of a curve of single steps
# What stands beside every norm of the Hessian: the confounds of scale and of the edge of stability
WORDS = {
    NORMALISED: "scale-normalised sharpness",
    STABILITY: "η · largest eigenvalue",
    WEIGHT_NORM: "|θ|",
}
# And the third factor, the variance of the gradients, with the operator of training
THIRD_FACTOR = {
    "gradient_noise/trace": "tr C of the gradients",
    "gradient_noise/isotropy": "isotropy (tr C)²/(q tr C²)",
    "gradient_noise/alignment": "alignment tr(HC)/(|H| |C|)",
    BATCH_STABILITY: "η · batch sharpness, train mode",
}


def band(
    axes: Any,
    table: Table,
    label: str,
    metric: str,
    colour: str,
    *,
    legend: str | None = None,
    stretch: float = 1.0,
    percent: bool = False,
    dashed: bool = False,
    dotted: bool = False,
    spread: bool = True,
    against: Literal["epoch", "t_eta"] = "epoch",
) -> None:
    """Draws the mean over seeds against the epoch or t_eta, and a band of one standard deviation between seeds (unless
    not `spread`).
    """
    from matplotlib.ticker import MaxNLocator

    epochs, times, values = table.curves(label, metric)
    if not len(epochs):
        return
    if against == "t_eta":
        epochs = times
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = values * (100 if percent else 1)
    mean = values.mean(axis=0)
    style: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0} if dashed else {}
    if dotted:
        style = {"linestyle": (0, (1, 1.5)), "linewidth": 1.2}
    axes.plot(epochs / stretch, mean, color=colour, label=legend or label, **style)
    if spread and len(values) > 1:
        sd = values.std(axis=0, ddof=1)
        axes.fill_between(epochs / stretch, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)


def beside(table: Table, at: str) -> dict[str, str]:
    """Returns metric -> words of what stands beside the norm at a milestone, the third factor where it was measured."""
    there = {f"{at} {metric}": words for metric, words in THIRD_FACTOR.items()}
    measured = {k: v for k, v in there.items() if k in table.frame and table.frame[k].notna().any()}
    return {f"{at} {metric}": words for metric, words in WORDS.items()} | measured


def per_step(axes: Any, table: Table, label: str, what: str, colour: str, *, legend: str | None = None) -> None:
    """Draws 'loss', eta ('lr'), S ('batch_size') or eta/S ('noise_ratio') of every step of one seed's run."""
    seeds = table.seeds(label)
    if not seeds:
        return
    steps = table.steps[label, seeds[0]]
    epochs, first = np.unique(steps["epoch"].to_numpy(), return_index=True)
    counts = np.diff(np.append(first, len(steps)))
    x = np.repeat(epochs - 1.0, counts) + (np.arange(len(steps)) - np.repeat(first, counts)) / np.repeat(counts, counts)
    values = (steps["lr"] / steps["batch_size"] if what == "noise_ratio" else steps[what]).to_numpy(dtype=float)
    chosen = _envelope(values) if what == "loss" else _changes(values)
    style = {"linewidth": 0.6, "alpha": 0.8} if what == "loss" else {"drawstyle": "steps-post"}
    axes.plot(x[chosen], values[chosen], color=colour, label=legend, **style)


def _envelope(values: np.ndarray) -> np.ndarray:
    """Returns the indices of the lowest and the highest value in each of 2 000 parts: more cannot be seen."""
    if len(values) <= 2 * PARTS:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), PARTS + 1).round().astype(int)[:-1]
    padded = np.nan_to_num(values, nan=np.inf), np.nan_to_num(values, nan=-np.inf)
    found = []
    for start, stop in zip(edges, [*edges[1:], len(values)]):
        found += [start + int(padded[0][start:stop].argmin()), start + int(padded[1][start:stop].argmax())]
    return np.unique(found)


def _changes(values: np.ndarray) -> np.ndarray:
    """Returns the indices of first values, of those that differ from the one before, and of the last."""
    changed = np.flatnonzero(np.diff(values) != 0) + 1
    return np.unique([0, *changed, len(values) - 1])


def profile(
    axes: Any, table: Table, label: str, what: str, colour: str, *, percent: bool = False, seed: int | None = None
) -> None:
    """Draws loss or accuracy along a line, mean and range over seeds (or of one): train solid, test dashed."""
    for part, style in (("train", "-"), ("test", (0, (4, 2)))):
        found = [
            parts[part] for (name, number), parts in table.profiles.items() if name == label and seed in (None, number)
        ]
        if not found:
            continue
        values = np.array([line[what] for line in found], dtype=float) * (100 if percent else 1)
        alphas, mean = np.array(found[0]["alphas"]), np.nanmean(values, axis=0)
        axes.plot(alphas, mean, color=colour, linestyle=style, label=part)
        if len(values) > 1:
            axes.fill_between(alphas, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)


def shades(values: Sequence[Any]) -> dict[Any, Any]:
    """Returns a colour a value, from dark to light; told apart in grey and without colour vision."""
    import matplotlib as mpl

    return {v: mpl.colormaps["viridis"](0.92 * i / max(1, len(values) - 1)) for i, v in enumerate(values)}


WARM = "coolwarm"  # blue to red, as the paper has low and high noise


def blue_to_red(values: Sequence[float] | np.ndarray) -> dict[float, Any]:
    """Returns a colour a value, by its logarithm: blue for the lowest noise, red for the highest."""
    import matplotlib as mpl

    if not len(values):
        return {}
    low, high = np.log(min(values)), np.log(max(values))
    return {v: mpl.colormaps[WARM]((np.log(v) - low) / max(high - low, 1e-9)) for v in sorted(set(values))}


def colour_bar(panels: Any, values: Sequence[float] | np.ndarray, words: str) -> None:
    """Draws the scale of `blue_to_red` beside the panels."""
    import matplotlib as mpl

    if not len(values):
        return
    norm = mpl.colors.LogNorm(min(values), max(values))
    shown = mpl.cm.ScalarMappable(norm, mpl.colormaps[WARM])
    panels[0].figure.colorbar(shown, ax=list(panels), label=words, aspect=35, pad=0.01)


def points(
    axes: Any,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    solid: Sequence[bool] | np.ndarray,
    colour: Any,
    legend: str,
) -> None:
    """Draws a point a cell: the mean over seeds of values (seeds, cells) and a bar of one standard deviation.

    Points that are not `solid` (cells,) are hollow: some of their runs, or most, did not train.
    """
    there = ~np.isnan(values).all(axis=0)
    if not there.any():
        return
    at, values, full = np.asarray(x)[there], values[:, there], np.asarray(solid)[there]
    mean, count = np.nanmean(values, axis=0), (~np.isnan(values)).sum(axis=0)
    spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    axes.errorbar(at, mean, spread, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
    faces = [colour if trained else "white" for trained in full]
    axes.scatter(at, mean, s=26, c=faces, edgecolors=[colour], linewidths=1.1, zorder=3)
    axes.scatter([], [], s=26, color=colour, label=legend)


def all_trained(table: Table, labels: Sequence[str]) -> list[bool]:
    """Tells which cells are drawn solid: those of which no run diverged. The footer counts the runs that did."""
    return [table.diverged(label) == 0 for label in labels]


def nothing(axes: Any, words: str) -> None:
    """Says in a panel why it is empty."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set(xticks=[], yticks=[])


def log_scale(axis: Any) -> None:
    """Makes an axis (`axes.xaxis` or `.yaxis`) logarithmic, with labels that do not run into one another."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    limits = axis.axes.dataLim
    if not np.isfinite(limits.minposx if axis.axis_name == "x" else limits.minposy):
        return  # nothing is drawn yet that a logarithm could show
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 1
    within = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if decades < 0.7 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=within if decades < 1.6 else (1.0,)))
    plain = decades < 1.6 and low > 1e-4
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if plain else _power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())


def _power_of_ten(value: float) -> str:
    """Returns 2e-4 as 2·10⁻⁴, 1e-4 as 10⁻⁴."""
    digits, exponent = f"{value:.0e}".split("e")
    return ("" if digits == "1" else rf"{digits}$\cdot$") + rf"$10^{{{int(exponent)}}}$"


def twins(panels: Sequence[Any], left: str, left_colour: str, right: str, right_colour: str) -> list[Any]:
    """Adds a second y axis on the right of every panel, and returns those.

    The outermost axes alone are labelled, in their lines' colours.
    """
    others = [panel.twinx() for panel in panels]
    for panel, other in zip(panels, others):
        place = panel.get_subplotspec()
        if place.is_first_col():
            panel.set_ylabel(left, color=left_colour)
        if place.is_last_col() or panel is panels[-1]:
            other.set_ylabel(right, color=right_colour)
        panel.tick_params(axis="y", colors=left_colour, labelsize=8)
        other.tick_params(axis="y", colors=right_colour, labelsize=8)
        other.grid(visible=False)
        other.spines["right"].set_visible(True)
    return others


def written(panels: Sequence[Any], head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Draws a table of words over the place of all panels of a row."""
    grid, figure = panels[0].get_gridspec(), panels[0].figure
    for panel in panels:
        panel.remove()
    place = figure.add_subplot(grid[:])
    place.axis("off")
    table = place.table([list(row) for row in rows], colLabels=list(head), loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(list(range(len(head))))
    for (row, _), cell in table.get_celld().items():
        cell.set_height(0.13)
        cell.visible_edges = "B"
        cell.set_edgecolor("#333333" if row == 0 else "#d9d9d9")
        if row == 0:
            cell.set_text_props(weight="bold")


def edge_of_stability(axes: Any, momentum: float = 0.0) -> None:
    """Draws where gradient descent becomes unstable: η · largest eigenvalue = 2 (1 + β)."""
    edge = 2 * (1 + momentum)
    axes.axhline(edge, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), label=f"{edge:g}: edge of stability")


def legend_below(axes: Any, columns: int) -> None:
    """Adds a legend that covers no data."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            fontsize=7.5,
            ncols=columns,
            columnspacing=1.2,
            handlelength=1.6,
        )
