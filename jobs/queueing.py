"""
Queue a job so that it is not lost: who dies between sbatch and a note leaves a mark in the job's folder.

    job_id = queue(folder / "job.sh")
    ...                                  # note the folder where launchers look
    settle(folder)

    if is_unsettled(folder):             # somebody died on the way
        lost_jobs(folder)                # what Slurm has of it, and nobody has noted

Slurm knows every job by the path of its script, and no other job has that one.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from instruct_core.errors import SlurmError
from instruct_core.storage.names import identity, rename, scratch_of
from instruct_core.storage.patience import on_a_disk, passes_on_a_disk
from instruct_core.storage.plain_file import open_plain, text_of
from jobs.job_folder import JOB_IDS
from jobs.slurm import clean_environment, lines_by_job, run_client

logger = logging.getLogger(__name__)

MARK = "submitting"
JOB_ID = re.compile(r"(\d+)(?:;\S+)?|Submitted batch job (\d+)(?: on cluster \S+)?")


def queue(script: Path, *options: str) -> str:
    """
    Queue a batch script, note its id in its folder, and return it; the mark stays until `settle`.

    Raises:
        UnansweredError: Slurm does not answer: perhaps it has the job all the same, or will have it.
        SlurmError: Slurm refuses it.
    """
    folder = script.parent
    with _marked(folder) as inherited:
        job_id = submit_script(script, *options, inherits=inherited)
    note_queued(folder, job_id)
    return job_id


def note_queued(folder: Path, job_id: str) -> None:
    """Note a job, if the disk lets us: it is queued, and to fail now would queue it twice."""
    try:
        note_job(folder, job_id)
    except OSError as error:
        logger.warning("The id of job %s could not be written down: %s", job_id, error)


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[list[int]]:
    """
    Mark a folder; sbatch inherits the open file, whose lock ends with whoever lives longer.

    The mark is locked before it has its name: one that is not was made by somebody who is done or dead.
    """
    with contextlib.ExitStack() as stack:
        inherited: list[int] = []
        mark, scratch = folder / MARK, scratch_of(folder / MARK)
        with contextlib.suppress(OSError):  # a full disk
            file = stack.enter_context(on_a_disk(scratch, lambda: scratch.open("wb")))
            mine = on_a_disk(scratch, lambda: identity(scratch))
            with contextlib.suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inherited.append(file.fileno())
            on_a_disk(mark, lambda: rename(scratch, mark, mine))
        yield inherited


def submit_script(script: Path, *options: str, inherits: Sequence[int] = ()) -> str:
    """
    Queue a batch script as nobody's child, and return the job's id.

    Raises:
        SlurmError: Slurm refuses it, or does not answer; as `run_client`.
    """
    command = ["sbatch", "--parsable", *options, str(script)]
    return job_id_in(run_client(command, clean_environment(), inherits=inherits))


def job_id_in(said: str) -> str:
    """
    Return the id that sbatch prints: 12, or 12;cluster, perhaps below a site's own words.

    Raises:
        SlurmError: There is none.
    """
    for line in reversed(said.splitlines()):
        if found := JOB_ID.fullmatch(line.strip()):
            return found[1] or found[2]
    words = " ".join(said.split())
    raise SlurmError(f"sbatch printed no job id, so the job may be queued and may not: {words!r}.")


def known_jobs(folder: Path) -> list[str]:
    """Return the ids that were noted in a folder, in the order of their submission."""
    path = folder / JOB_IDS
    try:
        said = on_a_disk(path, lambda: text_of(path, "replace"))
    except FileNotFoundError:
        return []
    ids = filter(re.compile(r"\d+").fullmatch, said.split())  # a power cut leaves anything
    return list(dict.fromkeys(ids))  # one may have been written twice


def note_job(folder: Path, job_id: str) -> None:
    """Add an id to those of a submission."""
    path = folder / JOB_IDS

    def append() -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(open_plain(path, flags), "a", encoding="utf-8") as file:
            file.write(f"{job_id}\n")

    on_a_disk(path, append)


def settle(folder: Path) -> None:
    """Take the mark away: every job of the folder is where launchers find it."""
    with contextlib.suppress(OSError):
        (folder / MARK).unlink()


def is_unsettled(folder: Path) -> bool:
    """Return True if somebody queues a job of this folder, or died before it was noted."""
    mark = folder / MARK
    return on_a_disk(mark, mark.exists)


def is_being_queued(folder: Path) -> bool:
    """
    Return True if an sbatch for a job of this folder still lives.

    Raises:
        OSError: The disk does not say so for a while: to queue a second job would be worse.
    """
    mark = folder / MARK
    return on_a_disk(mark, lambda: _is_locked(mark))


def _is_locked(mark: Path) -> bool:
    try:
        with mark.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if passes_on_a_disk(error):
            raise
    return False  # also where it is settled meanwhile, or this disk has no locks


def lost_jobs(
    folder: Path, cluster: str = "", timeout_seconds: float | None = None, follows: str = ""
) -> list[str]:
    """
    Return the ids of a folder's jobs that Slurm has, and nobody has noted.

    Args:
        folder: Of the jobs.
        cluster: That is asked, if there are several.
        timeout_seconds: How long Slurm may take, if not as long as jobs wait.
        follows: The job, or the task, that they wait for; "" for any.

    Raises:
        SlurmError: It does not answer.
    """
    known, command = known_jobs(folder), f" Command={folder}{os.sep}"
    waits = re.compile(rf"afterany:{follows}(?![\d_])" if follows else "")
    return [
        job_id
        for job_id, lines in lines_by_job(timeout_seconds, cluster).items()
        if job_id not in known and any(command in line and waits.search(line) for line in lines)
    ]
