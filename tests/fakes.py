"""Stand-ins that several tests share."""

from __future__ import annotations

from jobs.slurm import JobRecord


def record(
    state: str = "RUNNING",
    num_restarts: int = 0,
    end: str = "Unknown",
    may_requeue: bool = True,
) -> JobRecord:
    """Return what Slurm says about a job."""
    return JobRecord(
        "7", state, "None", num_restarts, may_requeue, "Unknown", end, "node1", excluded_nodes=""
    )
