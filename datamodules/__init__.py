"""Data with dynamic batch sizes. Importing the package imports no torch; the names below load on first use."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "datamodules.schedules": (
        "Chain",
        "Constant",
        "Cosine",
        "Cyclic",
        "Exponential",
        "Inverse",
        "NoiseSchedule",
        "OneCycle",
        "Polynomial",
        "Schedule",
        "StepEvery",
        "Steps",
        "Triangle",
        "WarmRestarts",
        "exchange",
    ),
    "datamodules.batches": ("PlannedBatchSampler", "PlannedLoader", "plan_of", "resumed_at"),
    "datamodules.label_noise": ("LabelNoise",),
    "datamodules.plan": ("EpochPlan", "plan_epoch"),
    "datamodules.vision": (
        "CIFAR10DataModule",
        "DigitsDataModule",
        "FashionMNISTDataModule",
        "ImageDataModule",
        "ImageFolderDataModule",
        "MNISTDataModule",
    ),
    "datamodules.subsets": ("stratified_subset",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from datamodules.batches import PlannedBatchSampler, PlannedLoader, plan_of, resumed_at
    from datamodules.label_noise import LabelNoise
    from datamodules.plan import EpochPlan, plan_epoch
    from datamodules.schedules import (
        Chain,
        Constant,
        Cosine,
        Cyclic,
        Exponential,
        Inverse,
        NoiseSchedule,
        OneCycle,
        Polynomial,
        Schedule,
        StepEvery,
        Steps,
        Triangle,
        WarmRestarts,
        exchange,
    )
    from datamodules.subsets import stratified_subset
    from datamodules.vision import (
        CIFAR10DataModule,
        DigitsDataModule,
        FashionMNISTDataModule,
        ImageDataModule,
        ImageFolderDataModule,
        MNISTDataModule,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


if "torch" in sys.modules:  # else `datamodules.batches` and `callbacks` do it
    import_module("datamodules.safe_globals")
