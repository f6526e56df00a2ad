"""
Jobs that wait for array tasks to end well, where a task goes on in a follow-up job.

    hand_on_dependents(folder)     # True: the task may end well; its follow-up is waited for as well

What Slurm makes wait (`afterok`) is told of one job; a task that is warned where nothing may be
requeued would end as failed, and what waits for it would never start.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from instruct_core.errors import SlurmError
from jobs.queueing import known_jobs
from jobs.slurm import fields_of, lines_by_job, run_client

logger = logging.getLogger("comeback")

LOOKS = 10  # at what other tasks of the array chain meanwhile
PART = re.compile(r"afterok:(\d+)(?:_\*)?(?:\(\w+\))?")


def hand_on_dependents(folder: Path) -> bool:
    """
    Have every job that waits for jobs of a folder wait for all of them, the follow-ups too.

    Args:
        folder: With the ids of its jobs.

    Returns:
        False where a job waits in a way that cannot be followed, or Slurm refuses.
    """
    try:
        for _ in range(LOOKS):
            ours = known_jobs(folder)
            if not _hand_on(ours):
                return False
            if known_jobs(folder) == ours:  # else another task has chained one meanwhile
                return True
    except (OSError, SlurmError) as error:
        logger.warning("What waits for this task is not told of its follow-up: %s", error)
    return False


def _hand_on(ours: list[str]) -> bool:
    lines = lines_by_job()
    for job_id, (line, *_) in lines.items():
        said = fields_of(line).get("Dependency", "")
        if job_id in ours or not set(re.findall(r"\d+", said)) & set(ours):
            continue
        parts = [PART.fullmatch(part) for part in said.split(",")]
        waits_for = [part[1] for part in parts if part]
        if len(waits_for) < len(parts):
            logger.warning("Job %s waits for this one in another way: %s", job_id, said)
            return False
        # Slurm takes no word about jobs that it has forgotten.
        wanted = dict.fromkeys(waits_for + [one for one in ours if one in lines])
        if list(wanted) != waits_for:
            dependency = f"Dependency=afterok:{':'.join(wanted)}"
            run_client(["scontrol", "update", f"JobId={job_id}", dependency])
            logger.info("Job %s waits for the follow-up too", job_id)
    return True
