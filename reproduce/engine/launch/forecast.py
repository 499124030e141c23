"""How long runs will take here: measured training steps of the very network, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from three_factors.callbacks.measures import COSTS
from three_factors.reproduce.engine.contract.files import read_cache, write_json
from three_factors.reproduce.engine.contract.measurements import AnyMeasurement, Curvature, NoiseMeasurement
from three_factors.reproduce.engine.contract.networks import Network
from three_factors.reproduce.engine.contract.spec import PathSpec, RunSpec
from three_factors.reproduce.engine.contract.steps import evaluated, lengths
from three_factors.reproduce.engine.contract.stored import dumps
from three_factors.reproduce.engine.launch.devices import Hardware

TIMED = 3  # raise it when a step takes another time than it did: what is kept in the file is then timed anew
EVALUATION = 1 / 3  # the cost of an example that is only evaluated, in examples trained on
OVERHEAD = 1.15  # augmentation, and the other core's work
TRAINER = 7e-4  # seconds a step: Lightning's loop and our callbacks
RENEWAL = 50.0  # products, of directions or of a lift
GRADIENT, ALIGNMENT = 1.0, 60.0  # products for each example whose gradient is in a covariance, without and with H
PRODUCT = 3.0  # the cost of a Hessian product on an example, in examples trained on


def steps_of(spec: RunSpec) -> int:
    """Counts the optimisation steps of a run: what its schedule makes of every epoch."""
    return int(lengths(spec).sum())


def _products(curvature: Curvature) -> float:
    """Counts the Hessian products of one measurement, times examples."""
    costs = [COSTS[measure] for measure in curvature.measures]
    examples = curvature.batches * curvature.batch_size if curvature.training else curvature.examples
    return examples * (max(cost.shared for cost in costs) + sum(cost.products for cost in costs))


def _cost(measurement: AnyMeasurement, network: Network) -> float:
    """Counts the same of a measurement at one milestone."""
    if isinstance(measurement, NoiseMeasurement):
        number, size = measurement.gradients(network)
        return (ALIGNMENT if measurement.alignment else GRADIENT) * number * size
    return _products(measurement.curvature)


class Forecast:
    """Seconds for a run, from times of steps that are measured once for every network and device.

    They are a machine's, not an experiment's: `file` lies in the user's cache folder.

    Args:
        measure: measure(spec, members) times steps.
        together: single runs that share a device, and are measured like that.
    """

    def __init__(
        self,
        file: Path,
        hardware: Hardware,
        measure: Callable[[RunSpec, int], tuple[float, float]],
        together: int = 1,
    ) -> None:
        self.file, self.hardware, self.measure, self.together = file, hardware, measure, together
        self.known = read_cache(file)

    def seconds(self, spec: RunSpec, measurements: Sequence[AnyMeasurement] = (), members: int = 1) -> float:
        """Returns the seconds of training, and of what is measured meanwhile and afterwards at all milestones.

        Args:
            members: of a pack, of which the run is the longest.
        """
        per_step, per_example = self._costs(spec, members)
        products = sum(len(m.at) * _cost(m, spec.network) for m in measurements)
        if spec.watch is not None:
            products += spec.epochs // spec.watch.every * _products(spec.watch.curvature)
        if spec.noise is not None and spec.noise.renewal is not None:
            renewal = spec.noise.renewal
            products += sum(map(renewal.due, range(spec.epochs))) * RENEWAL * renewal.examples
        times = spec.epochs // spec.evaluate_every + sum(map(len, evaluated(spec).values()))
        evaluations = times * (spec.data.validation + spec.data.test + spec.data.subset)
        examples = spec.epochs * spec.data.train + EVALUATION * evaluations + PRODUCT * products
        lightning = TRAINER if members == 1 else 0.0  # whose batch is many steps of a pack
        return OVERHEAD * (steps_of(spec) * (per_step + lightning) + examples * per_example)

    def path_seconds(self, spec: PathSpec) -> float:
        """Returns the seconds of a line between runs: each point re-estimates batch norm and evaluates."""
        _, per_example = self._costs(spec.start)
        points = 2 * len(spec.alphas) + 2 * spec.directions * len(spec.outward)
        return points * 2 * spec.examples * EVALUATION * per_example

    def _costs(self, spec: RunSpec, members: int = 1) -> tuple[float, float]:
        """Seconds a step and seconds an example."""
        text = f"{TIMED} " + dumps(spec.network) + self.hardware.accelerator + self.hardware.name
        text += f" x {members}" if members > 1 else ""
        if self.hardware.accelerator != "cpu":
            text += f" {spec.precision}" + (f", {self.together} together" if members == 1 else "")
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in self.known:
            self.known = read_cache(self.file) | self.known | {key: list(self.measure(spec, members))}
            with suppress(OSError):  # without it the next call measures again
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.file, self.known)
        per_step, per_example = self.known[key]
        return per_step, per_example


def wall_time(seconds: list[float], jobs: int) -> float:
    """Says how long runs of these lengths take on `jobs` slots, longest first."""
    slots = [0.0] * jobs
    for length in sorted(seconds, reverse=True):
        slots[slots.index(min(slots))] += length
    return max(slots)
