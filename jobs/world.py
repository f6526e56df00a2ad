"""
From the scheduler's environment to ranks that can talk to each other.

    world = read_world()
    with process_group(world) as device:
        ...

One process is one rank, started by the scheduler; nothing stands between it and us.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import submitit
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from instruct_core import ranks
from instruct_core.errors import ConfigError
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.plain_file import text_of
from jobs.environment import number_in
from jobs.job_folder import replace_json, store_may_be_away, this_start
from jobs.open_files import allow_open_files

POLL_SECONDS = 0.05
LOOKS_PER_SECOND = 1000.0  # at the meeting's folder, of all ranks together
LOOPBACK = ("127.0.0.1", "::1")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
RETURNED_BYTES = 1 << 20  # and more at a time, where freed memory is not kept


class World(NamedTuple):
    """This process among the others of its job."""

    rank: int
    world_size: int
    local_rank: int
    num_nodes: int
    job_id: str
    peer: str  # name of another node of the job; "" where there is only one


def read_world() -> World:
    """Return this process's place, from the variables that submitit's executor reads."""
    # The job's own count has nodes that no rank runs on, where it has some to spare.
    for name in ("NODELIST", "NUM_NODES"):
        if step := os.environ.get(f"SLURM_STEP_{name}"):
            os.environ[f"SLURM_JOB_{name}"] = step
    env = submitit.JobEnvironment()
    others = [name for name in env.hostnames if name != env.hostnames[env.node]]
    return World(
        env.global_rank,
        env.num_tasks,
        env.local_rank,
        env.num_nodes,
        env.job_id,
        "".join(others[:1]),
    )


@contextmanager
def process_group(
    world: World, needs_gpu: bool = False, in_parts: bool = False
) -> Iterator[torch.device]:
    """
    Join the ranks, and yield the device of this one: its GPU, or the CPU where there is none.

    Args:
        world: This rank's place.
        needs_gpu: The launcher saw GPUs, and chose the settings for them.
        in_parts: The model is shared out over the ranks to spare memory.

    Raises:
        ConfigError: Torch finds no GPU on a machine where the launcher did.
        RuntimeError: Torch finds no GPU on a node of Slurm's that should have some.
    """
    device = _own_device(world, needs_gpu)
    if device.type == "cpu":
        share_cores(-(-world.world_size // world.num_nodes))
        if in_parts:
            return_freed_memory()
        else:
            keep_freed_memory()
    if world.world_size > 1:
        # NCCL's own watch over its threads takes them for stuck when the job was suspended.
        seconds = f"{ranks.TIMEOUT.total_seconds():.0f}"
        os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", seconds)
        # Two ranks connect when they first have something to say; else all do, once for each group.
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
        allow_open_files(world.world_size)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=_meet(world),
            rank=world.rank,
            world_size=world.world_size,
            timeout=ranks.TIMEOUT,
        )
        ranks.barrier()  # nobody goes on before all are there
    yield device
    # Not after an exception: to take leave of peers that hang would hang too.
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_device(world: World, needs_gpu: bool) -> torch.device:
    if torch.cuda.is_available():
        # Some clusters show every task all GPUs of the node, others only its own.
        count = torch.cuda.device_count()
        device = torch.device("cuda", 0 if count == 1 else world.local_rank)
        torch.cuda.set_device(device)
        return device
    # Better an end than days on a CPU.
    if "SLURM_JOB_ID" in os.environ:
        # A cluster may play GPUs that no node has, as that of the tests does.
        if (needs_gpu or "SLURM_GPUS_ON_NODE" in os.environ) and _has_nvidia_card():
            # A crash that is counted, and the node excluded.
            raise RuntimeError(
                f"Slurm gave this job GPUs on {socket.gethostname()}, and torch {torch.__version__} "
                f"finds none there. {_cause_of_no_gpu()}"
            )
    elif needs_gpu:
        raise ConfigError(
            f"This machine has GPUs, and torch {torch.__version__} finds none. {_cause_of_no_gpu()} "
            "To train on the CPU: CUDA_VISIBLE_DEVICES= before the command."
        )
    return torch.device("cpu")


def _cause_of_no_gpu() -> str:
    if torch.version.cuda is None:
        return "It is a build for CPUs: install one for CUDA."
    return (
        f"It wants a driver for CUDA {torch.version.cuda} (nvidia-smi shows the driver's): update the "
        "driver, or install a torch for an older CUDA."
    )


def _has_nvidia_card() -> bool:
    """Return True if a GPU sits in this machine, whether or not its driver works."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(_reads(path) == "0x10de" for path in vendors)


