"""torchmetrics without its metrics of sound and without its plots, for which it loads scipy.signal and Matplotlib.

Lightning imports all of torchmetrics, and torchmetrics all that it finds installed: a quarter of what a worker loads,
of which it uses nothing. No switch turns that off. Everything else in the process finds both packages as they are.
"""

import sys
from unittest.mock import patch

from lightning_utilities.core import imports

UNUSED = ("scipy", "matplotlib")


def import_torchmetrics() -> None:
    """Imports torchmetrics as if `UNUSED` were not installed; does nothing where it has been imported."""
    if "torchmetrics" in sys.modules:
        return
    check, available = imports.RequirementCache._check_available, imports.package_available

    def checked(requirement: imports.RequirementCache) -> None:
        if requirement.requirement in UNUSED:
            requirement.available, requirement.message = False, "not loaded in a worker"
        else:
            check(requirement)

    with (
        patch.object(imports, "package_available", lambda name: name not in UNUSED and available(name)),
        patch.object(imports.RequirementCache, "_check_available", checked),
    ):
        import torchmetrics  # noqa: F401
