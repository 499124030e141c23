"""What all tests share: a data cache of their own, a W&B that cannot reach out, fast tests first."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "reproduce" / "_name"))  # `three_factors` is this checkout, whatever is installed
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:1], *filter(None, [os.environ.get("PYTHONPATH")])])
# The networks of the tests are too small for two threads, which wait for each other where other work runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
LAST = ("slow", "ddp", "slurm")
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often the soak tests kill a run")
    parser.addoption("--matrix", action="store_true", help="every architecture under every monitor and condition")
    parser.addoption("--matrix-table", help="the file for the table of the matrix's outcomes, Markdown")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        if "PYTEST_XDIST_WORKER" in os.environ and item.get_closest_marker("slurm"):
            return -1  # it is waiting for the most part, and nobody should wait for it alone
        return int(any(item.get_closest_marker(name) for name in LAST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data of the tests go to a folder of their own, which subprocesses, and pytest's others, share."""
    base = tmp_path_factory.getbasetemp()
    os.environ["THREE_FACTORS_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
    os.environ.pop("WANDB_API_KEY", None)
    os.environ["WANDB_MODE"] = "offline"
