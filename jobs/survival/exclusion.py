"""
Nodes that crash again and again, in this job or in others, and whether a job can do without them.

    names = nodes_to_exclude(show_job("7"), "node2")     # "" where too few others are up
    exclude(job, "node2")                                # of a job that waits
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from instruct_core.errors import SlurmError
from jobs.bad_nodes import BAD_NODES, bad_nodes, own_cluster
from jobs.environment import number_in
from jobs.slurm import JobRecord, fields_of, own_job_id, run_client

logger = logging.getLogger(__name__)


def nodes_to_exclude(job: JobRecord, bad_node: str) -> str:
    """
    Return what a job does without: as before, and the bad nodes that it can spare.

    Args:
        job: What Slurm says of it.
        bad_node: The one that failed twice in a row, or its first check; "" for none.
    """
    names = job.excluded_nodes
    try:
        for node, why in _bad_nodes(bad_node).items():
            if node not in _hostnames(names) and _can_spare(names, node):
                logger.warning("Node %s is excluded: %s", node, why)
                names = _with(names, node)
    except SlurmError as error:  # it comes back all the same
        logger.warning("Bad nodes could not be excluded: %s", error)
    return names


def _bad_nodes(bad_node: str) -> dict[str, str]:
    """Return the nodes that a job should do without, each with the reason."""
    found = {bad_node: "it failed twice in a row, or its first check"} if bad_node else {}
    if folder := os.environ.get(BAD_NODES, ""):
        try:
            known = bad_nodes(Path(folder), own_cluster())
        except OSError as error:
            logger.warning("What nodes have done could not be read: %s", error)
            known = []
        found |= {bad.node: f"bad is {bad.line}" for bad in known if bad.node not in found}
    return found


def _hostnames(names: str) -> list[str]:
    return run_client(["scontrol", "show", "hostnames", names]).split() if names else []


def exclude(job: JobRecord, bad_node: str) -> None:
    """Have a job that was requeued do without a node; the list can be changed only while it waits."""
    names = nodes_to_exclude(job, bad_node)
    if names == job.excluded_nodes:
        return
    try:
        run_client(["scontrol", "update", f"JobId={own_job_id()}", f"ExcNodeList={names}"])
    except SlurmError as error:
        logger.warning("Node %s could not be excluded: %s", bad_node, error)


def _with(names: str, node: str) -> str:
    return ",".join(filter(None, (names, node)))


class _Kind(NamedTuple):
    """What a node is good for."""

    gpus: str
    features: frozenset[str]

    @classmethod
    def of(cls, gpus: str, features: str) -> _Kind:
        """Read what sinfo says; at which sockets the GPUs sit does not matter."""
        return cls(re.sub(r"\(S:[^)]*\)", "", gpus), frozenset(features.split(",")))


def _can_spare(names: str, node: str) -> bool:
    """Return True if as many nodes as the job needs are up without these, and will do as well."""
    record = fields_of(run_client(["scontrol", "-o", "show", "job", own_job_id()]))
    nodes = ["sinfo", "-h", "-N", "-p", record.get("Partition", "")]
    kinds = {}
    for line in run_client([*nodes, "-o", "%N|%G|%f"]).split():
        name, gpus, features = [*line.split("|", 2), "", ""][:3]
        kinds[name] = _Kind.of(gpus, features)
    usable = run_client([*nodes, "-t", "idle,mix,alloc,comp", "-o", "%N"]).split()
    if node not in kinds:
        return False  # of another partition
    excluded = _hostnames(_with(names, node))
    wanted = kinds[node]
    # Of its features only those count that the job asked for: racks and names differ everywhere.
    asked = wanted.features & set(re.findall(r"[\w.-]+", record.get("Features", "")))
    alike = {
        name
        for name in usable
        if (kind := kinds.get(name)) and kind.gpus == wanted.gpus and asked <= kind.features
    }
    return len(alike - set(excluded)) >= number_in("SLURM_JOB_NUM_NODES", 1)
