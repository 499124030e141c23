"""The paper's networks as LightningModules. Importing the package imports no torch; the names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "GaussianOfItsShape": ".noise_injection",
    "HalfBatch": ".noise_injection",
    "Isotropic": ".noise_injection",
    "Projected": ".noise_injection",
    "Renewed": ".noise_injection",
    "MLP": ".mlp",
    "MLPNet": ".mlp",
    "ResNet56": ".resnet",
    "ResNet56Net": ".resnet",
    "SGDClassifier": ".classifier",
    "VGG11": ".vgg",
    "VGG11Net": ".vgg",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from three_factors.lightning_modules.classifier import SGDClassifier
    from three_factors.lightning_modules.mlp import MLP, MLPNet
    from three_factors.lightning_modules.noise_injection import (
        GaussianOfItsShape,
        HalfBatch,
        Isotropic,
        Projected,
        Renewed,
    )
    from three_factors.lightning_modules.resnet import ResNet56, ResNet56Net
    from three_factors.lightning_modules.vgg import VGG11, VGG11Net


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return __all__


if __name__ == "lightning_modules":  # its short name, in a checkout: the same modules under both
    from runpy import run_path

    run_path(f"{__path__[0]}/../reproduce/_checkout.py")
    import_module("three_factors").alias(__name__, __path__[0])
