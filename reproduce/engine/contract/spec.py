"""What a run is: a frozen, validated dataclass whose hash names its folder.

A spec is the experiment alone. Where and on what it ran is in the result's provenance; labels, groups and figures
are not part of it, so figures that need the same network share its run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.plan import check_batch_size
from three_factors.datamodules.schedules import NoiseSchedule, as_schedule, known_bounds, round_batch_size
from three_factors.lightning_modules.criterion import Criterion
from three_factors.reproduce.engine.contract.measurements import PROTOCOL, AnyMeasurement, Watch
from three_factors.reproduce.engine.contract.networks import MLPNetwork, Network
from three_factors.reproduce.engine.contract.noise import GaussianNoise, HalfBatchNoise
from three_factors.reproduce.engine.contract.stored import Typed, short_hash

if TYPE_CHECKING:
    from three_factors.reproduce.engine.contract.packs import Pack
    from three_factors.reproduce.theory.simulation import Simulation

PATH_PROTOCOL = 2  # the same of lines
RISES = (0.1, 0.5, 1.0)  # δ, by which the training loss rises above its value at the end of a line: widths are of these
Tenth = Literal["steps", "epochs", "low noise"]
PRECISIONS = {
    "float32": "32-true",
    "tf32": "32-true",
    "float64": "64-true",
    "bf16": "bf16-mixed",
}  # as Lightning says it


@dataclass(frozen=True)
class Data(Typed):
    """A data set by its content, and the parts of it that a run uses.

    Attributes:
        label_noise: wrong labels in the training set.
        subset: training examples that are evaluated.
    """

    name: str
    fingerprint: str
    train: int
    validation: int
    test: int
    augment: bool = False
    split_seed: int = 0
    label_noise: LabelNoise | None = None
    subset: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "validation", "test", "subset"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1 example")


@dataclass(frozen=True)
class Evaluations(Typed):
    """Evaluations between the ends of epochs, besides those that `RunSpec.evaluate_every` says.

    They add to what is recorded; milestones and stops go by those at the ends of epochs.

    Attributes:
        early: how many in each of the first `until` epochs, evenly spaced, the one at its end included; of accuracies
            alone, without the test set: what memorisation is judged by.
        last: how many, as far as there are steps, where the run ends: at its end, and evenly before it.
        tenth: where that is: in the last tenth of its steps, of its epochs, or at a cycle's low noise in the latter
            (`ends.of_what`).
    """

    early: int = 1
    until: int = 0
    last: int = 0
    tenth: Tenth = field(default="steps", metadata={"absent": "steps"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, smallest in (("early", 1), ("until", 0), ("last", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}: {getattr(self, name)} is less than {smallest}")
        if self.tenth not in get_args(Tenth):
            raise ValueError(f"tenth: {self.tenth!r} is not one of {', '.join(map(repr, get_args(Tenth)))}")


@dataclass(frozen=True)
class Keep(Typed):
    """Says at which milestones `KeepWeights` keeps the weights, for measurements afterwards.

    The worker hands its fields to the callback as they are: each must be one of `KeepWeights`'s keywords.
    """

    initial: bool = False
    best: bool = False
    end: bool = True
    loss_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for level in self.loss_levels:
            if not (math.isfinite(level) and level > 0):
                raise ValueError(f"loss_levels: {level!r} is not a positive finite number")

    @property
    def milestones(self) -> tuple[str, ...]:
        """Names them as `Measurement.at` does."""
        named = {"initial": self.initial, "best": self.best, "end": self.end}
        return (*(name for name, kept in named.items() if kept), *(f"loss {level:g}" for level in self.loss_levels))


@dataclass(frozen=True)
class RunSpec(Typed):
    """One training run.

    Attributes:
        schedule: eta and S as functions of epoch progress; S is global.
        epochs: passes over the training subset.
        seed: of weights, data order, augmentation and dropout; each is a stream of its own.
        precision: of the arithmetic. "float32" without TF32; "tf32": products and convolutions take their factors in
            it, on a GPU alone; "bf16": autocast, with weights, sums and batch norm's statistics in float32; "float64"
            is for tests.
        evaluate_every: epochs between evaluations; `epochs` is a multiple of it, so the end is evaluated.
        max_batch_size: where a growing S is clipped (the clipped part goes into eta); N by default.
        keep: the milestones at which weights are kept for measurements; none by default.
        watch: the curvature that is measured while it trains. What is measured afterwards is no part of a run.
        noise: changes the noise of the gradient alone.
        stop_at_loss: ends the run at the first evaluation with at most this loss on the training subset.
        stop_at_accuracy: likewise, with at least this accuracy on it.
        evaluations: more of them than at the ends of epochs.
        loss: what is descended: cross-entropy, or the squared distance of the outputs from the label's indicator. In
            the worker it is `SGDClassifier.criterion`.
    """

    network: Network
    data: Data
    schedule: NoiseSchedule
    epochs: int
    seed: int
    momentum: float = 0.0
    weight_decay: float = 0.0
    sampling: Literal["shuffle", "replacement"] = "shuffle"
    precision: Literal["float32", "tf32", "float64", "bf16"] = "float32"
    evaluate_every: int = 1
    max_batch_size: int | None = None
    keep: Keep | None = None
    watch: Watch | None = None
    noise: HalfBatchNoise | GaussianNoise | None = None
    stop_at_loss: float | None = None
    protocol: int = PROTOCOL
    stop_at_accuracy: float | None = field(default=None, metadata={"absent": None})
    evaluations: Evaluations | None = field(default=None, metadata={"absent": None})
    loss: Criterion = field(default="cross_entropy", metadata={"absent": "cross_entropy"})
    current_protocol: ClassVar[int] = PROTOCOL

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1:
            raise ValueError(f"epochs: {self.epochs} is less than 1")
        if self.evaluate_every < 1 or self.epochs % self.evaluate_every:
            raise ValueError(f"evaluate_every: {self.evaluate_every} does not divide {self.epochs} epochs")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative")
        if not (math.isfinite(self.momentum) and 0 <= self.momentum < 1):
            raise ValueError(f"momentum: {self.momentum!r} is not in [0, 1)")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay: {self.weight_decay!r} is not a non-negative finite number")
        if self.sampling not in ("shuffle", "replacement"):
            raise ValueError(f"sampling: {self.sampling!r} is neither 'shuffle' nor 'replacement'")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.loss not in get_args(Criterion):
            raise ValueError(f"loss: {self.loss!r} is not one of {', '.join(get_args(Criterion))}")
        if self.stop_at_loss is not None and not (math.isfinite(self.stop_at_loss) and self.stop_at_loss > 0):
            raise ValueError(f"stop_at_loss: {self.stop_at_loss!r} is not a positive finite number")
        if self.stop_at_accuracy is not None and not 0 < self.stop_at_accuracy <= 1:
            raise ValueError(f"stop_at_accuracy: {self.stop_at_accuracy!r} is not in (0, 1]")
        if self.stop_at_loss is not None and self.stop_at_accuracy is not None:
            raise ValueError("stop_at_accuracy: cannot go with stop_at_loss")
        check_batch_size(self.schedule.batch_size, self.data.train, max_batch_size=self.max_batch_size)
        known, largest = known_bounds(as_schedule(self.schedule.batch_size)), self.max_batch_size or self.data.train
        smallest = known and round_batch_size(known[0], 1, min(largest, self.data.train))
        if smallest == 1 and isinstance(self.network, MLPNetwork) and self.network.batch_norm:
            raise ValueError("network: batch norm of an MLP has no variance over the schedule's batches of 1 example")
        if self.noise is not None:
            if known is None or smallest is None or known[0] != known[1]:
                raise ValueError(f"noise: needs a constant batch size, not {self.schedule.batch_size!r}")
            self.noise.check(smallest)

    @cached_property  # asked for again and again
    def key(self) -> str:
        """Returns 16 hexadecimal digits of a hash over all fields; the name of the run's folder."""
        return short_hash(self)

    def check_devices(self, devices: int) -> None:
        """Raises ValueError if S falls below one example a device, or for what is made on a single one."""
        if devices > 1 and self.noise is not None and self.noise.renewal is not None:
            raise ValueError("--devices: the shape of this noise is measured on one device")
        if devices > 1 and self.watch is not None and self.watch.curvature.training:
            raise ValueError("--devices: the curvature of training is measured on one device")
        check_batch_size(self.schedule.batch_size, self.data.train, devices, self.max_batch_size)


