"""Steps of a training as CUDA graphs: the GPU repeats what it has once been told, and waits for no host."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

TRIALS = 3  # steps before a capture: libraries choose their kernels, and take their memory, in the first ones
AT_ONCE = 8  # steps of one graph: its launch costs as much as a small step
MOST_SIZES = 8  # graphs of one training: each holds the memory of a step


def record(step: Callable[[int], None], size: int, count: int, pool: Any) -> Any:
    """Returns a graph of so many steps, none of which it makes. It lives on the current device."""
    graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()  # an earlier training's graph that is collected now would spoil this one
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            for _ in range(count):
                step(size)
    finally:
        if collects:
            gc.enable()
    return graph


@lru_cache(1)
def _stream() -> torch.cuda.Stream:
    """Returns the stream of all trials: each has memory of its own."""
    return torch.cuda.Stream()


def aside(work: Callable[[], None]) -> None:
    """Runs on another stream than captures do, where their trials belong."""
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def each_once() -> Iterator[None]:
    """Says that indices are all different, so that the order of writing cannot matter: no sorting is needed then."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Repeated:
    """A step that is made many times: on a GPU as graphs, one of each batch size, elsewhere by the host.

    A graph reads and writes memory where it was when it was captured. So a step must take all that changes from
    tensors that stay where they are, and whoever moves one calls `forget`.

    Args:
        step: step(S) makes the next step, whichever that is, without waiting for the GPU.
        written: the tensors that it writes to. Trials are undone in them: a training of graphs has the bits of one
            that the host makes.
        graphs: whether there are any.
        say: is told, once, where the host makes the steps after all.
    """

    def __init__(
        self,
        step: Callable[[int], None],
        written: Callable[[], Iterable[Tensor]],
        *,
        graphs: bool,
        say: Callable[[str], None] = print,
    ) -> None:
        self.step, self.written, self.graphs, self.say = step, written, graphs, say
        self._held: dict[tuple[int, int], Any] = {}
        self._pool: Any = None

    def forget(self) -> None:
        """Gives up what was captured: a tensor has moved."""
        self._held.clear()
        self._pool = None

    def plan(self, sizes: Sequence[int]) -> None:
        """Looks at the batch sizes of an epoch: too many of them, as where S changes at every step, are the host's.

        Those that are held from earlier epochs count: where S changes with every epoch, graphs would gather.
        """
        known = len(set(sizes) | {size for size, _ in self._held})
        if self.graphs and known > MOST_SIZES:
            self.graphs = False
            self.forget()
            self.say(f"no CUDA graphs: {known} batch sizes by now, more than {MOST_SIZES}; slower, and the same")

    def run(self, sizes: Sequence[int]) -> None:
        """Makes the next steps, of these batch sizes."""
        for size, group in groupby(sizes):
            count = len(list(group))
            if not self.graphs:
                for _ in range(count):
                    self.step(size)
                continue
            while count:
                taken = AT_ONCE if count >= AT_ONCE else 1
                self._graph(size, taken).replay()
                count -= taken

    def _graph(self, size: int, count: int) -> Any:
        if (size, count) not in self._held:
            if not any(known == size for known, _ in self._held):
                self._try(size)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._held[size, count] = record(self.step, size, count, self._pool)
        return self._held[size, count]

    def _try(self, size: int) -> None:
        """Makes trials, each from where the training is, and leaves it there."""
        before = [tensor.detach().clone() for tensor in self.written()]

        def trials() -> None:
            for _ in range(TRIALS):
                self.step(size)
                with torch.no_grad():
                    for tensor, held in zip(self.written(), before, strict=True):
                        tensor.copy_(held)

        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            aside(trials)
