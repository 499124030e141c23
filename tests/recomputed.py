"""Recomputes the estimates and two-sided 95 % intervals of twelve claims from tables that have a row per run.

Statistics are taken per seed, then averaged over seeds; this file uses numpy, scipy and pandas alone.
"""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pandas as pd
from scipy import stats

Result = tuple[float, float | None, float | None]
NORM, VAL, TEST = "end hessian/frobenius", "val/accuracy", "test/accuracy"


def load(folder: pathlib.Path, name: str) -> pd.DataFrame:
    """Reads the runs of a table that are no tuning, with what a diverged run measured (but accuracy) as missing."""
    runs = pd.read_csv(folder / f"{name}.csv")
    runs = runs[runs["seed"] < 1000].copy()
    for metric in (NORM, "hessian/frobenius", "best hessian/frobenius"):
        if metric in runs:
            runs.loc[runs["status"] == "diverged", metric] = np.nan
    return runs


def fit(y: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Least-squares coefficients of y on the columns; all missing where a value that goes in is missing."""
    design = np.column_stack(columns).astype(float)
    if not (np.isfinite(design).all() and np.isfinite(y).all()):
        return np.full(design.shape[1], np.nan)
    return np.linalg.lstsq(design, np.asarray(y, dtype=float), rcond=None)[0]


def slope(y: np.ndarray, x: np.ndarray) -> float:
    """Slope of the least-squares line of y on x."""
    return float(fit(y, np.ones(len(y)), x)[1])


def vertex(y: np.ndarray, x: np.ndarray, *intercepts: np.ndarray) -> float:
    """Where the parabola fitted to y over x has its maximum; missing where it has none."""
    b, c = fit(y, x, x**2, *intercepts)[:2]
    return float(-b / (2 * c)) if c < 0 else float("nan")


def mean_interval(values: list[float]) -> Result:
    """Mean over seeds and Student's interval; a lost seed takes the least favourable value at either end."""
    v = np.array(values, dtype=float)
    lost = np.isnan(v)
    if len(v) < 2 or lost.all():
        return float(v[~lost].mean()) if not lost.all() else float("nan"), None, None
    t = stats.t.ppf(0.975, len(v) - 1)
    worst, best = np.where(lost, np.nanmin(v), v), np.where(lost, np.nanmax(v), v)
    low, high = worst.mean() - t * stats.sem(worst), best.mean() + t * stats.sem(best)
    return float(v[~lost].mean()), float(low), float(high)


def on_log_scale(logs: list[float]) -> Result:
    """Mean and interval of natural logarithms, transformed back."""
    estimate, low, high = mean_interval(logs)
    low, high = (None if end is None else float(np.exp(end)) for end in (low, high))
    return float(np.exp(estimate)), low, high


def fieller_limits(a: np.ndarray, d: np.ndarray) -> tuple[float, float] | None:
    """The r with |mean(a - r d)| <= t se(a - r d), or None where they are unbounded."""
    if (n := len(a)) < 2:
        return None
    t2 = stats.t.ppf(0.975, n - 1) ** 2
    cov = np.cov(a, d, ddof=1) / n
    # The condition, squared, is q2 r^2 - 2 q1 r + q0 <= 0; it is bounded where q2 > 0, and r = estimate satisfies it.
    q2 = d.mean() ** 2 - t2 * cov[1, 1]
    q1 = a.mean() * d.mean() - t2 * cov[0, 1]
    q0 = a.mean() ** 2 - t2 * cov[0, 0]
    if q2 <= 0:
        return None
    half = np.sqrt(max(q1**2 - q2 * q0, 0.0))
    return float((q1 - half) / q2), float((q1 + half) / q2)


def ratio_interval(a: pd.Series, d: pd.Series) -> Result:
    """mean(a) / mean(d) with Fieller's interval; a lost pair takes each other seed's pair, and the union is given."""
    top, below = a.to_numpy(float), d.to_numpy(float)
    kept = np.flatnonzero(np.isfinite(top) & np.isfinite(below))
    if kept.size == 0:
        return float("nan"), None, None
    estimate = float(top[kept].mean() / below[kept].mean())
    fills = ([*kept, *stand_ins] for stand_ins in itertools.product(kept, repeat=len(a) - len(kept)))
    limits = [fieller_limits(top[rows], below[rows]) for rows in fills]
    bounded = [limit for limit in limits if limit is not None]
    if len(bounded) < len(limits):
        return estimate, None, None
    return estimate, min(low for low, _ in bounded), max(high for _, high in bounded)


def per_setting(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The metric with a row per seed and a column per setting."""
    return runs.pivot(index="seed", columns="label", values=metric)


def fig1(folder: pathlib.Path, y: str, x: str) -> Result:
    """Mean over seeds of the slope of y on x over the whole grid."""
    runs = load(folder, "fig1")
    runs["log noise"] = np.log10(runs["eta"] / runs["S"])
    runs["log norm"] = np.log10(runs[NORM])
    return mean_interval([slope(cells[y].to_numpy(), cells[x].to_numpy()) for _, cells in runs.groupby("seed")])


def fig4(folder: pathlib.Path, first: str, second: str) -> Result:
    """How much `first` exceeds `second` in test accuracy, as a share of the noise's effect."""
    acc = per_setting(load(folder, "fig4"), TEST)
    effect = (acc["constant, small S"] + acc["constant, large S"]) / 2 - acc["noise control"]
    return ratio_interval(acc[first] - acc[second], effect)


def fig8_location(folder: pathlib.Path) -> Result:
    """n N at the vertex of a parabola that all S share, with an intercept per S."""
    runs = load(folder, "fig8")
    logs = []
    for _, cells in runs.groupby("seed"):
        intercepts = [(cells["S"] == s).to_numpy(float) for s in sorted(cells["S"].unique())]
        x = np.log((cells["n"] * cells["N"]).to_numpy())
        logs.append(vertex(cells[VAL].to_numpy(), x, *intercepts))
    return on_log_scale(logs)


def fig8_slope(folder: pathlib.Path) -> Result:
    """Slope on ln S of the vertices (in ln n N) of a parabola per S."""
    slopes = []
    for _, cells in load(folder, "fig8").groupby("seed"):
        places = {}
        for s in cells["S"].unique():
            part = cells[cells["S"] == s]
            x = np.log((part["n"] * part["N"]).to_numpy())
            places[float(s)] = vertex(part[VAL].to_numpy(), x, np.ones(len(x)))
        slopes.append(slope(np.array(list(places.values())), np.log(list(places))))
    return mean_interval(slopes)


def fig15_norm(folder: pathlib.Path) -> Result:
    """Slope of log10 norm on log10 n, averaged over the strata of fraction and momentum."""
    values = []
    for _, runs in load(folder, "fig15").groupby("seed"):
        logs = runs[["best hessian/frobenius", "n"]].apply(np.log10)
        strata = [logs.loc[index].to_numpy() for index in runs.groupby(["fraction", "momentum"]).groups.values()]
        values.append(float(np.mean([slope(*stratum.T) for stratum in strata])))
    return mean_interval(values)


def fig15_effective(folder: pathlib.Path) -> Result:
    """The power of 1 / (1 - momentum) that acts as n does, from cells of a common range of effective noise."""
    parts = []
    for _, cells in load(folder, "fig15").groupby("fraction"):
        ranges = cells.groupby("momentum")["effective n"].agg(["min", "max"])
        low, high = ranges["min"].max() * (1 - 1e-3), ranges["max"].min() * (1 + 1e-3)
        for seed, c in cells[cells["effective n"].between(low, high)].groupby("seed"):
            z = -np.log10(1 - c["momentum"])
            _, s, d = fit(np.log10(c["best hessian/frobenius"]).to_numpy(), np.ones(len(c)), np.log10(c["n"]), z)
            parts.append((seed, -d, -s))
    means = pd.DataFrame(parts, columns=["seed", "a", "p"]).groupby("seed").mean(skipna=False)
    return ratio_interval(means["a"], means["p"])


def fig16_tension(folder: pathlib.Path) -> Result:
    """Ratio of the norm of discrete S to that of discrete eta, as a geometric mean."""
    norm = per_setting(load(folder, "fig16"), "hessian/frobenius")
    return on_log_scale(list(np.log(norm["discrete S"] / norm["discrete eta"])))


def table1_higher(folder: pathlib.Path) -> Result:
    """Test accuracy of the mean of the three cyclical settings less that of constant eta."""
    acc = per_setting(load(folder, "table1"), TEST)
    cyclical = acc[["discrete S", "discrete eta", "triangle eta"]].mean(axis=1, skipna=False)
    return mean_interval(list(cyclical - acc["constant eta"]))


def table1_alike(folder: pathlib.Path) -> Result:
    """Discrete S less discrete eta, as a share of what their mean gains over constant eta."""
    acc = per_setting(load(folder, "table1"), TEST)
    gain = (acc["discrete S"] + acc["discrete eta"]) / 2 - acc["constant eta"]
    return ratio_interval(acc["discrete S"] - acc["discrete eta"], gain)


def recomputed(folder: pathlib.Path) -> dict[str, Result]:
    """(estimate, low, high) of every claim, from the tables in the folder."""
    return {
        "fig1.norm": fig1(folder, "log norm", "log noise"),
        "fig1.accuracy": fig1(folder, VAL, "log noise"),
        "fig1.wider": fig1(folder, VAL, "log norm"),
        "fig4.cyclic.share": fig4(folder, "cyclic S", "cyclic eta"),
        "fig4.constant.share": fig4(folder, "constant, small S", "constant, large S"),
        "fig8.location": fig8_location(folder),
        "fig8.slope": fig8_slope(folder),
        "fig15.norm": fig15_norm(folder),
        "fig15.effective": fig15_effective(folder),
        "fig16.tension": fig16_tension(folder),
        "table1.higher": table1_higher(folder),
        "table1.alike": table1_alike(folder),
    }


if __name__ == "__main__":
    print(recomputed(pathlib.Path(__file__).parent))
