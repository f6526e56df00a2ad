"""
A node that crashes again and again, and whether a job can do without it.

    names = nodes_to_exclude(show_job("7"), "node2")     # "" where too few others are up
    exclude(job, "node2")                                # of a job that waits
"""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from instruct_core.errors import SlurmError
from jobs.environment import number_in
from jobs.slurm import JobRecord, fields_of, own_job_id, run_client

logger = logging.getLogger(__name__)


def nodes_to_exclude(job: JobRecord, bad_node: str) -> str:
    """Return what a job does without: as before, and ``bad_node`` if enough others are up."""
    try:
        if bad_node and _can_spare(job, bad_node):
            logger.warning(
                "Node %s is excluded: it failed twice in a row, or its first check", bad_node
            )
            return _with(job, bad_node)
    except SlurmError as error:  # it comes back all the same
        logger.warning("Node %s could not be excluded: %s", bad_node, error)
    return job.excluded_nodes


def exclude(job: JobRecord, bad_node: str) -> None:
    """Have a job that was requeued do without a node; the list can be changed only while it waits."""
    names = nodes_to_exclude(job, bad_node)
    if names == job.excluded_nodes:
        return
    try:
        run_client(["scontrol", "update", f"JobId={own_job_id()}", f"ExcNodeList={names}"])
    except SlurmError as error:
        logger.warning("Node %s could not be excluded: %s", bad_node, error)


def _with(job: JobRecord, node: str) -> str:
    return ",".join(filter(None, (job.excluded_nodes, node)))


class _Kind(NamedTuple):
    """What a node is good for."""

    gpus: str
    features: frozenset[str]

    @classmethod
    def of(cls, gpus: str, features: str) -> _Kind:
        """Read what sinfo says; at which sockets the GPUs sit does not matter."""
        return cls(re.sub(r"\(S:[^)]*\)", "", gpus), frozenset(features.split(",")))


def _can_spare(job: JobRecord, node: str) -> bool:
    """Return True if as many nodes as the job needs are up without this one, and will do as well."""
    record = fields_of(run_client(["scontrol", "-o", "show", "job", own_job_id()]))
    nodes = ["sinfo", "-h", "-N", "-p", record.get("Partition", "")]
    kinds = {}
    for line in run_client([*nodes, "-o", "%N|%G|%f"]).split():
        name, gpus, features = [*line.split("|", 2), "", ""][:3]
        kinds[name] = _Kind.of(gpus, features)
    usable = run_client([*nodes, "-t", "idle,mix,alloc,comp", "-o", "%N"]).split()
    excluded = run_client(["scontrol", "show", "hostnames", _with(job, node)]).split()
    wanted = kinds.get(node, _Kind("", frozenset()))
    # Of its features only those count that the job asked for: racks and names differ everywhere.
    asked = wanted.features & set(re.findall(r"[\w.-]+", record.get("Features", "")))
    alike = {
        name
        for name in usable
        if (kind := kinds.get(name)) and kind.gpus == wanted.gpus and asked <= kind.features
    }
    return len(alike - set(excluded)) >= number_in("SLURM_JOB_NUM_NODES", 1)
