"""What is said of runs with random labels: the claims of Figure 5, and the strata of its grid for Figures 14 and 15."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from three_factors.reproduce.engine import claims, seedwise, statistics
from three_factors.reproduce.engine.judge.table import Evidence
from three_factors.reproduce.experiments.memorisation import EARLY, LEVELS, MOMENTA, NOISY, at_level
from three_factors.reproduce.experiments.metrics import VALID

MEMORISED = 0.999  # of the accuracy on the noisy training set: all labels but a thousandth
FEWEST = 8  # cells that memorise, over a decade of eta/S, for the claim about the endpoint
RISES = seedwise.Direction(1, smallest=0.005)  # half a point of accuracy per decade of eta/S
FALLS = seedwise.Direction(-1, smallest=0.05)  # of a log10 norm


def fractions_of(table: Evidence) -> list[float]:
    """Returns the fractions of random labels that a table has, ascending."""
    return table.levels("fraction")


def strata(table: Evidence, **factors: float) -> dict[tuple[float, float], list[str]]:
    """Returns (fraction, momentum) -> the settings of it, with these factors."""
    found = {}
    for fraction in fractions_of(table):
        for momentum in MOMENTA:
            labels = table.select(**{"fraction": fraction, "momentum": momentum, **factors})
            if labels and factors.get("momentum", momentum) == momentum:
                found[fraction, momentum] = labels
    return found


def in_groups(table: Evidence) -> tuple[list[str], np.ndarray]:
    """Returns the settings of all strata, and the number of each one's stratum, (labels,)."""
    of = list(strata(table).values())
    return [label for some in of for label in some], np.repeat(np.arange(len(of)), [len(some) for some in of])


def log_n(table: Evidence, labels: Sequence[str]) -> np.ndarray:
    """Returns log10 eta/S, (labels,)."""
    return np.log10(table.column(labels, "n").astype(float))


def at_the_endpoint(table: Evidence) -> claims.Finding:
    """States what the paper reports: where everything is memorised, more noise generalises better."""
    about = claims.Statement(
        "endpoint",
        "higher eta/S generalises better where all labels are memorised",
        f"slope of validation accuracy per decade of eta/S over cells whose accuracy on the noisy training set ends at "
        f"{100 * MEMORISED:g} %, an intercept for each noise and momentum, a seed",
        quote="reports the generalization at the endpoint",
    )
    labels, groups = in_groups(table)
    if not labels:
        return claims.Finding(about, RISES, None)
    all_of_it = (table.grid(labels, NOISY) >= MEMORISED).all(axis=0)
    x, y = log_n(table, labels), np.where(all_of_it, table.grid(labels, VALID), np.nan)
    about = about.noting(f"{int(all_of_it.sum())} of {len(labels)} cells")
    found = seedwise.over_seeds(about, statistics.slopes(x, y, groups), RISES, unit="share")
    if all_of_it.sum() < FEWEST or np.ptp(x[all_of_it]) < 1:
        return found.without(f"fewer than {FEWEST} cells over a decade of eta/S memorise everything; arm memorised")
    return found


def after_generalisation(table: Evidence, **factors: float) -> claims.Finding:
    """States that memorisation comes after generalisation: at the best epoch there is next to none."""
    of = strata(table, **factors)
    about = claims.Statement(
        "after",
        "memorisation comes after generalisation",
        "accuracy on wrong labels at the best validation accuracy over that at the end, mean over cells, a seed",
        quote="memorization occurs after the best validation epoch",
    )
    rule = seedwise.Direction(-1, smallest=0.0, null=0.1)
    if not of:
        return claims.Finding(about, rule, None)
    values = [table.grid(labels, EARLY) for labels in of.values()]
    if table.measured:
        never, count = (sum(int(of(found)) for found in values) for of in (lambda v: np.isnan(v).sum(), np.size))
        about = about.noting(
            f"{never} of {count} runs never memorise, and are left out"
            if never < count
            else "no run memorised and was evaluated within its first epochs: which came first is not known to an epoch"
        )
    means = statistics.nanmean([statistics.nanmean(found.T) for found in values])
    return seedwise.over_seeds(about, means, rule)


def at_levels(table: Evidence) -> claims.Finding:
    """Returns, for the reader, the slope at equal accuracy on the noisy training set: a mean over levels and strata."""
    about = claims.Statement(
        "levels",
        "higher eta/S generalises better at equal memorisation",
        f"slope of validation accuracy per decade of eta/S where the accuracy on the noisy training set first reaches "
        f"{', '.join(f'{level:g}' for level in LEVELS)}, mean over these, noise and momentum, a seed",
    )
    found = [
        statistics.slopes(log_n(table, labels), table.grid(labels, at_level(level)))
        for labels in strata(table).values()
        for level in LEVELS
    ]
    if not found:
        return claims.Finding(about, RISES, None)
    return seedwise.over_seeds(about, statistics.nanmean(found), RISES, unit="share")


def given_memorisation(table: Evidence) -> claims.Finding:
    """Returns, for the reader, the slope at the end given the accuracy on the noisy training set, as a cubic.

    The two are nearly collinear: its variance is inflated 5 to 39 times.
    """
    about = claims.Statement(
        "given",
        "higher eta/S generalises better, given the accuracy on the noisy training set",
        "coefficient of log10 eta/S in validation accuracy = s(noisy accuracy) + eta/S, s cubic, an intercept for each "
        "noise and momentum, a seed",
    )
    labels, groups = in_groups(table)
    if not labels:
        return claims.Finding(about, RISES, None)
    noisy = table.grid(labels, NOISY) - 1
    fits = statistics.coefficients(
        table.grid(labels, VALID), log_n(table, labels), noisy, noisy**2, noisy**3, groups=groups
    )
    return seedwise.over_seeds(about, fits[:, 0], RISES, unit="share")
