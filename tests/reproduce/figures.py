"""The figures, and the data sets that they are on."""

from importlib import import_module

from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.contents import CONTENTS, THEORY

SCRIPTS = sorted(name for name in CONTENTS.page if name not in THEORY)


def figure(name):
    return import_module(f"three_factors.reproduce.{name}").FIGURE


def source(name):
    """One of the paper's, whole."""
    train, channels, size = (50_000, 3, 32) if name == "cifar10" else (60_000, 1, 28)
    return Prepared(name, "-", "-", train, 10_000, channels, size, 10, "-")
