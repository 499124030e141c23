"""The paper's networks as LightningModules. Importing the package imports no torch; the names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "GaussianOfItsShape": "lightning_modules.gradient_noise",
    "HalfBatch": "lightning_modules.gradient_noise",
    "Isotropic": "lightning_modules.gradient_noise",
    "MLP": "lightning_modules.mlp",
    "MLPNet": "lightning_modules.mlp",
    "ResNet56": "lightning_modules.resnet",
    "ResNet56Net": "lightning_modules.resnet",
    "SGDClassifier": "lightning_modules.classifier",
    "VGG11": "lightning_modules.vgg",
    "VGG11Net": "lightning_modules.vgg",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from lightning_modules.classifier import SGDClassifier
    from lightning_modules.gradient_noise import GaussianOfItsShape, HalfBatch, Isotropic
    from lightning_modules.mlp import MLP, MLPNet
    from lightning_modules.resnet import ResNet56, ResNet56Net
    from lightning_modules.vgg import VGG11, VGG11Net


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
