"""Measurements that leave no trace: the state of module, random numbers and precision is as before, also on errors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from three_factors.callbacks.functional.attributes import attributes_kept
from three_factors.callbacks.functional.silence import logging_nothing


def plain(module: nn.Module) -> nn.Module:
    """Returns the module inside wrappers of torch.compile and DistributedDataParallel: what is measured."""
    while True:
        inner = getattr(module, "_orig_mod", None)  # torch.compile's OptimizedModule
        if inner is None and isinstance(module, nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def device_of(module: nn.Module) -> torch.device:
    """Returns where the module's first parameter or buffer lives; the CPU if it has none."""
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def measuring(module: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Makes second derivatives right and repeatable within it; afterwards everything is as it was.

    The module is in eval mode (`training=True`: in train mode, but for parts that the user keeps in eval mode while it
    trains), gradients are on, inference mode and autocast are off, float32 is full float32 (no TF32), compiled parts
    run eagerly and attention by its plain kernel (neither can be differentiated twice), nothing is logged, and random
    states (torch, numpy, Python, generators of the module's own) and the module's attributes are put back. Within
    another one of the same module it sets what may have changed there: modes, and torch's random state.
    """
    device = device_of(module)
    with ExitStack() as stack:
        if _measured.get() is not module:
            stack.enter_context(_settings(module, device))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(_modes(module, training))
        yield


_measured: ContextVar[nn.Module | None] = ContextVar("measured", default=None)


@contextmanager
def _settings(module: nn.Module, device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_full_float32())
        stack.callback(random.setstate, random.getstate())  # loaders and transforms draw from these two
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        if device.type == "cuda" and any(isinstance(part, nn.RNNBase) for part in module.modules()):
            # cuDNN's have no second derivative, and in eval mode not even a first.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(attributes_kept(module, whole=True))
        stack.enter_context(logging_nothing(module))
        token = _measured.set(module)
        stack.callback(_measured.reset, token)
        yield


@contextmanager
def _modes(module: nn.Module, training: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        if training and not module.training:
            module.train()
        elif not training:  # not by `module.eval()`: an override may do more (adapters merge their weights in it)
            for part, _ in modes:
                part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _full_float32() -> Iterator[None]:
    """Sets full float32 for each kind of operation: the global setting raises an error if a user has set these."""
    backends: Any = torch.backends  # its stubs lack what it makes by name
    kinds = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before):
            kind.fp32_precision = precision
