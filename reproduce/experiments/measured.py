"""What is measured of a run at its milestones: one list for all figures, as long as its scale has time for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from three_factors.callbacks.measures import Measure
from three_factors.datamodules.schedules import as_schedule
from three_factors.reproduce.engine.contract.measurements import (
    AnyMeasurement,
    Curvature,
    Measurement,
    NoiseMeasurement,
)
from three_factors.reproduce.engine.contract.spec import RunSpec
from three_factors.reproduce.engine.options import Scale

# These names are in the measurements' keys: with one more every figure is measured anew, and archived runs, which have
# no weights, are trained anew for it. What one figure needs is a `Measurement` of its own.
# In eval mode on a fixed training subset: the paper's norm, and beside it what does not hang on the weights' scale.
CURVATURE: tuple[Measure, ...] = ("top_eigenvalue", "trace", "frobenius", "normalized_sharpness")
# In train mode at the run's own S: the operator whose stability decides.
STABILITY: tuple[Measure, ...] = ("top_eigenvalue", "batch_sharpness")


@dataclass(frozen=True)
class Depth:
    """Says how much is measured under training conditions.

    Attributes:
        batches: of the run's S for the curvature in train mode; None for none.
        noisy: of them for the covariance of the gradients under batch norm; None for none.
        examples: whose gradients are taken, without batch norm.
        levels: whether all of it is measured at the loss levels too, or the norm alone.
        alignment: whether C is held against the Hessian.
        products: Hessian products of each measure at most.
    """

    batches: int | None
    noisy: int | None
    examples: int
    levels: bool
    alignment: bool = True
    products: int = 100


DEPTHS: dict[Scale, Depth] = {
    "smoke": Depth(3, 5, 20, levels=True, alignment=False, products=3),
    "quick": Depth(None, 8, 100, levels=False, alignment=False),
    **dict.fromkeys(("gpu", "paper"), Depth(8, 24, 500, levels=True)),
}
LIGHTER = ("curvature in train mode, alignment, all but the norm at loss levels", "not measured", "time")  # at quick


def measurements(
    spec: RunSpec,
    scale: Scale,
    examples: int,
    *,
    at: tuple[str, ...] = ("end",),
    levels: tuple[str, ...] = (),
    noise: bool = False,
) -> tuple[AnyMeasurement, ...]:
    """Returns what is measured of a run.

    Args:
        examples: of the training subset, for the curvature in eval mode.
        at: the milestones of all measures; with the norm by finite differences, as the paper has it.
        levels: milestones at fixed training losses.
        noise: whether the covariance of the gradients is measured.
    """
    depth, size = DEPTHS[scale], round(as_schedule(spec.schedule.batch_size)(spec.epochs - 1e-9))
    subset = Curvature(examples, 250, (*CURVATURE, "finite_difference"), max_products=depth.products)
    found: list[AnyMeasurement] = [Measurement(subset, at)]
    if levels:
        found.append(Measurement(replace(subset, measures=CURVATURE if depth.levels else ("frobenius",)), levels))
    everywhere = (*at, *levels) if depth.levels else at
    if depth.batches is not None:
        training = replace(subset, examples=depth.batches * size, batch_size=size, measures=STABILITY, training=True)
        found.append(Measurement(training, everywhere))
    if noise and depth.noisy is not None:
        found.append(NoiseMeasurement(size, depth.noisy, depth.examples, everywhere, depth.alignment))
    return tuple(found)
