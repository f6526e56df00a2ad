"""
The folder of a job that is submitted: it goes again where no job came of it. And a job that was queued
by a launcher that died before it could note it.

    with folder_to_submit(run.job_parent) as folder:
        submission.submit(function, folder, lock)

    adopt_lost(run.job_parent, run.slurm_note, dry_run=False, ledger=run.ledger.url)
    SlurmJob.found(run.slurm_note)          # knows of it now
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instruct_core.errors import ConfigError, SlurmError
from instruct_core.storage.looks import entries_in
from jobs.queueing import (
    MARK,
    is_being_queued,
    is_unsettled,
    known_jobs,
    lost_jobs,
    note_job,
    settle,
)
from jobs.slurm import UnansweredError
from launch.cluster.frozen_code import freeze_code
from launch.cluster.job_folder import job_folders, new_job_folder
from launch.cluster.lock import RunLock
from launch.cluster.machine import CLUSTERS, LOOK_SECONDS
from launch.cluster.slurm import SlurmJob
from launch.console.lines import note as tell


@contextmanager
def folder_to_submit(parent: Path) -> Iterator[Path]:
    """
    Yield a new job folder with the code in it; where submission fails, it goes, if no job runs from it.

    Args:
        parent: Of the job folders.
    """
    folder = new_job_folder(parent)
    try:
        freeze_code(folder)
        yield folder
    except BaseException as error:
        asks = isinstance(error, Exception) and not isinstance(error, UnansweredError)
        if not _may_have_a_job(folder, asks):
            shutil.rmtree(folder, ignore_errors=True)
        elif not known_jobs(folder) and not _has_begun_here(folder):
            tell(
                f"Folder {folder} stays: a job may have been queued from it. The same command finds out."
            )
        raise


def _has_begun_here(folder: Path) -> bool:
    """Return True if a job on this machine has been given what it does."""
    return bool(entries_in(folder, "*_submitted.pkl"))


def _may_have_a_job(folder: Path, asks: bool) -> bool:
    """Return True unless nobody has been asked for a job, or Slurm, if it is asked, has none."""
    if known_jobs(folder) or _has_begun_here(folder):
        return True
    if not entries_in(folder, "*.sh"):  # nobody has been asked yet
        return False
    if not asks:  # who presses Ctrl-C does not wait for that; what has no answer may be taken later
        return True
    try:
        cluster = os.environ.get(CLUSTERS, "")
        return is_being_queued(folder) or bool(lost_jobs(folder, cluster, LOOK_SECONDS))
    except (SlurmError, OSError):
        return True


def adopt_lost(parent: Path, note: Path, dry_run: bool, ledger: str = "") -> None:
    """
    Note the jobs of the newest submission that nobody has noted; remove its folder if it has none.

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
        return
    with suppress(FileNotFoundError):  # somebody else has looked too
        if RunLock.works(folder / MARK):  # none came of it, and nobody is at it
            shutil.rmtree(folder, ignore_errors=True)
    settle(folder)
