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
LONG = (  # of all files, as measured, the longest first: a quarter of an hour to two minutes each
    "reproduce/test_figures.py",
    "reproduce/launch/test_slurm.py",
    "reproduce/launch/test_kills.py",
    "reproduce/worker/test_pack.py",
    "reproduce/launch/test_runner.py",
    "callbacks/functional/test_estimators.py",
    "reproduce/launch/test_kills_of_ranks.py",
    "reproduce/worker/test_ddp.py",
    "reproduce/test_fig4.py",
    "callbacks/test_monitors.py",
    "reproduce/contract/test_archive.py",
    "reproduce/theory/test_scripts.py",
    "callbacks/functional/test_restarts.py",
    "reproduce/worker/test_exact_resume.py",
    "test_names.py",
)
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=20, help="how often the soak tests kill a run")
    parser.addoption("--matrix", action="store_true", help="every architecture under every monitor and condition")
    parser.addoption("--matrix-table", help="the file for the table of the matrix's outcomes, Markdown")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts fast tests first; on several processes, which take a file at a time, the files that take minutes.

    Nobody should wait for the last one's kills and queues.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        long = [ROOT / "tests" / name for name in LONG]
        gone = [str(path) for path in long if not path.is_file()]
        if gone:
            raise pytest.UsageError(f"conftest.LONG: {gone} are no files")
        items.sort(key=lambda item: long.index(item.path) if item.path in long else len(long))
        return
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in LAST))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data of the tests go to a folder of their own, which subprocesses, and pytest's others, share."""
    base = tmp_path_factory.getbasetemp()
    os.environ["THREE_FACTORS_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
    os.environ.pop("WANDB_API_KEY", None)
    os.environ["WANDB_MODE"] = "offline"
