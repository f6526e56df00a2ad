"""
What a partition offers, and the share of its nodes that a job takes; refused in one line here
rather than after hours in a queue.

    request = request_of(flags.slurm, nodes=2, ranks_per_node=4)

Sources: `scontrol show partition` and `show node`, which every cluster has.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from instruct_core.errors import ConfigError
from jobs.slurm import show_jobs
from jobs.survival.deadline import DEFAULT_LEAD_SECONDS
from launch.cluster.bad_nodes import left_out
from launch.cluster.container import find_container
from launch.cluster.machine import CLUSTERS
from launch.cluster.partition import Node, find_partition, minutes_of, num_in_one, usable_nodes
from launch.cluster.script import Resources
from launch.console.lines import counted
from launch.flags.sbatch import WRITTEN, options_of
from launch.flags.slurm import SlurmFlags
from launch.flags.variables import VARIABLES, naming, taken, value_of

LONGEST_DEFAULT_MINUTES = 24 * 60
# Options of sbatch by which a person says which nodes it shall be, good or bad.
NODELIST = {"nodelist", "nodefile", "exclude"}
LEAD_SHARE = 0.2  # of the time limit, at most: the rest is for training


class Request(NamedTuple):
    """What a job asks for, all defaults filled in."""

    partition: str
    minutes: int
    gpus_per_node: int  # 0 where the nodes have none: then ranks run on cores
    cpus_per_task: int
    mem_mb: int | None  # per node; None where the cluster does not track memory
    where: str  # partition and time limit in words, and which of them are defaults
    notes: tuple[str, ...]  # what a person should know, one line each
    gpu_bytes: int | None = None  # of the smallest GPU it may get, where all of them are known
    has_bf16: bool = True  # unless it may get one that has none
    left_out: tuple[str, ...] = ()  # nodes that have been at fault again and again


class Share(NamedTuple):
    """What of each node a job takes."""

    gpus_per_node: int
    cpus_per_task: int
    mem_mb: int | None  # per node; None where nobody knows what it has


def request_of(
    flags: SlurmFlags, nodes: int = 1, ranks_per_node: int = 1, wants_gpus: bool = True
) -> Request:
    """
    Return what a job of so many ranks asks for: a GPU each where there are any and they are wanted,
    else cores.

    Raises:
        ConfigError: No such partition, too long, too many nodes, GPUs, cores or too much memory;
            names the value that would do.
        SlurmError: Slurm does not answer.
    """
    check_after(flags.after)
    with naming({"partition": flags.partition}):
        return _request_of(flags, nodes, ranks_per_node, wants_gpus)


def _request_of(flags: SlurmFlags, nodes: int, ranks_per_node: int, wants_gpus: bool) -> Request:
    partition, facts = find_partition(flags.partition)
    minutes = _minutes(flags.time, facts, partition)
    fitting = nodes_that_fit(usable_nodes(partition, flags), ranks_per_node, wants_gpus, partition)
    most = num_in_one(fitting, partition)
    _at_most("--nodes", nodes, most, f"partition {partition} for such a job")
    default = "" if value_of("partition", flags.partition) else " (the cluster's default)"
    notes = notes_on_options(flags)
    if facts.get("State") == "DOWN":
        notes.append(f"Partition {partition} is DOWN: the job waits until it is up")
    elif (up := num_in_one([node for node in fitting if node.is_up], partition)) < nodes:
        which = f"{counted(nodes, 'node')} of partition {partition}"
        notes.append(f"Up now are {up} of {which}: the job waits for the rest (sinfo -R)")
    bad, told = left_out(fitting, nodes, partition)
    if not NODELIST.isdisjoint(options_of(flags.sbatch)):
        bad, told = [], []
    notes += told
    share = share_of(fitting, flags, ranks_per_node, wants_gpus, partition)
    return Request(
        partition,
        minutes,
        share.gpus_per_node,
        share.cpus_per_task,
        _capped(share, flags, facts, ranks_per_node),
        where=f"partition {partition}{default}, {minutes} minutes a start",
        notes=tuple(notes),
        gpu_bytes=_least([node.gpu_bytes for node in fitting]),
        has_bf16=all(node.has_bf16 for node in fitting),
        left_out=tuple(bad),
    )


def notes_on_options(flags: SlurmFlags) -> list[str]:
    """Return lines on what is left out for nothing, and on what goes another way than usual."""
    options = options_of(flags.sbatch)
    return [
        f"--sbatch {key}= leaves out nothing: no --{key} is written"
        for key, value in options.items()
        if value == "" and key not in WRITTEN
    ]


def _capped(share: Share, flags: SlurmFlags, facts: dict[str, str], ranks: int) -> int | None:
    """Return the memory of a job's share of a node, or less where the partition allows no more."""
    if share.mem_mb is None or flags.mem is not None:
        return share.mem_mb
    most = [share.mem_mb]
    if (a_node := facts.get("MaxMemPerNode", "")).isdigit():
        most.append(int(a_node))
    if (a_core := facts.get("MaxMemPerCPU", "")).isdigit():
        most.append(int(a_core) * ranks * share.cpus_per_task)
    return min(each for each in most if each)


