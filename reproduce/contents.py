"""The table of contents: the order of the report's page, and the order in which figures are made."""

from __future__ import annotations

from importlib import import_module

from three_factors.reproduce.engine.definition import Contents, Definition

THEORY = ("theorem1", "theorem2", "time_rescaling", "finite_step", "momentum", "anisotropic", "sampling", "bridge")
PAGE = (*(f"fig{i}" for i in range(1, 17)), "table1", "noise_only", "when", "rivals", "fingerprint", *THEORY)
# Shortest first, as measured at quick; figures of the same networks follow one another, since they share the runs.
SHORT = ("fig2", "fig7", "fig9", "fig10", "fig11", "fig12", "fig16", "table1")
LONG = (
    "fig3",
    "fig4",
    "fig13",
    "when",
    "fingerprint",
    "noise_only",
    "fig5",
    "fig14",
    "fig15",
    "fig6",
    "fig8",
    "fig1",
    "rivals",
)


def load(name: str) -> Definition:
    """Imports a script and returns what it defines."""
    module = import_module(f"three_factors.reproduce.{name}")
    found: Definition = module.THEORY if name in THEORY else module.FIGURE
    return found


CONTENTS = Contents(PAGE, (*THEORY, *SHORT, *LONG), load)
