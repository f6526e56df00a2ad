"""
Nodes that crash again and again, in this job or in others, and whether a job can do without them.

    names = nodes_to_exclude(show_job("7"), "node2")     # "" where too few others are up
    exclude(job, "node2")                                # of a job that waits
    exclude_anew()                                       # of this job, which has just been requeued

A node that the job did without for its faults is given back to it at the first requeue after its day.
What a person has excluded stays so: excluded.json in the job's folder says which nodes are ours to give
back, and the batch script those that the launcher has left out.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from instruct_core.errors import SlurmError
from instruct_core.storage.patience import on_a_disk
from jobs.bad_nodes import BAD_NODES, DAY, bad_nodes, own_cluster
from jobs.environment import number_in
from jobs.job_folder import job_folder, read_record, replace_json
from jobs.slurm import JobRecord, fields_of, own_job_id, run_client, show_job

logger = logging.getLogger(__name__)

# Bad nodes that the launcher has left out; set by the batch script.
BAD_AT_LAUNCH = "INSTRUCT_BAD_AT_LAUNCH"
EXCLUDED = "excluded.json"  # nodes that the job has excluded itself, and until when at least


@dataclass(frozen=True)
class _Excluded:
    """What stands in it: UTC seconds by node."""

    until: dict[str, float] = field(default_factory=dict)


def nodes_to_exclude(job: JobRecord, bad_node: str) -> str:
    """
    Return what a job does without: as before, less the nodes that it may have back, and the bad ones that
    it can spare.

    Args:
        job: What Slurm says of it.
        bad_node: The one that failed twice in a row, or its first check; "" for none.
    """
    names, ours, bad = job.excluded_nodes, _ours(), _bad_nodes()
    reasons = {bad_node: "it failed twice in a row, or its first check"} if bad_node else {}
    reasons |= {node: why for node, why in (bad or {}).items() if node != bad_node}
    now = time.time()  # what lasts longer than from tomorrow on was noted by a clock that was ahead
    over = {n for n, until in ours.items() if n not in reasons and not now < until < now + 2 * DAY}
    try:
        if bad is not None:  # else nobody knows which are bad now
            names = _less(names, over)
        for node, why in reasons.items():
            if node not in _hostnames(names) and _can_spare(names, node):
                logger.warning("Node %s is excluded: %s", node, why)
                names = _with(names, node)
                ours[node] = now + DAY if node == bad_node else 0.0
                _note(ours)
    except SlurmError as error:  # it comes back all the same
        logger.warning("Bad nodes could not be excluded: %s", error)
    return names


def _bad_nodes() -> dict[str, str] | None:
    """Return the nodes that all jobs do without now, each with the reason; None where nobody knows."""
    folder = os.environ.get(BAD_NODES, "")
    if not folder:
        return {}
    try:
        known = bad_nodes(Path(folder), own_cluster())
    except OSError as error:
        logger.warning("What nodes have done could not be read: %s", error)
        return None
    return {bad.node: f"bad is {bad.line}" for bad in known}


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
        logger.warning("The nodes that the job does without could not be changed: %s", error)


def exclude_anew() -> None:
    """Have this job, requeued a moment ago, do without what is bad now, and get back what is not."""
    if not _ours() and not _bad_nodes():
        return  # nearly always
    try:
        job = show_job(own_job_id())
    except SlurmError as error:
        logger.warning("The nodes that the job does without could not be asked for: %s", error)
        return
    if job is not None:
        exclude(job, "")


def _ours() -> dict[str, float]:
    """Return the nodes that are excluded for their faults, and until when at least (UTC seconds)."""
    left_out = filter(None, os.environ.get(BAD_AT_LAUNCH, "").split(","))
    try:
        path = job_folder() / EXCLUDED
        noted = on_a_disk(path, lambda: read_record(path, _Excluded)) or _Excluded()
    except OSError as error:
        logger.warning("Which nodes are excluded for a while could not be read: %s", error)
        return {}
    return dict.fromkeys(left_out, 0.0) | noted.until


def _note(ours: dict[str, float]) -> None:
    try:
        replace_json(job_folder() / EXCLUDED, {"until": ours})
    except OSError as error:  # they stay excluded
        logger.warning("Which nodes are excluded for a while could not be noted: %s", error)


def _less(names: str, over: set[str]) -> str:
    """Return nodes without those whose time is over."""
    hosts = _hostnames(names) if over else []
    if over.isdisjoint(hosts):
        return names
    logger.warning("The job may have %s again", ", ".join(sorted(over.intersection(hosts))))
    return ",".join(node for node in hosts if node not in over)


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
