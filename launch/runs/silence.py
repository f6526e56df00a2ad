"""
Whether a run that trains makes steps: one that does not may hang, or have lost its node.

    silence_of(read_progress(folder), read_ledger(store), job.records())
    # "no step for 38 s, where one takes 0.2 s"
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from jobs.events import Crashed, Failed
from jobs.job_folder import Progress
from jobs.ledger import Entry
from jobs.slurm import JobRecord, start_of

LEAST_SECONDS = 20.0  # clocks of hosts differ, and a busy disk shows a step late
STEPS = 5  # and so many steps' time, half of what ends a hang


def silence_of(progress: Progress, entries: Sequence[Entry], records: Sequence[JobRecord]) -> str:
    """
    Return for how long a run has made no step where it should have; "" where it has, saves or starts.

    Args:
        progress: Of the newest start of its job.
        entries: Of its ledger, from that attempt on at least.
        records: What Slurm says about its job; empty where it trains without Slurm.
    """
    if progress.stepped_at is None or not progress.step_seconds:
        return ""
    seconds, usual = time.time() - progress.stepped_at, progress.step_seconds
    if seconds <= max(LEAST_SECONDS, STEPS * usual) or _starts_again(progress, entries, records):
        return ""
    return f"no step for {seconds:.0f} s, where one takes {usual:.3g} s"


def _starts_again(
    progress: Progress, entries: Sequence[Entry], records: Sequence[JobRecord]
) -> bool:
    """Return True if the attempt that made the newest step is over, and the next has made none."""
    number = progress.attempt or 0
    if any(e.attempt > number for e in entries) or any(
        e.attempt == number and isinstance(e.event, Crashed | Failed) for e in entries
    ):
        return True
    running = [start_of(record) for record in records if record.is_running]
    return bool(records) and not any(progress.start.startswith(start) for start in running)
