"""Callbacks for any Lightning project. Importing the package imports no torch; the names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ExactResume": "callbacks.exact_resume",
    "GradientNoiseMonitor": "callbacks.gradient_noise",
    "HessianMonitor": "callbacks.hessian",
    "InterpolationMonitor": "callbacks.interpolation",
    "KeepWeights": "callbacks.milestones",
    "NoiseOnPlateau": "callbacks.plateau",
    "NoiseScheduler": "callbacks.noise_schedule",
    "ProgressFile": "callbacks.progress",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from callbacks.exact_resume import ExactResume
    from callbacks.gradient_noise import GradientNoiseMonitor
    from callbacks.hessian import HessianMonitor
    from callbacks.interpolation import InterpolationMonitor
    from callbacks.milestones import KeepWeights
    from callbacks.noise_schedule import NoiseScheduler
    from callbacks.plateau import NoiseOnPlateau
    from callbacks.progress import ProgressFile


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
