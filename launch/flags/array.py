"""How an array of tasks runs: flags that preprocess and generate share. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

from launch.flags.parse import Cluster, check_counts


@dataclass(frozen=True)
class ArrayFlags:
    """How the tasks run; what they make is the same for any number of them."""

    num_tasks: int = 4
    """Tasks to share the work."""
    cluster: Cluster = "auto"
    """Where the tasks run (auto: Slurm where there is sbatch, else this machine; debug: in the launcher's
    own process, one task after the other, so that breakpoint() works)."""
    array_parallelism: int | None = None
    """Tasks that run at a time (default: on Slurm 128; on this machine one a core to prepare, and one a
    GPU to answer, or one without)."""
    follow: bool = False
    """On Slurm: wait for the array and show how much is there."""
    dry_run: bool = False
    """Show what would run, with the batch script on Slurm, and stop."""


def check_array_flags(flags: ArrayFlags) -> None:
    """Refuse counts below 1; raises ConfigError."""
    check_counts(flags, "num_tasks", "array_parallelism")
