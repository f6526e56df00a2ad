"""
A job that was queued by a launcher that died before it could note it.

    adopt_lost(run.job_parent, run.slurm_note, dry_run=False, ledger=run.ledger.url)
    SlurmJob.found(run.slurm_note)          # knows of it now
"""

from __future__ import annotations

import os
from pathlib import Path

from instruct_core.errors import ConfigError, SlurmError
from jobs.queueing import MARK, is_being_queued, is_unsettled, lost_jobs, note_job, settle
from launch.cluster.job_folder import job_folders
from launch.cluster.machine import CLUSTERS, LOOK_SECONDS
from launch.cluster.slurm import SlurmJob


def adopt_lost(parent: Path, note: Path, dry_run: bool, ledger: str = "") -> None:
    """
    Note the jobs of the newest submission that nobody has noted.

    Args:
        parent: Of the job folders.
        note: Where launchers look for the job.
        dry_run: Change nothing.
        ledger: Of the run, if it is one's.

    Raises:
        ConfigError: It is being queued just now, or Slurm does not say whether it is.
    """
    folder = next(reversed(job_folders(parent)), None)
    if dry_run or folder is None or not is_unsettled(folder):
        return
    if is_being_queued(folder):
        raise ConfigError(
            f"The job in {folder} is just being queued by another launcher. Try again in a moment."
        )
    job = SlurmJob(folder, ledger, cluster=os.environ.get(CLUSTERS, ""))
    try:
        lost = lost_jobs(folder, job.cluster, LOOK_SECONDS)
    except SlurmError as error:
        raise ConfigError(
            f"A launcher died while it queued the job in {folder}, and whether Slurm has it nobody can "
            f"tell: {error} Try again; if you know that it has not, remove {folder / MARK}."
        ) from None
    for job_id in lost:
        note_job(folder, job_id)
    if job.job_ids:
        job.write_note(note)
    settle(folder)
