"""The classes that files may name, under names that outlive a move.

A stored class keeps the name of its first home, whatever module it stands in now. What a file names is looked up here:
a file cannot make us import anything, a call can (`register`).
"""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module
from typing import TypeVar

Kind = TypeVar("Kind", bound=type)

# first home: {where they stand now: classes}
HOMES: dict[str, dict[str, tuple[str, ...]]] = {
    "datamodules.label_noise": {"three_factors.datamodules.label_noise": ("LabelNoise",)},
    "datamodules.schedules": {
        "three_factors.datamodules.schedules.composed": ("Chain", "Inverse", "Ratio"),
        "three_factors.datamodules.schedules.noise": ("NoiseSchedule",),
        "three_factors.datamodules.schedules.shapes": (
            "Constant",
            "Cosine",
            "Cyclic",
            "Exponential",
            "OneCycle",
            "Polynomial",
            "StepEvery",
            "Steps",
            "Triangle",
            "WarmRestarts",
        ),
    },
    "reproduce.engine.contract.packs": {"three_factors.reproduce.engine.contract.packs": ("Pack",)},
    "reproduce.engine.spec": {
        "three_factors.reproduce.engine.contract.networks": ("MLPNetwork", "ResNet56Network", "VGG11Network"),
        "three_factors.reproduce.engine.contract.noise": ("GaussianNoise", "HalfBatchNoise", "Renewal"),
        "three_factors.reproduce.engine.contract.measurements": (
            "Curvature",
            "Measurement",
            "NoiseMeasurement",
            "Watch",
        ),
        "three_factors.reproduce.engine.contract.spec": ("Data", "Evaluations", "Keep", "PathSpec", "RunSpec"),
    },
    "reproduce.theory.classifier": {"three_factors.reproduce.theory.classifier": ("SoftmaxRegression",)},
    "reproduce.theory.potentials": {
        "three_factors.reproduce.theory.potentials": ("DoubleWell", "Quadratic", "Quartic")
    },
    "reproduce.theory.simulate": {
        "three_factors.reproduce.theory.simulation": ("Examples", "Gaussian", "Isotropic", "Minibatches", "Simulation")
    },
}
_OURS = {
    f"{first}:{name}": (now, name) for first, homes in HOMES.items() for now, names in homes.items() for name in names
}
_NAMES = {place: name for name, place in _OURS.items()}
_REGISTERED: dict[str, type] = {}


def register(kind: Kind) -> Kind:
    """Lets a spec hold this frozen dataclass, a schedule of your own say; use it as a decorator.

    Its module is imported by the runs' own processes, under the name that it has here.

    Raises:
        ValueError: it is no dataclass at the top of a module that can be imported, or has the name of one of ours.
    """
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not is_dataclass(kind) or "." in kind.__qualname__:
        raise ValueError(f"register: {kind.__qualname__} is no dataclass at the top of a module")
    if kind.__module__ == "__main__":
        raise ValueError(f"register: {kind.__qualname__} stands in the script itself; put it in a module beside it")
    if name in _OURS:
        raise ValueError(f"register: {name} is one of ours")
    _REGISTERED[name] = kind
    return kind


def registered_modules() -> list[str]:
    """Returns the modules whose classes this call has registered, for the processes of its runs to import."""
    return sorted({kind.__module__ for kind in _REGISTERED.values()})


def name_of(kind: type) -> str:
    """Returns the name under which a class is stored. Raises ValueError if it has none."""
    name = _NAMES.get((kind.__module__, kind.__qualname__), f"{kind.__module__}:{kind.__qualname__}")
    if name not in _OURS and _REGISTERED.get(name) is not kind:
        raise ValueError(f"{kind.__qualname__}: cannot be stored in a spec unless it is registered (`register`)")
    return name


def class_of(name: object) -> type:
    """Returns the class of a stored name. Raises ValueError if there is none of it."""
    if name in _REGISTERED:
        return _REGISTERED[str(name)]
    if name not in _OURS:
        raise ValueError(f"spec: {name!r} is none of the classes that are stored, nor registered by this call")
    module, own = _OURS[str(name)]
    found: type = getattr(import_module(module), own)
    return found
