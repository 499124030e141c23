"""Callbacks for any Lightning project. Importing the package imports no torch; the names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ExactResume": ".exact_resume",
    "GradientNoiseMonitor": ".gradient_noise",
    "HessianMonitor": ".hessian",
    "InterpolationMonitor": ".interpolation",
    "KeepWeights": ".milestones",
    "NoiseOnPlateau": ".plateau",
    "NoiseScheduler": ".noise_schedule",
    "ProgressFile": ".progress",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from three_factors.callbacks.exact_resume import ExactResume
    from three_factors.callbacks.gradient_noise import GradientNoiseMonitor
    from three_factors.callbacks.hessian import HessianMonitor
    from three_factors.callbacks.interpolation import InterpolationMonitor
    from three_factors.callbacks.milestones import KeepWeights
    from three_factors.callbacks.noise_schedule import NoiseScheduler
    from three_factors.callbacks.plateau import NoiseOnPlateau
    from three_factors.callbacks.progress import ProgressFile


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return __all__


if __name__ == "callbacks":  # its short name, in a checkout: the same modules under both
    from runpy import run_path

    run_path(f"{__path__[0]}/../reproduce/_checkout.py")
    import_module("three_factors").alias(__name__, __path__[0])
