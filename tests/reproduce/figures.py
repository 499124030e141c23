"""The figures, and the data sets that they are on."""

from importlib import import_module

from tests.reproduce.script import ROOT
from three_factors.datamodules.prepared import Prepared

SCRIPTS = sorted(p.stem for p in (ROOT / "reproduce").glob("*.py") if p.stem.startswith(("fig", "table", "noise")))


def figure(name):
    return import_module(f"three_factors.reproduce.{name}").FIGURE


def source(name):
    """One of the paper's, whole."""
    train, channels, size = (50_000, 3, 32) if name == "cifar10" else (60_000, 1, 28)
    return Prepared(name, "-", "-", train, 10_000, channels, size, 10, "-")
