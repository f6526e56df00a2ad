"""What can be typed after launch/drill.py, and which values make sense nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from instruct_core.errors import ConfigError
from instruct_core.recipe import RARE, Shard
from launch.flags.finetune import check_model, is_fork
from launch.flags.parse import check_counts
from launch.flags.slurm import GPUS, SlurmFlags, check_slurm_flags
from launch.flags.values import PATH

DEFAULT_FAULTS = "usr2@5,kill@11,term@17"


@dataclass(frozen=True)
class Drill:
    """
    Prove on this machine, or on your cluster, that an interrupted run ends like an undisturbed one.

    Trains a few steps twice, once undisturbed and once hit by faults, and compares weights,
    optimizer, random generators and the samples read, bit by bit. The exit code is 0 only when all
    are equal. It leaves nothing behind.
    """

    nodes: int = 1
    """Machines to train on; more than one needs Slurm."""
    gpus: Annotated[int, GPUS] = 2
    """Ranks per machine: one a GPU, or that many CPU ranks on a machine without GPUs."""
    faults: Annotated[str | None, tyro.conf.arg(metavar="KIND@STEP[,KIND@STEP]")] = None
    """What happens after which step, with commas: usr1, usr2 (a warning), term (a person's stop, and
    the same command again), kill (of one rank), save (the same, amid the files of a save), stop (one
    rank is suspended for some seconds), and on Slurm requeue (default: usr2@5,kill@11,term@17)."""
    random_faults: int | None = None
    """Draw so many faults instead."""
    seed: int = 0
    """Of the faults that are drawn."""
    steps: int = 30
    """Optimizer steps of each of the two runs."""
    shards: Annotated[str | None, PATH] = None
    """Path or URL of a shard set (default: 100 rows of builtin, made for the drill)."""
    init: Annotated[str | None, PATH] = None
    """Weights to start from, as for finetune.py (default: random)."""
    model: str | None = None
    """Model that random weights are drawn for (default: tiny)."""
    shard: Shard = "auto"
    """Share the model out over the ranks, as finetune.py's."""
    seq_len: Annotated[int, RARE] = 64
    """Tokens per packed sequence."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where the runs go (auto: Slurm where sbatch answers, else this machine)."""
    keep: bool = False
    """Leave both runs in their folder; they stay anyway when they are not equal."""
    json: bool = False
    """Print the result as JSON in the last line."""
    slurm: Annotated[SlurmFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=SlurmFlags)
    """What the jobs ask of Slurm."""


def check_drill_flags(flags: Drill) -> None:
    """
    Refuse values that make sense nowhere, before anything is read.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    check_slurm_flags(flags.slurm)
    check_model(flags.model)
    check_counts(flags, "nodes", "gpus", "random_faults")
    if flags.steps < 2:
        raise ConfigError(f"--steps must be at least 2, got {flags.steps}.")
    if flags.seq_len < 2:
        raise ConfigError(f"--seq-len must be at least 2, got {flags.seq_len}.")
    if flags.seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {flags.seed}.")
    if flags.faults is not None and flags.random_faults is not None:
        raise ConfigError("--faults and --random-faults are two schedules. Give one of them.")
    if flags.init is not None and flags.model is not None and flags.init != "random":
        raise ConfigError("--init and --model name two models. Give one of them.")
    if is_fork(flags.init):
        raise ConfigError(
            f"--init {flags.init} must be a place: a drill's runs lie in a folder of their own. Give the "
            "step's folder."
        )
