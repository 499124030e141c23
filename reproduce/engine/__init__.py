"""What figure scripts stand on: definitions, `main`, statements, and the modules that judge and draw.

    from three_factors.reproduce.engine import Figure, claims, main, plots, seedwise

The modules load when something in them is first used, so that a script prints its first line at once.
"""

import sys
from importlib import import_module
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from three_factors.reproduce.engine.surroundings import usable_backend

if TYPE_CHECKING:
    from three_factors.reproduce.engine.contract.names import register as register
    from three_factors.reproduce.engine.contract.networks import MLPNetwork as MLPNetwork
    from three_factors.reproduce.engine.contract.networks import ResNet56Network as ResNet56Network
    from three_factors.reproduce.engine.contract.networks import VGG11Network as VGG11Network
    from three_factors.reproduce.engine.contract.spec import RunSpec as RunSpec
    from three_factors.reproduce.engine.definition import Figure as Figure
    from three_factors.reproduce.engine.definition import Theory as Theory
    from three_factors.reproduce.engine.experiment import Arm as Arm
    from three_factors.reproduce.engine.experiment import Experiment as Experiment
    from three_factors.reproduce.engine.experiment import Setting as Setting
    from three_factors.reproduce.engine.figure import main as main
    from three_factors.reproduce.engine.judge import chainwise as chainwise
    from three_factors.reproduce.engine.judge import claims as claims
    from three_factors.reproduce.engine.judge import estimates as estimates
    from three_factors.reproduce.engine.judge import seedwise as seedwise
    from three_factors.reproduce.engine.judge import statistics as statistics
    from three_factors.reproduce.engine.judge.chains import Chains as Chains
    from three_factors.reproduce.engine.judge.table import Evidence as Evidence
    from three_factors.reproduce.engine.judge.table import SyntheticTable as SyntheticTable
    from three_factors.reproduce.engine.judge.table import Table as Table
    from three_factors.reproduce.engine.publish import plots as plots

usable_backend()  # before anything imports matplotlib, in every process

_OBJECTS = {
    "Arm": "experiment",
    "Chains": "judge.chains",
    "Evidence": "judge.table",
    "Experiment": "experiment",
    "Figure": "definition",
    "MLPNetwork": "contract.networks",
    "ResNet56Network": "contract.networks",
    "RunSpec": "contract.spec",
    "Setting": "experiment",
    "SyntheticTable": "judge.table",
    "Table": "judge.table",
    "Theory": "definition",
    "VGG11Network": "contract.networks",
    "main": "figure",
    "register": "contract.names",
}
_MODULES = {
    "chainwise": "judge.chainwise",
    "claims": "judge.claims",
    "estimates": "judge.estimates",
    "plots": "publish.plots",
    "seedwise": "judge.seedwise",
    "statistics": "judge.statistics",
}


def __getattr__(name: str) -> Any:
    if name in _OBJECTS:
        return getattr(import_module(f"{__name__}.{_OBJECTS[name]}"), name)
    if name in _MODULES:
        return _lazy(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _lazy(name: str) -> ModuleType:
    """Returns a module that loads when an attribute of it is first read."""
    if name not in sys.modules:
        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = LazyLoader(spec.loader)
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        package, _, own = name.rpartition(".")
        setattr(sys.modules[package], own, module)
    return sys.modules[name]