def _least(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def nodes_that_fit(
    nodes: Sequence[Node], ranks_per_node: int, wants_gpus: bool, partition: str
) -> list[Node]:
    """
    Return the nodes with room for a job's ranks: on GPUs where any node has some, else on cores.

    Raises:
        ConfigError: No node has that many.
    """
    if not wants_gpus:
        return list(nodes)
    if with_gpus := [node for node in nodes if node.gpus]:
        most = max(node.gpus for node in with_gpus)
        _at_most("--gpus", ranks_per_node, most, f"a node of partition {partition}")
        return [node for node in with_gpus if node.gpus >= ranks_per_node]
    most = max((node.cores for node in nodes), default=0)
    _at_most("--gpus", ranks_per_node, most, f"the cores of a node of partition {partition}")
    return [node for node in nodes if node.cores >= ranks_per_node]


def share_of(
    nodes: Sequence[Node], flags: SlurmFlags, ranks_per_node: int, wants_gpus: bool, partition: str
) -> Share:
    """
    Return what a job takes of each of such nodes: the cores and the memory that go with its GPUs.

    Raises:
        ConfigError: More cores or memory were typed than a node has.
    """
    cpus_per_task = flags.cpus_per_task or 1
    if wants_gpus and flags.cpus_per_task is None:
        share = min(node.cores // (node.gpus or ranks_per_node) for node in nodes)
        cpus_per_task = max(1, share)
    cores = ranks_per_node * cpus_per_task
    most_cores = max(node.cores for node in nodes)
    if cores > most_cores:
        raise ConfigError(
            f"--cpus-per-task must be at most {most_cores // ranks_per_node} for "
            f"{counted(ranks_per_node, 'rank')} on a node of partition {partition}, got {cpus_per_task}."
        )
    least = min((node.memory_mb / node.cores, node) for node in nodes if node.cores >= cores)[1]
    mem_mb = int(least.memory_mb * cores / least.cores) or None
    if flags.mem is not None:
        mem_mb = int(flags.mem * 1024)
        most_mb = max(node.memory_mb for node in nodes)
        if mem_mb > most_mb and least.memory_mb:
            raise ConfigError(
                f"--mem must be at most {most_mb / 1024:.1f} GB in partition {partition}, "
                f"got {flags.mem}."
            )
    has_gpus = wants_gpus and any(node.gpus for node in nodes)
    return Share(ranks_per_node if has_gpus else 0, cpus_per_task, mem_mb)


def check_after(after: str | None) -> None:
    """
    Refuse to wait for a job that has failed, or that Slurm takes for done because it knows none.

    Raises:
        ConfigError: Names the job.
    """
    for job_id in filter(None, (after or "").split(",")):
        records = show_jobs(job_id)
        if not records:
            raise ConfigError(
                f"--after {job_id}: Slurm knows no such job. If it ended a while ago, leave it out."
            )
        ended = [r.state for r in records if not r.is_active and r.state != "COMPLETED"]
        if ended:
            raise ConfigError(f"--after {job_id} would wait for ever: that job is {ended[0]}.")


def _at_most(flag: str, value: int, most: int, where: str) -> None:
    if value > most:
        raise ConfigError(f"{flag} must be at most {most} in {where}, got {value}.")


def _minutes(typed: int | None, facts: dict[str, str], partition: str) -> int:
    longest = minutes_of(facts.get("MaxTime", ""))
    if typed is None:
        return min(longest or LONGEST_DEFAULT_MINUTES, LONGEST_DEFAULT_MINUTES)
    if longest is not None and typed > longest:
        raise ConfigError(
            f"--time must be at most {longest} minutes in partition {partition}, got {typed}. A run "
            "comes back after its time limit, so a shorter one does."
        )
    return typed


def lead_of(minutes: int, typed: int | None, needed_seconds: float) -> int:
    """Return how many seconds before its kill a job is warned."""
    if typed is not None:
        return min(typed, 60 * minutes - 1)
    lead = max(DEFAULT_LEAD_SECONDS, int(needed_seconds) + 1)
    return max(1, min(lead, int(minutes * 60 * LEAD_SHARE)))


def resources_of(
    name: str,
    flags: SlurmFlags,
    request: Request,
    needed_seconds: float = 0.0,
    places: Sequence[str] = (),
) -> Resources:
    """
    Return what every job of ours asks for: one process, which the caller multiplies.

    Args:
        name: Of the job.
        flags: What the person typed; SBATCH_ACCOUNT and SBATCH_QOS are defaults.
        request: All that the partition decides.
        needed_seconds: What a warned job needs to end well, as far as it is known.
        places: Paths and URLs that it reads and writes, which a container must see.

    Raises:
        ConfigError: There is no such container, or nothing that runs it.
    """
    container = None
    if flags.container is not None:
        has_gpus = request.gpus_per_node > 0
        container = find_container(flags.container, flags.container_python, places, has_gpus)
    return Resources(
        name=name,
        minutes=request.minutes,
        partition=request.partition,
        gpus_per_node=request.gpus_per_node,
        cpus_per_task=request.cpus_per_task,
        mem_mb=request.mem_mb,
        lead_seconds=lead_of(request.minutes, flags.lead, needed_seconds),
        account=value_of("account", flags.account),
        qos=value_of("qos", flags.qos),
        variables=taken({name: getattr(flags, name) for name in VARIABLES}),
        gpu_type=flags.gpu_type,
        constraint=flags.constraint,
        exclude=",".join(filter(None, (flags.exclude, *request.left_out))) or None,
        bad_nodes=request.left_out,
        clusters=os.environ.get(CLUSTERS),
        sbatch=flags.sbatch,
        setup=flags.setup,
        container=container,
        after=tuple(flags.after.split(",")) if flags.after else (),
    )
