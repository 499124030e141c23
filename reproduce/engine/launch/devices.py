"""What there is to train on, asked without torch: the figure's process must stay light."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from three_factors.reproduce.engine.options import InputError


@dataclass(frozen=True)
class Hardware:
    """`accelerator` is "cuda" or "cpu"; `count` is the number of GPUs, or of CPU cores; `note` says what is unused."""

    accelerator: str
    count: int
    name: str
    note: str = ""

    def describe(self) -> str:
        if self.name.startswith("SLURM"):
            return f"{self.name}{', GPUs' if self.accelerator == 'cuda' else ''}"
        if self.accelerator == "cuda":
            return f"{self.count} x {self.name}"
        return f"{self.count} CPU cores ({self.name}){self.note}"


def detect() -> Hardware:
    gpus, note = _gpus(), ""
    if gpus and _torch_has_cuda():
        return Hardware("cuda", len(gpus), gpus[0])
    if gpus:
        note = f"; {len(gpus)} x {gpus[0]} unused, because this torch was built without CUDA"
    return cpu(note)


def cpu(note: str = "") -> Hardware:
    """Returns the CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware("cpu", cores, _cpu_name(), note)


def _torch_has_cuda() -> bool:
    """Tells it from the version file of the installed torch, which is not imported."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        return False
    text = (Path(found.submodule_search_locations[0]) / "version.py").read_text()
    return re.search(r"^cuda\b.*=\s*['\"]", text, re.MULTILINE) is not None


def of_slurm(gpus: bool, partition: str | None) -> Hardware:
    """Describes a cluster: what its nodes have is not known here; runs say it themselves."""
    where = f"SLURM, partition {partition or 'of its choice'}"
    return Hardware("cuda" if gpus else "cpu", 1, where)


def check(devices: int, hardware: Hardware) -> None:
    """Raises InputError if a run asks for more devices than there are (on CPU a device is a core)."""
    if devices > hardware.count:
        raise InputError(f"--devices: {devices} asked for, here is {hardware.describe()}")


def _gpus() -> list[str]:
    """Names of the visible GPUs by NVML, which starts no CUDA context."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        names = []
        for index in range(count.value):
            handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                nvml.nvmlDeviceGetName(handle, text, 96)
                names.append(text.value.decode())
    finally:
        nvml.nvmlShutdown()
    if visible is None:
        return names
    asked = [part.strip() for part in visible.split(",")]
    if all(part.isdigit() for part in asked):
        return [names[int(part)] for part in asked if int(part) < len(names)]
    return names[: len(asked)]  # by UUID: on one machine they are of one kind, as a rule


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
