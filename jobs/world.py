"""
From the scheduler's environment to ranks that can talk to each other.

    world = read_world()
    with process_group(world) as device:
        ...

One process is one rank, started by the scheduler; nothing stands between it and us.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import submitit
import torch
import torch.distributed as dist

RENDEZVOUS = "INSTRUCT_RENDEZVOUS"  # set by the controller: a file of its own for every start
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class World(NamedTuple):
    """This process among the others of its job."""

    rank: int
    world_size: int
    local_rank: int
    num_nodes: int
    job_id: str


def read_world() -> World:
    """Return this process's place, from the variables that submitit's executor reads."""
    env = submitit.JobEnvironment()
    return World(env.global_rank, env.num_tasks, env.local_rank, env.num_nodes, env.job_id)


@contextmanager
def process_group(world: World) -> Iterator[torch.device]:
    """Join the ranks, and yield the device of this one: its GPU, or the CPU where there is none."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    else:
        _share_cores(world)
        keep_freed_memory()
    if world.world_size > 1:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=torch._C._distributed_c10d.FileStore(os.environ[RENDEZVOUS], world.world_size),
            rank=world.rank,
            world_size=world.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    yield device
    # Not after an exception: to take leave of peers that hang would hang too.
    if dist.is_initialized():
        dist.destroy_process_group()


def _share_cores(world: World) -> None:
    """Give each rank of this node its share of the cores; the same share after every resume."""
    ranks_here = -(-world.world_size // world.num_nodes)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))


def keep_freed_memory() -> None:
    """
    Keep glibc from returning large buffers to the system after every use.

    A step on a CPU frees and takes hundreds of megabytes of logits; mapped anew each time, their
    pages are zeroed anew each time. See "malloc" in docs/performance.md. Source: mallopt(3).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