def _reads(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # it was taken out meanwhile, or a container does not show it
        return ""


def _meet(world: World) -> Store:
    """
    Return the store through which the ranks find each other.

    Rank 0 takes any free port and writes address and port into a folder that all nodes share: a port
    agreed on beforehand may be taken by another job of the node. The file is of this start alone, so
    nobody meets the ranks of an earlier one, and nothing else is in the folder: all ranks list it.
    """
    folder = Path(os.environ["SUBMITIT_FOLDER"], "rendezvous")
    with store_may_be_away():
        on_a_disk(folder, lambda: folder.mkdir(exist_ok=True))
    path = folder / f"{this_start()}-{world.job_id}.json"
    if world.rank == 0:
        address = _own_address(world.peer)
        _use_interface_of(address)
        store = TCPStore(address, 0, world.world_size, True, ranks.TIMEOUT, wait_for_workers=False)
        meeting = {"address": address, "port": store.port}
        with store_may_be_away():
            on_a_disk(path, lambda: replace_json(path, meeting))
        return store
    # The guard ends a rank that waits in vain; it forgives time in which the job was suspended.
    # Listing the folder makes NFS look again; a name that was not there is remembered otherwise.
    with store_may_be_away():
        while path.name not in on_a_disk(folder, lambda: os.listdir(folder)):  # noqa: PTH208  names only
            time.sleep(max(POLL_SECONDS, world.world_size / LOOKS_PER_SECOND))
        meeting = json.loads(on_a_disk(path, lambda: text_of(path)))
    _use_interface_of(_address_towards(meeting["address"]))
    return TCPStore(meeting["address"], meeting["port"], world.world_size, False, ranks.TIMEOUT)


def _own_address(peer: str) -> str:
    """Return where the other ranks reach this one."""
    if not peer:
        return "127.0.0.1"
    try:
        return _address_towards(peer)
    except OSError:  # node names that only Slurm can resolve
        return os.environ["SLURM_LAUNCH_NODE_IPADDR"]  # rank 0 is on the node that launches


def _address_towards(host: str) -> str:
    """Return the address that this machine has on the way to another; nothing is sent."""
    found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    problem = OSError(f"no way to {host}")
    for family, kind, _, _, place in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        with socket.socket(family, kind) as probe:
            try:
                probe.connect(place)
            except OSError as error:  # a node may have a name in a network that leads nowhere
                problem = error
            else:
                return str(probe.getsockname()[0])
    raise problem


def _use_interface_of(address: str) -> None:
    """Have gloo and NCCL use the interface with this address: a host's name may stand for another."""
    found = psutil.net_if_addrs()
    for interface, places in sorted(found.items()):
        if any(place.address.partition("%")[0] == address for place in places):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            if address not in LOOPBACK:
                os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    for interface in os.environ.get("GLOO_SOCKET_IFNAME", "").split(","):
        if interface and interface not in found:
            problem = (
                f"GLOO_SOCKET_IFNAME names the interface {interface}, which {socket.gethostname()} does "
                f"not have: there are {', '.join(sorted(found))}. Unset it, or name one of these."
            )
            # A node may have lost it, and another have it: a crash that is counted, the node excluded.
            raise RuntimeError(problem) if "SLURM_JOB_ID" in os.environ else ConfigError(problem)


def share_cores(processes_here: int) -> None:
    """Give each process of this node its share of the cores; the same share after every resume."""
    share = max(1, len(os.sched_getaffinity(0)) // processes_here)
    # On Slurm the affinity may be this task's own already; a person's word counts most.
    share = number_in("SLURM_CPUS_PER_TASK", share)
    torch.set_num_threads(max(1, number_in("OMP_NUM_THREADS", share)))


def keep_freed_memory() -> None:
    """
    Keep glibc from returning large buffers to the system after every use.

    A step on a CPU frees and takes hundreds of megabytes of logits; mapped anew each time, their
    pages are zeroed anew each time. See "malloc" in docs/performance.md. Source: mallopt(3).
    """
    _keep_up_to(2**31 - 1)


def return_freed_memory() -> None:
    """
    Have glibc return large buffers to the system after every use.

    Layers of a model in parts come and go, and what they leave is room for nothing else.
    """
    _keep_up_to(RETURNED_BYTES)


def _keep_up_to(num_bytes: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(M_MMAP_THRESHOLD, num_bytes)
        libc.mallopt(M_TRIM_THRESHOLD, num_bytes)
