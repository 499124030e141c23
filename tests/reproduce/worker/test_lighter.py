"""What a worker does not load of torchmetrics, and that nobody else misses it."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

LOADED = """
import sys
from three_factors.reproduce.engine.worker import process

for name in ("scipy.signal", "matplotlib"):
    assert name not in sys.modules, name

import torch
from lightning_utilities.core.imports import RequirementCache, package_available
from torchmetrics.classification import MulticlassAccuracy

assert RequirementCache("scipy") and RequirementCache("matplotlib") and package_available("scipy")
assert not RequirementCache("nowhere") and not package_available("nowhere")
assert MulticlassAccuracy(2, average="micro")(torch.tensor([0, 1]), torch.tensor([1, 1])).item() == 0.5
"""


@pytest.mark.slow
def test_a_worker_loads_neither_sound_nor_plots_and_finds_both_packages_as_they_are():
    made = [sys.executable, "-W", "ignore", "-c", LOADED]
    ended = subprocess.run(made, cwd=ROOT / "reproduce" / "_name", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
