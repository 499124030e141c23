"""What decides which minimum SGD finds: our packages under a name that cannot collide with a stranger's own.

In a checkout they are four folders with common names at its top; installed from a wheel they lie in here.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_HERE = Path(__file__).resolve().parent
if not (_HERE / "reproduce").is_dir():  # a checkout: this is reproduce/_name/three_factors
    __path__ = [str(_HERE.parents[2])]


class _ShortNames(MetaPathFinder, Loader):
    """Finds `callbacks.x` as `three_factors.callbacks.x` where `callbacks` is ours: one module under both names."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        top, dot, _ = name.partition(".")
        ours = sys.modules.get(f"{__name__}.{top}")
        if not dot or ours is None or sys.modules.get(top) is not ours:
            return None
        return ModuleSpec(name, self, origin=self.get_filename(name))

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        name = module.__spec__.name
        sys.modules[name] = import_module(f"{__name__}.{name}")

    def get_code(self, name: str) -> CodeType | None:
        """Returns a module's code, for `python -m`."""
        spec = find_spec(f"{__name__}.{name}")
        loader: Any = spec and spec.loader
        return loader.get_code(f"{__name__}.{name}") if loader else None

    def get_filename(self, name: str) -> str | None:
        spec = find_spec(f"{__name__}.{name}")
        return spec.origin if spec else None


def alias(name: str, folder: str) -> None:
    """Makes a package that is being imported by its short name, from `folder`, the one of the canonical name."""
    if Path(folder).resolve().parent != Path(__path__[0]).resolve():
        raise ImportError(f"{name}: is imported from {folder}, but {__name__} from {__path__[0]}")
    if not any(isinstance(finder, _ShortNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ShortNames())
    sys.modules[name] = import_module(f"{__name__}.{name}")
