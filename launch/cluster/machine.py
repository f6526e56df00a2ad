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

    cluster: Literal["slurm", "local"]
    why: str


THIS_MACHINE = "this machine"


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
    if asked == "local":
        return Choice("local", "")
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
