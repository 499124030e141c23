"""Curvature and gradient noise as functions: torch, no Lightning. The names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Eigenvalues": "eigenvalues",
    "Estimate": "estimates",
    "FiniteDifference": "sharpness",
    "GGNOperator": "ggn",
    "GradientNoise": "noise",
    "HessianOperator": "hessian_operator",
    "Interpolation": "paths",
    "Lanczos": "lanczos",
    "LogDeterminant": "spectrum",
    "RescaledHessian": "sharpness",
    "SpectralDensity": "spectrum",
    "batch_sharpness": "sharpness",
    "finite_difference_norm": "sharpness",
    "frobenius_norm": "hutchinson",
    "gradient_noise": "noise",
    "interpolate": "paths",
    "log_determinant": "spectrum",
    "measuring": "state",
    "spectral_density": "spectrum",
    "stationarity": "fluctuation",
    "top_eigenvalues": "eigenvalues",
    "trace": "hutchinson",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from three_factors.callbacks.functional.eigenvalues import Eigenvalues, top_eigenvalues
    from three_factors.callbacks.functional.estimates import Estimate
    from three_factors.callbacks.functional.fluctuation import stationarity
    from three_factors.callbacks.functional.ggn import GGNOperator
    from three_factors.callbacks.functional.hessian_operator import HessianOperator
    from three_factors.callbacks.functional.hutchinson import frobenius_norm, trace
    from three_factors.callbacks.functional.lanczos import Lanczos
    from three_factors.callbacks.functional.noise import GradientNoise, gradient_noise
    from three_factors.callbacks.functional.paths import Interpolation, interpolate
    from three_factors.callbacks.functional.sharpness import (
        FiniteDifference,
        RescaledHessian,
        batch_sharpness,
        finite_difference_norm,
    )
    from three_factors.callbacks.functional.spectrum import (
        LogDeterminant,
        SpectralDensity,
        log_determinant,
        spectral_density,
    )
    from three_factors.callbacks.functional.state import measuring


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
