"""
What one node gives a run, and what fits it.

    machine = this_machine()
    micro_batch_size = fit_cpu(flags, shape, machine)
"""

from __future__ import annotations

import os
import shutil
from typing import Literal, NamedTuple

import psutil

from instruct_core.config import ModelConfig
from instruct_core.errors import ConfigError, SlurmError
from jobs.slurm import run_client
from launch.console.lines import say
from launch.estimate import rank_bytes, step_seconds
from launch.flags.finetune import Finetune
from launch.flags.parse import Cluster

RECIPE_MICRO_BATCH_SIZE = 8


class Machine(NamedTuple):
    """What one node gives a run."""

    num_gpus: int
    num_cores: int
    memory_bytes: int
    name: str  # for messages
    remedy: str = "fewer --gpus or a smaller --model"  # where memory does not suffice


THIS_MACHINE = "this machine"


def this_machine() -> Machine:
    """Return what this machine gives."""
    free = psutil.virtual_memory().available
    return Machine(num_gpus(), num_cores(), free, THIS_MACHINE)


def fit_cpu(flags: Finetune, shape: ModelConfig, machine: Machine) -> int:
    """Return the micro-batch size for CPU ranks, and say what that means for such a machine."""
    cores, free, num_ranks = machine.num_cores, machine.memory_bytes, flags.nodes * flags.gpus
    staged = 1 / num_ranks if flags.async_save else 0.0

    def needed(micro_batch_size: int) -> int:
        return flags.gpus * rank_bytes(shape, micro_batch_size * flags.seq_len, staged)

    fitting = [
        size
        for size in (RECIPE_MICRO_BATCH_SIZE, 4, 2, 1)
        if needed(size) < free and flags.tokens_per_step % (num_ranks * size * flags.seq_len) == 0
    ]
    chosen = flags.micro_batch_size or (fitting[0] if fitting else 1)
    need = needed(chosen)
    if need > free:
        change = f"--micro-batch-size {fitting[0]}" if fitting else machine.remedy
        raise ConfigError(
            f"{flags.gpus} CPU ranks with --micro-batch-size {chosen} need about {need / 1e9:.0f} GB, "
            f"and {free / 1e9:.0f} GB are free on {machine.name}. Use {change}."
        )
    say(
        f"Ranks: no GPU on {machine.name}, so {num_ranks} CPU ranks run, {cores} cores a node (gloo)"
    )
    if flags.micro_batch_size is None and chosen != RECIPE_MICRO_BATCH_SIZE:
        say(
            f"Micro-batch: {chosen} sequences instead of {RECIPE_MICRO_BATCH_SIZE}, which fits "
            f"{machine.name}; a step still takes the same samples"
        )
    seconds = step_seconds(shape, flags.tokens_per_step)
    quick = "; for a quick look: make demo" if seconds > 10 else ""
    say(
        f"Estimate: a step of {flags.tokens_per_step:,} tokens takes about {_duration(seconds)}{quick}"
    )
    return chosen


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def choose_cluster(asked: Cluster) -> Literal["slurm", "local"]:
    """
    Return where jobs run, and say it in one line where it was not typed.

    Raises:
        ConfigError: Slurm was typed and is not here.
    """
    if asked == "local":
        return asked
    if shutil.which("sbatch") is None:
        if asked == "slurm":
            raise ConfigError("--cluster slurm needs sbatch on PATH, and there is none. Log in to a "
                              "node of the cluster, or use --cluster local.")  # fmt: skip
        say("Cluster: local executor (no sbatch on this machine)")
        return "local"
    try:
        run_client(["sinfo", "-h", "-o", "%P"])
    except SlurmError as error:
        if asked == "slurm":
            raise ConfigError(f"--cluster slurm cannot be used: {error}") from None
        say(f"Cluster: local executor (Slurm is installed and does not answer: {error})")
        return "local"
    return "slurm"


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
