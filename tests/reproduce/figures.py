"""The figures, the data sets that they are on, and what they run."""

from importlib import import_module

from three_factors.datamodules.prepared import Prepared
from three_factors.datamodules.schedules import as_schedule
from three_factors.reproduce.contents import CONTENTS, THEORY
from three_factors.reproduce.engine.options import Options
from three_factors.reproduce.engine.planning import FigurePlan

SCRIPTS = sorted(name for name in CONTENTS.page if name not in THEORY)


def figure(name):
    return import_module(f"three_factors.reproduce.{name}").FIGURE


def source(name):
    """One of the paper's, whole."""
    train, channels, size = (50_000, 3, 32) if name == "cifar10" else (60_000, 1, 28)
    return Prepared(name, "-", "-", train, 10_000, channels, size, 10, "-")


def plan(name, scale, data=None):
    defined = figure(name)
    return FigurePlan(defined, Options(scale=scale), source(data or defined.data[0]), defined.arm("epochs"))


def specs(name, scale, data=None, **factors):
    """label -> spec of the first seed, of the runs that claims are about; of these factors alone."""
    found = plan(name, scale, data)._of_claims()
    return {item.label: item.spec for item in reversed(found) if factors.items() <= item.factors.items()}


def pair(spec):
    return as_schedule(spec.schedule.lr)(0.0), round(as_schedule(spec.schedule.batch_size)(0.0))


def rounded(runs):
    return sorted((round(eta, 9), size) for eta, size in map(pair, runs))
