"""The paper's figures as scripts, the experiments they share, and the engine that runs them."""

from importlib import import_module

if __name__ == "reproduce":  # its short name, in a checkout: the same modules under both
    from runpy import run_path

    run_path(f"{__path__[0]}/_checkout.py")
    import_module("three_factors").alias(__name__, __path__[0])
