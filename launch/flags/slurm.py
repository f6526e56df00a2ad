"""What a job asks of Slurm, as flags; the local executor has no use for them. No heavy imports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from instruct_core.errors import ConfigError
from launch.flags.parse import RARE, check_counts


@dataclass(frozen=True)
class SlurmFlags:
    """What the job asks of Slurm; without Slurm these are not used."""

    partition: str | None = None
    """Partition (default: the cluster's)."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    time: int | None = None
    """Time limit of one start, in minutes (default: the partition's, at most 24 hours); the run
    comes back after it."""
    mem: float | None = None
    """Memory per node, in GB (default: the share of the node that goes with its GPUs or cores)."""
    cpus_per_task: int | None = None
    """Cores per rank (default: the share of the node that goes with a GPU)."""
    constraint: str | None = None
    """Feature that the nodes must have."""
    exclude: str | None = None
    """Nodes that must not be used."""
    after: str | None = None
    """Job that must end well first; its id, or several with commas."""
    lead: Annotated[int | None, RARE] = None
    """Seconds from Slurm's warning to its kill (default: 120, or what the run's steps and saves
    have been seen to need)."""


def check_slurm_flags(flags: SlurmFlags) -> None:
    """
    Refuse values that make sense on no cluster.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    check_counts(flags, "time", "cpus_per_task", "lead")
    if flags.mem is not None and not 0 < flags.mem < 1e6:
        raise ConfigError(f"--mem must be more than 0 GB, got {flags.mem}.")
    if flags.lead is not None and flags.time is not None and flags.lead >= 60 * flags.time:
        raise ConfigError(
            f"--lead must be less than the time limit of {60 * flags.time} s, got {flags.lead}."
        )
    if flags.after is not None and not re.fullmatch(r"\d+(,\d+)*", flags.after):
        raise ConfigError(f"--after must be job ids separated by commas, got {flags.after}.")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        value = getattr(flags, name)
        if value is not None and (not value.strip() or "\n" in value):
            raise ConfigError(f"--{name} must not be empty.")
