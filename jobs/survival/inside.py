"""
Whether a job that crashed starts anew in the allocation it has: on the same nodes, without the queue.

    if starts_inside(job, crash, said, bad_node):
        ...                     # the batch script goes round once more; see launch/cluster/script.py

It does where the crash is no node's fault, as far as anybody can tell, where all its ranks have been
seen to end, and where time is left that is worth it. A node that is at fault is left out if the job has
one to spare (`--spare-nodes`). In all other cases the job is requeued.
"""

from __future__ import annotations

import logging
import os
import re
from datetime import datetime
from pathlib import Path

from instruct_core.errors import SlurmError
from instruct_core.storage.patience import on_a_disk
from jobs.environment import number_in
from jobs.job_folder import INSIDE, LEAD, LEFT_OUT, SPARE_NODES, TOLD_TO_END
from jobs.slurm import JobRecord, controller_seconds
from jobs.survival.crash import NOT_LAUNCHED, Crash

logger = logging.getLogger(__name__)

MOST_INSIDE = 999  # starts of an allocation, which their number has room for
WORTH_IT = 2  # times the lead must be left of the time limit
# What srun says of a step whose ranks may live on: a node does not answer.
NOT_ALL_ENDED = re.compile(
    r"Timed out waiting for job step|Node failure|NODE FAILURE", re.IGNORECASE
)
# What a rank says where its own node's GPUs have failed it.
OF_THE_NODE = re.compile(r"CUDA error|uncorrectable|Slurm gave this job GPUs")


def starts_inside(job: JobRecord, crash: Crash, said: str, bad_node: str) -> bool:
    """
    Return whether a job that may start again does so on the nodes that it has.

    A node that it should do without is written down for the batch script.

    Args:
        job: What Slurm says of it.
        crash: Why it ended.
        said: What the batch script's standard error says about this start.
        bad_node: The node that crashed again and again; "" for none.
    """
    if INSIDE not in os.environ or crash.away or TOLD_TO_END in os.environ:
        return False
    if not job.is_running:
        return False
    if number_in(INSIDE, 0) >= MOST_INSIDE or NOT_ALL_ENDED.search(said):
        return False
    if not _time_is_left(job):
        logger.info("The time limit is near: not started again in this allocation")
        return False
    node = bad_node or (crash.node if _is_the_nodes_fault(crash, said) else "")
    return not node or _leave_out(node)


def _is_the_nodes_fault(crash: Crash, said: str) -> bool:
    return bool(NOT_LAUNCHED.search(said) or OF_THE_NODE.search(crash.error))


def _time_is_left(job: JobRecord) -> bool:
    """Return True if a start has time to get anywhere before the job is warned."""
    try:
        left = datetime.fromisoformat(job.end).timestamp() - controller_seconds()
    except SlurmError:
        return False
    except ValueError:  # "Unknown" where there is no limit
        return True
    return left > WORTH_IT * number_in(LEAD, 0)


def _leave_out(node: str) -> bool:
    """Write down that the ranks do without a node; False where none is to spare."""
    before = list(filter(None, os.environ.get(LEFT_OUT, "").split(",")))
    names = list(dict.fromkeys([*before, node]))
    if len(names) > number_in(SPARE_NODES, 0):
        return False
    path = left_out_file()
    try:
        on_a_disk(path, lambda: path.write_text(",".join(names), encoding="utf-8"))
    except OSError as error:  # the crash is counted: to be asked again would count it twice
        logger.warning("%s could not be written: %s. The job is requeued instead.", path, error)
        return False
    logger.warning("Node %s is left out, for one that was to spare", node)
    return True


def left_out_file() -> Path:
    """Return where the batch script reads which nodes the ranks of this allocation do without."""
    return Path(os.environ[f"{LEFT_OUT}_FILE"])
