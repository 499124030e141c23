"""Data with dynamic batch sizes. Importing the package imports no torch; the names below load on first use."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    ".schedules": (
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
    ".batches": ("PlannedBatchSampler", "PlannedLoader", "plan_of", "resumed_at"),
    ".label_noise": ("LabelNoise",),
    ".plan": ("EpochPlan", "plan_epoch"),
    ".vision": (
        "CIFAR10DataModule",
        "DigitsDataModule",
        "FashionMNISTDataModule",
        "ImageDataModule",
        "ImageFolderDataModule",
        "MNISTDataModule",
    ),
    ".subsets": ("stratified_subset",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from three_factors.datamodules.batches import PlannedBatchSampler, PlannedLoader, plan_of, resumed_at
    from three_factors.datamodules.label_noise import LabelNoise
    from three_factors.datamodules.plan import EpochPlan, plan_epoch
    from three_factors.datamodules.schedules import (
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
    from three_factors.datamodules.subsets import stratified_subset
    from three_factors.datamodules.vision import (
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
    try:
        return getattr(import_module(_HOME[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name in ("platformdirs", "filelock"):  # that images are cached with
            raise ImportError(f"{name}: needs {error.name}; pip install 'three-factors[reproduce]'") from error
        raise


def __dir__() -> list[str]:
    return __all__


if __name__ == "datamodules":  # its short name, in a checkout: the same modules under both
    from runpy import run_path

    run_path(f"{__path__[0]}/../reproduce/_checkout.py")
    import_module("three_factors").alias(__name__, __path__[0])
elif "torch" in sys.modules:  # else `datamodules.batches` and `callbacks` do it
    import_module(".safe_globals", __name__)
