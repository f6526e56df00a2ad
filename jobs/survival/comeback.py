"""
What a batch script asks when its ranks ended otherwise than well: does the job come back?

    python -m jobs.patient jobs.survival.comeback 19   # tries left; see launch/cluster/script.py

It is also asked where srun says that they ended well, and the script sees no word of any that has begun.

The script asks again where this could not run: what ended the ranks, a shared disk that is away, may
be what Python is read from. What cannot be read here counts as unknown, and a job of which nothing
is known comes back.

Ranks that are killed cannot requeue their job, and neither can one that Slurm did not answer. The
batch script outlives them. It brings back what asked for it, and what crashed while it makes
progress: on the nodes that the job has, if they are not at fault (exit code 85); else by a requeue;
where Slurm may not requeue the job, or refuses to, it chains a follow-up. It asks Slurm
first: a job that someone cancelled, or that comes back already, is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from time import sleep

from instruct_core.errors import SlurmError
from instruct_core.storage.patience import passes_on_a_disk
from jobs.failures import Failure, read_failures, write_outcome
from jobs.job_folder import (
    ASKS_BACK,
    SCRIPT,
    SRUN_SAID,
    TOLD_TO_END,
    Progress,
    job_folder,
    or_unknown,
    read_progress,
    replace_json,
    this_start,
)
from jobs.notify import tell_failure
from jobs.queueing import is_unsettled, lost_jobs, note_queued, queue, settle
from jobs.slurm import (
    JobRecord,
    RefusedError,
    own_job_id,
    own_restarts,
    run_client,
    show_job,
)
from jobs.survival.crash import (
    cause_of,
    exit_codes_in,
    nobody_has_a_word,
    said_in_this_start,
    setup_that_failed,
    was_warned_too_early,
)
from jobs.survival.dependents import hand_on_dependents
from jobs.survival.exclusion import exclude, nodes_to_exclude
from jobs.survival.inside import starts_inside
from jobs.survival.requeue import (
    allows_fruitless_start,
    judge_crash,
    too_many_warnings,
)

logger = logging.getLogger("comeback")

FOLLOWED = "followed"  # file, by the start, of an array task that ends well: a follow-up goes on
SRUN = "srun"  # in each of its words
STARTS_HERE = 85  # exit code that has the batch script start the ranks anew
ENDED_WELL = 86  # and that says that they have come to their end, whatever failed after it
TRIES = 240  # to reach Slurm's controller, which may be starting anew: an hour
RETRY_SECONDS = 15.0
MAX_REFUSALS = 4  # of both a requeue and a follow-up, before it is believed


def decide_comeback() -> int:
    """Decide and act; see the module's page. Return STARTS_HERE, ENDED_WELL, or 0 for all else."""
    folder = job_folder()
    if _ours() is None:
        return 0
    progress = or_unknown(lambda: read_progress(folder), None)
    if progress is None:
        logger.warning("Nothing is known of this start")
        _bring_back("")
        return 0
    if progress.start != this_start():
        progress = Progress(committed=progress.committed)
    return _decide_by(folder, progress)


def _decide_by(folder: Path, progress: Progress) -> int:
    """Decide by how far this start has come; as `decide_comeback`."""
    said = or_unknown(said_in_this_start, "")
    if _has_ended_well(folder, progress, said):
        return ENDED_WELL
    if progress.state == "requeued":
        logger.info("All ranks saved, and could not requeue the job themselves")
        _bring_back("")
        return 0
    nothing: list[Failure] = []
    failures = or_unknown(lambda: read_failures(folder), nothing)
    if warning := _unanswered_warning(said, failures):
        _answer_warning(warning, folder, progress)
        return 0
    crash = cause_of(failures, said) if failures or SRUN in said else nobody_has_a_word(said)
    if setup := setup_that_failed(said):
        crash = crash._replace(error=f"{crash.error.rstrip('.')}. {setup}")
    again, bad_node = judge_crash(crash, folder, progress)
    if not again:
        logger.error("Failed, and not started again: %s", crash.error)
        return 0
    logger.warning("Crashed: %s Starting again.", crash.error)
    job = _ours()  # someone may have cancelled it meanwhile
    if job is not None and starts_inside(job, crash, said, bad_node):
        logger.info("On the nodes that the job has, without the queue")
        return STARTS_HERE
    _bring_back(bad_node)
    return 0


def _has_ended_well(folder: Path, progress: Progress, said: str) -> bool:
    """Return True where the work is done, or srun says that ranks which have begun ended well."""
    if progress.state in ("finished", "stopped", "paused"):
        return True
    if os.environ.get(SRUN_SAID) != "0":
        return False
    return bool(progress.start) or (SRUN not in said and _takes_no_word(folder))


def _takes_no_word(folder: Path) -> bool:
    """Return True where ranks that have begun could leave no word: their disk is full, or read-only."""
    probe = folder / f"room-{this_start()}"
    try:
        replace_json(probe, {})
        probe.unlink()
    except OSError as error:
        return not passes_on_a_disk(error)
    return False


