"""
What a batch script asks when its ranks ended otherwise than well: does the job come back?

    python -m jobs.survival.comeback      # the last line of the script, see launch/cluster/script.py

Ranks that are killed cannot requeue their job, and neither can one that Slurm did not answer. The
batch script outlives them. It brings back what asked for it, and what crashed while it makes
progress; where Slurm may not requeue the job it chains a follow-up. It asks Slurm first: a job
that someone cancelled, or that comes back already, is left alone.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from time import sleep

from instruct_core.errors import SlurmError
from jobs.job_folder import (
    JOB_IDS,
    LOG,
    SCRIPT,
    Progress,
    job_folder,
    read_failures,
    read_progress,
    this_start,
    write_outcome,
)
from jobs.slurm import (
    JobRecord,
    clean_environment,
    fields_of,
    own_job_id,
    own_restarts,
    run_client,
    show_job,
)
from jobs.survival.requeue import (
    MAX_RESTARTS_WITHOUT_BOOKS,
    cause_of,
    judge_crash,
    was_warned_too_early,
)

logger = logging.getLogger("comeback")

TRIES = 240  # to reach Slurm's controller, which may be starting anew: an hour
RETRY_SECONDS = 15.0


def decide_comeback() -> None:
    """Decide and act; see the module's page."""
    folder = job_folder()
    job = _ours()
    if job is None:
        return
    progress = read_progress(folder)
    if progress.start != this_start():
        progress = Progress(committed=progress.committed)
    if progress.state in ("finished", "stopped"):
        return
    if progress.state == "requeued":
        logger.info("All ranks saved, and could not requeue the job themselves")
        _bring_back("")
        return
    said = _said_in_this_start()
    if was_warned_too_early(said):
        logger.info("Warned before the ranks could listen")
        _bring_back("")
        return
    crash = cause_of(read_failures(folder), said)
    try:
        again, bad_node = judge_crash(crash, folder, progress)
    except OSError as error:  # a full disk must not be the end of the run
        again, bad_node = job.num_restarts < MAX_RESTARTS_WITHOUT_BOOKS, ""
        logger.warning("Crashes cannot be counted: %s", error)
    if again:
        logger.warning("Crashed: %s Starting again.", crash.error)
        _bring_back(bad_node)
    else:
        logger.error("Failed, and not started again: %s", crash.error)


def _ours() -> JobRecord | None:
    """
    Return Slurm's record of this job, or None where it has decided about the job already.

    Raises:
        SlurmError: It has not answered for an hour.
    """
    for left in reversed(range(TRIES)):
        try:
            job = show_job(own_job_id())
        except SlurmError as error:
            if not left:
                raise
            logger.warning("%s", error)
            sleep(RETRY_SECONDS)
            continue
        # Another count of restarts: this script is on a lost node, and the job runs elsewhere.
        if job is not None and job.is_running and job.num_restarts == own_restarts():
            return job
        logger.info("Slurm has decided already: %s", job.state if job else "job unknown")
        return None
    raise AssertionError("unreachable")


def _said_in_this_start() -> str:
    """Return what the log has of this start: the batch script writes a line at each."""
    text = Path(os.environ[LOG]).read_text(errors="replace")
    return text.rpartition(f"start {this_start()}")[2]


def _bring_back(bad_node: str) -> None:
    """Requeue the job, without a node that fails; chain a follow-up where Slurm refuses."""
    for _ in range(TRIES):
        job = _ours()  # asked every time: someone may have cancelled it meanwhile
        if job is None:
            return
        try:
            if not job.may_requeue:
                _chain_follow_up()
                return
            run_client(["scontrol", "requeue", own_job_id()])
        except SlurmError as error:
            logger.warning("%s", error)
            sleep(RETRY_SECONDS)
        else:
            if bad_node:
                _exclude(job, bad_node)
            return
    raise SlurmError("Slurm did not take the job back for an hour.")


def _exclude(job: JobRecord, node: str) -> None:
    """Have a requeued job do without a node, if enough others like it are up."""
    try:
        # The list can be changed only now, while the job waits.
        if _can_spare(job, node):
            names = ",".join(filter(None, (job.excluded_nodes, node)))
            run_client(["scontrol", "update", f"JobId={own_job_id()}", f"ExcNodeList={names}"])
            logger.warning("Node %s failed twice in a row, and is excluded", node)
    except SlurmError as error:  # it comes back all the same
        logger.warning("Node %s could not be excluded: %s", node, error)


def _can_spare(job: JobRecord, node: str) -> bool:
    record = fields_of(run_client(["scontrol", "-o", "show", "job", own_job_id()]))
    partition = record["Partition"]
    states = "idle,mix,alloc,comp"
    listed = run_client(["sinfo", "-h", "-N", "-p", partition, "-o", "%N|%G|%f"]).split()
    kinds = dict(line.split("|", 1) for line in listed)
    usable = run_client(["sinfo", "-h", "-N", "-p", partition, "-t", states, "-o", "%N"]).split()
    excluded = ",".join(filter(None, (job.excluded_nodes, node)))
    names = run_client(["scontrol", "show", "hostnames", excluded]).split()
    alike = {name for name in usable if kinds.get(name) == kinds.get(node)}
    return len(alike - set(names)) >= int(os.environ["SLURM_JOB_NUM_NODES"])


def _chain_follow_up() -> None:
    """Submit the same script once more, to start when this job has ended."""
    script = Path(os.environ[SCRIPT])
    command = ["sbatch", "--parsable"]
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        command += [f"--array={task}", f"--dependency=afterany:{own_job_id()}"]
    else:
        command += ["--dependency=singleton"]
    job_id = run_client([*command, str(script)], clean_environment()).strip().split(";")[0]
    with (script.parent / JOB_IDS).open("a") as file:
        file.write(f"{job_id}\n")
    logger.warning("This cluster may not requeue the job, so job %s follows it", job_id)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    # A requeue ends the batch script, and with it this process, before the job's nodes are changed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        decide_comeback()
    except Exception as problem:
        write_outcome(job_folder(), f"the job could not be started again: {problem}", "")
        raise