@dataclass(frozen=True)
class PathSpec(Typed):
    """A line between the ends of two runs of the same network, (1 - a) θ1 + a θ2: its results are profiles of the loss.

    The data and the loss are those of `start`.

    Attributes:
        start: the run whose end is θ1.
        end: that of θ2.
        alphas: where on it; 0 and 1 among them.
        examples: training and test examples it is evaluated on.
        directions: random filter-normalised directions from each end, for comparison.
        outward: points on each, in |θ|.
        until: goes on beyond the last of these, by factors of sqrt(2), until the highest rise is reached or this far;
            None: no further.
        tangential: takes out of random directions, and out of the line for widths of their own, what only scales a
            filter that batch norm normalises: along it the loss is flat by construction.
    """

    start: RunSpec
    end: RunSpec
    alphas: tuple[float, ...] = tuple(i / 20 - 1 for i in range(61))
    examples: int = 5_000
    batch_size: int = 500
    directions: int = 10
    outward: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
    protocol: int = PATH_PROTOCOL
    until: float | None = field(default=None, metadata={"absent": None})
    tangential: bool = field(default=False, metadata={"absent": False})
    current_protocol: ClassVar[int] = PATH_PROTOCOL

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {0.0, 1.0} <= set(self.alphas):
            raise ValueError(f"alphas: {self.alphas!r} lack one of the ends, 0 and 1")
        for name, smallest in (("examples", 1), ("batch_size", 2), ("directions", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}: {getattr(self, name)} is less than {smallest}")
        if self.until is not None and not (self.outward and self.until >= max(self.outward)):
            raise ValueError(f"until: {self.until!r} is not beyond the points of outward, {self.outward!r}")
        for name in ("network", "loss"):
            if getattr(self.start, name) != getattr(self.end, name):
                raise ValueError(f"{name}: the ends of a line have two")
        for run in (self.start, self.end):
            if run.keep is None or not run.keep.end:
                raise ValueError("keep: a line needs runs that keep their weights at the end")

    @cached_property  # asked for again and again
    def key(self) -> str:
        return short_hash(self)


Spec: TypeAlias = "RunSpec | PathSpec | Simulation | Pack"
Factors = Mapping[str, float | str]  # what a setting is made of: eta, S, panel, network, ...


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes:
        label: the setting's name, for people; the same for all its seeds.
        seed: which repetition.
        spec: what is done.
        measurements: what is measured of a run after its training.
        factors: the setting in numbers and words; columns of the table.
        every_step: whether the loss of every step of a run is kept.
    """

    label: str
    seed: int
    spec: Spec
    measurements: tuple[AnyMeasurement, ...] = ()
    factors: Factors = field(default_factory=dict)
    every_step: bool = False

    @property
    def name(self) -> str:
        return f"{self.label} seed {self.seed}"
