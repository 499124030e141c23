"""The part of a data set that a scale of an experiment takes, and the network that takes its images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, TypeVar

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.contract.networks import MLPNetwork, Network
from three_factors.reproduce.engine.contract.spec import Data
from three_factors.reproduce.engine.options import InputError, Scale

NO_MIRROR = ("digits", "digits28", "mnist")  # a mirrored digit is no digit


SIZE = 32  # height and width of the images that convolutions take

N = TypeVar("N", bound=Network)


def fitting(network: N, source: Prepared) -> N:
    """Returns the network for a data set's images and classes; convolutions refuse images of another size."""
    of: Any = network
    if isinstance(network, MLPNetwork):
        return replace(of, in_features=source.channels * source.size**2, num_classes=source.classes)
    if source.size != SIZE:
        size = f"{source.size} x {source.size}"
        raise InputError(f"--data: {source.name!r} has {size} images, the network takes {SIZE} x {SIZE}")
    return replace(of, in_channels=source.channels, num_classes=source.classes)


class Part(Protocol):
    """Describes how many examples of each kind a scale takes."""

    @property
    def train(self) -> int:
        """Returns how many training examples are taken."""

    @property
    def validation(self) -> int:
        """Returns how many validation examples are taken, of the data set's training examples too."""

    @property
    def test(self) -> int:
        """Returns how many test examples are taken."""


def subset(
    source: Prepared,
    scale: Scale,
    part: Part,
    *,
    train: int | None = None,
    augment: bool = False,
    label_noise: LabelNoise | None = None,
    examples: int = 500,
) -> Data:
    """Returns the spec of that part; refused, with the flag to change, if the data set is too small for it.

    Args:
        train: training examples, where those of the scale differ between settings.
        examples: of the training subset on which a run is evaluated and measured.
    """
    train = part.train if train is None else train
    for kind, wanted, there in (("train", train + part.validation, source.train), ("test", part.test, source.test)):
        if wanted > there:
            raise InputError(f"--data: {source.name!r} has {there} {kind} images, --scale {scale} takes {wanted}")
    return Data(
        source.name,
        source.fingerprint,
        train=train,
        validation=part.validation,
        test=part.test,
        augment=augment and source.name not in NO_MIRROR,
        label_noise=label_noise,
        subset=examples,
    )
