"""What a job asks of Slurm, as flags; the local executor has no use for them. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from launch.console import RARE


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
