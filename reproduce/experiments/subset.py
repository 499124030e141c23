"""The part of a data set that a scale of an experiment takes."""

from __future__ import annotations

from three_factors.datamodules.label_noise import LabelNoise
from three_factors.datamodules.prepared import Prepared
from three_factors.reproduce.engine.contract.spec import Data
from three_factors.reproduce.engine.options import InputError, Scale

NO_MIRROR = ("digits", "digits28", "mnist")  # a mirrored digit is no digit


def image_size(source: Prepared, wanted: int) -> None:
    """Refuses a data set of another image size than a network takes."""
    if source.size != wanted:
        raise InputError(
            f"--data: {source.name!r} has {source.size} x {source.size} images, the network takes {wanted} x {wanted}"
        )


def subset(
    source: Prepared,
    scale: Scale,
    *,
    train: int,
    validation: int,
    test: int,
    augment: bool = False,
    label_noise: LabelNoise | None = None,
    examples: int = 500,
) -> Data:
    """Returns the spec of that part; refused, with the flag to change, if the data set is too small for it."""
    for part, wanted, there in (("train", train + validation, source.train), ("test", test, source.test)):
        if wanted > there:
            raise InputError(f"--data: {source.name!r} has {there} {part} images, --scale {scale} takes {wanted}")
    return Data(
        source.name,
        source.fingerprint,
        train=train,
        validation=validation,
        test=test,
        augment=augment and source.name not in NO_MIRROR,
        label_noise=label_noise,
        subset=examples,
    )
