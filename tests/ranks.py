"""Runs a function of this test suite on k gloo ranks and returns what each rank returned.

The ranks are forked from the server that has torch and Lightning loaded: importing them takes a rank five seconds.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from three_factors.reproduce.engine.launch.server import Server


def _rank(rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: tuple, queue: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    store = dist.TCPStore("127.0.0.1", port, world_size, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    buffer = io.BytesIO()  # tensors as bytes: shared memory would go with the rank that made it
    torch.save(function(rank, world_size, *arguments), buffer)
    queue.put((rank, buffer.getvalue()))
    # Nobody leaves while another still talks to it, rank 0 with the store last.
    dist.barrier()
    store.set(f"done {rank}", "1")
    if rank == 0:
        store.wait([f"done {other}" for other in range(world_size)])
    dist.destroy_process_group()


def as_torchrun(rank: int, ranks: int) -> None:
    """Tells Lightning, in this process, that torchrun has started it as one of so many ranks of a machine."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
    }


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(rank, world_size, *arguments)` on every rank; it and its results must be picklable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("forkserver").SimpleQueue()
    with Server().running():
        context = mp.start_processes(
            _rank,
            args=(world_size, port, function, arguments, queue),
            nprocs=world_size,
            join=False,
            start_method="forkserver",
        )
    results: dict[int, Any] = {}
    while not context.join(timeout=0.05):
        while not queue.empty():
            rank, value = queue.get()
            results[rank] = value
    while not queue.empty():
        rank, value = queue.get()
        results[rank] = value
    return [torch.load(io.BytesIO(results[rank]), weights_only=False) for rank in range(world_size)]
