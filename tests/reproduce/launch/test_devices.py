"""GPUs are used if there are any and torch can; what cannot be used is said."""

from types import SimpleNamespace

import pytest

from three_factors.reproduce.engine.launch import devices
from three_factors.reproduce.engine.options import InputError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "_gpus", lambda: [("A100", 40 * 2**30), ("A100", 40 * 2**30)])


def torch_that_says(line, tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text(f"__version__ = '2.15'\n{line}\n")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: found)


def test_a_gpu_is_used_by_a_torch_with_cuda(two_gpus, tmp_path, monkeypatch):
    torch_that_says("cuda: Optional[str] = '13.2'", tmp_path, monkeypatch)
    hardware = devices.detect()
    assert (hardware.accelerator, hardware.describe(), hardware.large) == ("cuda", "2 x A100", True)
    with pytest.raises(InputError, match="--devices: 3 asked for, here is 2 x A100"):
        devices.check(3, hardware)


def test_a_torch_without_cuda_trains_on_the_cores_and_says_so(two_gpus, tmp_path, monkeypatch):
    torch_that_says("cuda: Optional[str] = None", tmp_path, monkeypatch)
    hardware = devices.detect()
    assert (hardware.accelerator, hardware.large) == ("cpu", False)
    assert "2 x A100 unused, because this torch was built without CUDA" in hardware.describe()


def test_the_installed_torch_is_read_right():
    import torch

    assert devices._torch_has_cuda() == (torch.version.cuda is not None)