def _unanswered_warning(said: str, failures: Sequence[Failure]) -> str:
    """Return what became of a warning that has ended the ranks unanswered; "" where none has."""
    if str(ASKS_BACK) in (os.environ.get(SRUN_SAID), *exit_codes_in(said)):
        return "Warned, and its ranks could not requeue the job"
    if not all(failure.retry for failure in failures):
        return ""
    if os.environ.get(TOLD_TO_END):  # and srun too, which ends the ranks at once
        return "Warned with its script and srun, as by scancel --full"
    return "Warned before the ranks could listen" if was_warned_too_early(said) else ""


def _answer_warning(what: str, folder: Path, progress: Progress) -> None:
    logger.info(what)
    if allows_fruitless_start(folder, progress.committed or 0):
        _bring_back("")
        return
    error = too_many_warnings("part" if "SLURM_ARRAY_TASK_ID" in os.environ else "step")
    write_outcome(folder, error, "", retry=False)
    logger.error("Failed, and not started again: %s", error)


def _ours() -> JobRecord | None:
    """
    Return Slurm's record of this job, or None where it has decided about the job already.

    Raises:
        SlurmError: It has not answered for an hour.
    """
    for left in reversed(range(TRIES)):
        try:
            job = show_job(own_job_id())
        except RefusedError as error:
            logger.warning("%s", error)
            return _presumed()
        except SlurmError as error:
            if not left:
                raise
            logger.warning("%s", error)
            sleep(RETRY_SECONDS)
            continue
        # Another count of restarts: this script is on a lost node, and the job runs elsewhere.
        if job is not None and job.num_restarts == own_restarts() and _goes_on(job):
            return job
        logger.info("Slurm has decided already: %s", _in_words(job))
        return None
    raise AssertionError("unreachable")


def _goes_on(job: JobRecord) -> bool:
    """Return True for a job that runs, and for one that Slurm ends without bringing it back."""
    return job.is_running or job.has_lost_a_node


def _in_words(job: JobRecord | None) -> str:
    if job is None:
        return "job unknown"
    return f"{job.state} ({job.reason})" if job.reason not in ("", "None") else job.state


def _presumed() -> JobRecord | None:
    """Return a record of this job where nobody can ask for it; None if someone ends the job."""
    if os.environ.get(TOLD_TO_END):
        logger.info("This script was told to end, as by scancel")
        return None
    return JobRecord(
        own_job_id(), "RUNNING", "None", own_restarts(), True, "Unknown", "Unknown", "", ""
    )


def _bring_back(bad_node: str) -> None:
    """Requeue the job, without a node that fails; chain a follow-up where Slurm refuses."""
    num_refusals = 0
    for _ in range(TRIES):
        job = _ours()  # asked every time: someone may have cancelled it meanwhile
        if job is None:
            return
        try:
            if not _requeues(job):
                _chain_follow_up(job, bad_node)
            else:
                exclude(job, bad_node)
        except SlurmError as error:
            logger.warning("%s", error)
            num_refusals += isinstance(error, RefusedError)
            if num_refusals == MAX_REFUSALS:
                raise
            sleep(RETRY_SECONDS)
        else:
            return
    raise SlurmError("Slurm did not take the job back for an hour.")


def _requeues(job: JobRecord) -> bool:
    """Requeue the job; False where Slurm will not, today or tomorrow."""
    if not job.may_requeue:
        return False
    try:
        run_client(["scontrol", "requeue", own_job_id()])
    except RefusedError as error:
        logger.warning("%s", error)
        return False
    return True


def _chain_follow_up(job: JobRecord, bad_node: str) -> None:
    """Submit the same script once more, to start when this job has ended."""
    script = Path(os.environ[SCRIPT])
    options = [f"--dependency=afterany:{own_job_id()}"]
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        options.append(f"--array={task}")
    names = nodes_to_exclude(job, bad_node)
    if names or job.excluded_nodes:  # also none: it counts more than what stands in the script
        options.append(f"--exclude={names}")
    job_id = _queued_unheard(script.parent) or queue(script, *options)
    settle(script.parent)
    logger.warning("This cluster may not requeue the job, so job %s follows it", job_id)
    if task and hand_on_dependents(script.parent):
        with contextlib.suppress(OSError):
            (job_folder() / f"{FOLLOWED}-{this_start()}").touch()


def _queued_unheard(folder: Path) -> str:
    """Return the follow-up of an sbatch that was not answered, if Slurm has one; "" for none."""
    if not or_unknown(lambda: is_unsettled(folder), False):
        return ""
    job_id = next(iter(lost_jobs(folder, follows=own_job_id())), "")
    if job_id:
        note_queued(folder, job_id)
    return job_id


def main() -> None:
    """Decide; where that fails for the last time, leave word of it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    # A requeue ends the batch script, and with it this process, before the job's nodes are changed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if answer := decide_comeback():
            sys.exit(answer)
    except SlurmError as problem:  # it was asked long enough
        _give_up(problem)
    except Exception as problem:
        if sys.argv[1:] not in ([], ["0"]):
            raise  # the script tries again
        _give_up(problem)
    tell_failure(job_folder())


def _give_up(problem: Exception) -> None:
    logger.exception("The job could not be started again")
    write_outcome(job_folder(), f"the job could not be started again: {problem}", "")
