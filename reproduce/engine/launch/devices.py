"""What there is to train on, asked without torch: the figure's process must stay light."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from three_factors.reproduce.engine.launch import sharing
from three_factors.reproduce.engine.options import InputError

# What tells libraries to choose other kernels.
KERNELS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
LARGE = 39 * 2**30  # bytes: an A100 of 40 GB says a little less than that
OF_A_RUN = 9 * 2**30  # bytes of a GPU at most: CUDA's own, a graph of each batch size, measurements in batches
MOST_LANES = 8  # runs on one GPU: more of them are no faster


@dataclass(frozen=True)
class Hardware:
    """Describes what there is to train on.

    Attributes:
        accelerator: "cuda" or "cpu".
        count: the number of GPUs, or of CPU cores.
        note: says what is unused.
        memory: of a GPU, in bytes; 0 where it is not known.
        free: the least that nobody uses of any GPU, in bytes; None where it is not asked for: then all of `memory`.
    """

    accelerator: str
    count: int
    name: str
    note: str = ""
    memory: int = 0
    free: int | None = None

    @property
    def large(self) -> bool:
        """Tells whether it is a GPU that scale gpu is made for."""
        return self.accelerator == "cuda" and self.memory >= LARGE

    @property
    def lanes(self) -> int:
        """Returns how many runs compute at the same time on a GPU, as far as its free memory goes; 1 without MPS."""
        if self.accelerator != "cuda" or not sharing.possible():
            return 1
        free = self.memory if self.free is None else self.free
        return max(1, min(MOST_LANES, free // OF_A_RUN))

    @property
    def arithmetic(self) -> str:
        """Names what of it may change the bits of a result: libraries choose kernels by a processor's vector units."""
        if self.accelerator == "cuda":
            return self.name
        asked = [f"{name}={os.environ[name]}" for name in KERNELS if os.environ.get(name)]
        return " ".join([self.name, *_vector_units(), *asked])

    def describe(self) -> str:
        if self.name.startswith("SLURM"):
            return f"{self.name}{', GPUs' if self.accelerator == 'cuda' else ''}"
        if self.accelerator == "cuda":
            return f"{self.count} x {self.name}"
        return f"{self.count} CPU cores ({self.name}){self.note}"


def detect() -> Hardware:
    gpus, note = _gpus(), ""
    if gpus and _torch_has_cuda():
        first, free = gpus[0], min(gpu.free for gpu in gpus)
        return Hardware("cuda", len(gpus), first.name, memory=first.memory, free=free)
    if gpus:
        note = f"; {len(gpus)} x {gpus[0].name} unused, because this torch was built without CUDA"
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


class Gpu(NamedTuple):
    """A visible GPU: its memory and what nobody uses of it, in bytes; 0 where they are not known, as of a MIG slice."""

    name: str
    memory: int = 0
    free: int = 0


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def _gpus() -> list[Gpu]:
    """Returns the visible GPUs, by NVML, which starts no CUDA context."""
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
        there = list[Gpu]()
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                there.append(_gpu(nvml, handle))
    finally:
        nvml.nvmlShutdown()
    if visible is None:
        return there
    asked = [part.strip() for part in visible.split(",")]
    if all(part.isdigit() for part in asked):
        return [there[int(part)] for part in asked if int(part) < len(there)]
    # By UUID: on one machine they are of one kind, as a rule, and any of them may be in use.
    free = min((gpu.free for gpu in there), default=0)
    return [
        Gpu(gpu.name) if part.startswith(sharing.SLICE) else gpu._replace(free=free) for part, gpu in zip(asked, there)
    ]


def _gpu(nvml: Any, handle: ctypes.c_void_p) -> Gpu:
    """Returns a GPU as NVML knows it. Where it is sliced its memory is not that of what a run gets."""
    text, memory = ctypes.create_string_buffer(96), _Memory()
    nvml.nvmlDeviceGetName(handle, text, 96)
    name, sliced, pending = text.value.decode(), ctypes.c_uint(), ctypes.c_uint()
    mode = getattr(nvml, "nvmlDeviceGetMigMode", None)  # older drivers have none
    if mode is not None and mode(handle, ctypes.byref(sliced), ctypes.byref(pending)) == 0 and sliced.value:
        return Gpu(name)
    if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
        return Gpu(name)
    return Gpu(name, memory.total, memory.free)


def _vector_units() -> list[str]:
    """Returns those that the processor has, where the system tells it."""
    return sorted({flag for flag in _of_cpu("flags").split() if flag.startswith(("avx", "amx", "fma"))})


def _of_cpu(field: str) -> str:
    """Returns a field of Linux's description of the first core; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _cpu_name() -> str:
    return _of_cpu("model name") or platform.processor() or platform.machine()
