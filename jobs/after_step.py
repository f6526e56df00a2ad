"""
What a batch script asks when its ranks ended otherwise than well: does the job come back?

    python -m jobs.after_step      # the last line of the script, see launch/cluster.py

Ranks that are killed cannot requeue their job, and neither can one that Slurm did not answer. The
batch script outlives them. It brings back what asked for it, and what crashed while it makes
progress; where Slurm may not requeue the job it chains a follow-up. It asks Slurm first: a job
that someone cancelled, or that comes back already, is left alone.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

from instruct_core.errors import SlurmError
from jobs.reports import job_folder, read_failures, read_progress, this_start, write_outcome
from jobs.requeue import cause_of, judge_crash
from jobs.slurm import (
    JobRecord,
    clean_environment,
    fields_of,
    own_job_id,
    own_restarts,
    run_client,
    show_job,
)

logger = logging.getLogger("after_step")

TRIES = 20  # to reach Slurm's controller, which may be starting anew
RETRY_SECONDS = 15.0
LOG = "INSTRUCT_LOG"  # what the batch script and rank 0 write
SCRIPT = "INSTRUCT_SCRIPT"  # the batch script itself
JOB_IDS = "job_ids"  # ids of this script's jobs, in the order of their submission


def after_step() -> None:
    """Decide and act; see the module's page."""
    folder = job_folder()
    job = _ask()
    if job is None or job.state != "RUNNING" or job.num_restarts != own_restarts():
        # The last: this script is on a lost node, and the job already runs elsewhere.
        logger.info("Slurm has decided already: %s", job.state if job else "job unknown")
        return
    progress = read_progress(folder)
    if progress.get("start") != this_start():
        progress = {"committed": progress.get("committed", 0)}
    state = progress.get("state")
    if state in ("finished", "stopped"):
        return
    if state == "requeued":
        logger.info("All ranks saved, and could not requeue the job themselves")
        _bring_back(job, "")
        return
    crash = cause_of(read_failures(folder), _said_in_this_start())
    again, bad_node = judge_crash(crash, folder, progress)
    if again:
        logger.warning("Crashed: %s Starting again.", crash.error)
        _bring_back(job, bad_node)
    else:
        logger.error("Failed, and not started again: %s", crash.error)


def _ask() -> JobRecord | None:
    for left in reversed(range(TRIES)):
        try:
            return show_job(own_job_id())
        except SlurmError as error:
            logger.warning("%s", error)
            if left:
                time.sleep(RETRY_SECONDS)
    return None


def _said_in_this_start() -> str:
    """Return what the log has of this start: the batch script writes a line at each."""
    text = Path(os.environ[LOG]).read_text(errors="replace")
    return text.rpartition(f"start {this_start()}")[2]


def _bring_back(job: JobRecord, bad_node: str) -> None:
    """Requeue the job, without a node that fails; chain a follow-up where Slurm refuses."""
    for left in reversed(range(TRIES)):
        if not job.may_requeue:
            break
        try:
            run_client(["scontrol", "requeue", own_job_id()])
        except SlurmError as error:
            logger.warning("%s", error)
            again = _ask()
            if again is None or again.state != "RUNNING" or again.num_restarts != own_restarts():
                return  # cancelled meanwhile, or requeued after all
            if "disabled" in str(error) or not left:
                break
            time.sleep(RETRY_SECONDS)
        else:
            # The list can be changed only now, while the job waits; this process has until
            # KillWait to live.
            if bad_node and _can_spare(job, bad_node):
                excluded = ",".join(filter(None, (job.excluded_nodes, bad_node)))
                run_client(
                    ["scontrol", "update", f"JobId={own_job_id()}", f"ExcNodeList={excluded}"]
                )
                logger.warning("Node %s failed twice in a row, and is excluded", bad_node)
            return
    _chain_follow_up()


def _can_spare(job: JobRecord, node: str) -> bool:
    """Return True if enough nodes are up without this one and those excluded before."""
    record = fields_of(run_client(["scontrol", "-o", "show", "job", own_job_id()]))
    usable = run_client(
        ["sinfo", "-h", "-N", "-p", record["Partition"], "-t", "idle,mix,alloc,comp", "-o", "%N"]
    )
    excluded = f"{job.excluded_nodes},{node}".strip(",")
    names = run_client(["scontrol", "show", "hostnames", excluded]).split()
    needed = int(os.environ["SLURM_JOB_NUM_NODES"])
    return len(set(usable.split()) - set(names)) >= needed


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
        after_step()
    except SlurmError as problem:
        write_outcome(job_folder(), f"the job could not be started again: {problem}", "")
        raise
