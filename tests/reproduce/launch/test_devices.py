"""GPUs are used if there are any and torch can; what cannot be used is said."""

from types import SimpleNamespace

import pytest

from three_factors.reproduce.engine.launch import devices
from three_factors.reproduce.engine.options import InputError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "_gpus", lambda: [devices.Gpu("A100", 40 * 2**30, 40 * 2**30)] * 2)


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


class Nvml:
    """NVML of two GPUs of 80 GB, of the second of which somebody uses 60."""

    def __init__(self, sliced):
        self.sliced = sliced

    def nvmlInit_v2(self):
        return 0

    nvmlShutdown = nvmlInit_v2

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 2

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetName(self, handle, text, length):
        text.value = b"A100"

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.total = 80 * 2**30
        memory._obj.free = (80 if handle.value == 1 else 20) * 2**30
        return 0

    def nvmlDeviceGetMigMode(self, handle, now, pending):
        now._obj.value = self.sliced
        return 0


@pytest.mark.parametrize(
    ("visible", "sliced", "count", "lanes", "large"),
    [
        ("0", 0, 1, 8, True),
        ("1", 0, 1, 2, True),
        (None, 0, 2, 2, True),
        ("GPU-0a1b", 0, 1, 2, True),
        ("MIG-0a1b", 1, 1, 1, False),
        ("0", 1, 1, 1, False),
    ],
)
def test_runs_share_a_gpu_as_far_as_its_free_memory_goes_and_a_slice_not_at_all(
    visible, sliced, count, lanes, large, tmp_path, monkeypatch
):
    torch_that_says("cuda: Optional[str] = '13.2'", tmp_path, monkeypatch)
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Nvml(sliced))
    monkeypatch.setattr(devices.sharing, "possible", lambda: True)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = devices.detect()
    assert (found.count, found.lanes, found.large) == (count, lanes, large)


def test_a_processor_is_told_from_one_of_its_name_with_other_vector_units(monkeypatch):
    there = {"model name": "AMD EPYC", "flags": "fpu sse2 avx2 fma avx512f"}
    monkeypatch.setattr(devices, "_of_cpu", there.get)
    first = devices.cpu().arithmetic
    assert first == devices.cpu().arithmetic
    there["flags"] = "fpu sse2 avx2 fma"
    second = devices.cpu().arithmetic
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert len({first, second, devices.cpu().arithmetic}) == 3
    there["flags"] = "fpu avx2 fma sse2 md_clear"  # what changes no bit
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert devices.cpu().arithmetic == second
    assert devices.Hardware("cuda", 1, "NVIDIA H100").arithmetic == "NVIDIA H100"
