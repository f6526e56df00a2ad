"""
What this machine has, and whether jobs run here or on Slurm.

    machine = this_machine()
    cluster, why = choose_cluster("auto")
"""

from __future__ import annotations

import os
import shutil
from typing import Literal, NamedTuple

import psutil

from instruct_core.errors import ConfigError, SlurmError
from jobs.slurm import run_client
from launch.flags.parse import Cluster


class Machine(NamedTuple):
    """What one node gives a run."""

    num_gpus: int
    num_cores: int
    memory_bytes: int
    name: str  # for messages
    remedy: str = "fewer --gpus or a smaller --model"  # where memory does not suffice


class Choice(NamedTuple):
    """Where jobs run, and why it is here where nobody typed that; "" if somebody did."""

    cluster: Literal["slurm", "local", "debug"]
    why: str


THIS_MACHINE = "this machine"
# Read when torch is loaded. Threads that spin for long while they wait for each other keep the very
# thread they wait for from a core that others use too. This many turns are some 0.2 ms; the default
# is 60 times as many. See bench/busy_cores.py; libgomp's manual.
THREADS = {"GOMP_SPINCOUNT": "5000"}


def this_machine() -> Machine:
    """Return what this machine gives."""
    free = psutil.virtual_memory().available
    return Machine(num_gpus(), num_cores(), free, THIS_MACHINE)


def choose_cluster(asked: Cluster) -> Choice:
    """
    Return where jobs run.

    Raises:
        ConfigError: Slurm was typed and is not here.
    """
    if asked in ("local", "debug"):
        return Choice(asked, "")
    if shutil.which("sbatch") is None:
        if asked == "slurm":
            raise ConfigError("--cluster slurm needs sbatch on PATH, and there is none. Log in to a "
                              "node of the cluster, or use --cluster local.")  # fmt: skip
        return Choice("local", "no sbatch here")
    try:
        run_client(["sinfo", "-h", "-o", "%P"])
    except SlurmError as error:
        if asked == "slurm":
            raise ConfigError(f"--cluster slurm cannot be used: {error}") from None
        return Choice("local", f"Slurm is installed and does not answer: {error}")
    return Choice("slurm", "")


def num_gpus() -> int:
    """Return how many NVIDIA GPUs a job here would see; asks the driver, not torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = [name for name in (visible or "").split(",") if name.strip() not in ("", "-1")]
    return count if visible is None else min(count, len(listed))


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def let_threads_sleep() -> None:
    """Have torch's threads in this process sleep soon, unless the person has said otherwise."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
