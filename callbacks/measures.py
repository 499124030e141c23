"""What of the Hessian can be measured, and what each costs; for forecasts and dashboards without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal[
    "top_eigenvalue",
    "trace",
    "frobenius",
    "finite_difference",
    "normalized_sharpness",
    "adaptive_sharpness",
    "batch_sharpness",
]


@dataclass(frozen=True)
class Cost:
    """Describes about how many Hessian products a measure takes, at `HessianMonitor`'s default tolerances.

    Attributes:
        products: those of its own.
        shared: steps of the Lanczos run that eigenvalue, trace and norm share; the longest counts.
    """

    products: int
    shared: int = 0


COSTS: dict[str, Cost] = {
    "top_eigenvalue": Cost(0, shared=15),
    "trace": Cost(24, shared=16),
    "frobenius": Cost(21, shared=24),
    "finite_difference": Cost(16),
    "normalized_sharpness": Cost(15),
    "adaptive_sharpness": Cost(20),
    "batch_sharpness": Cost(2),  # of each batch a gradient and a product
}


def checked(measures: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names. Raises ValueError naming the first that is no measure's."""
    for measure in measures:
        if measure not in COSTS:
            raise ValueError(f"measures: {measure!r} is none of {', '.join(COSTS)}")
    return measures
