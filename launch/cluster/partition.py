"""
What a partition and its nodes offer, and what the cluster as a whole allows.

    name, facts = find_partition("gpu")
    nodes = usable_nodes(name, flags)

Sources: `scontrol show partition`, `show node` and `show config`, which every cluster has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from instruct_core.errors import ConfigError
from jobs.slurm import fields_of, run_client
from launch.flags.slurm import minutes_in
from launch.flags.variables import value_of

# Words in the names of GPUs below compute capability 8.0, which have no bf16.
OLD_GPUS = {
    "k40", "k80", "m40", "m60", "p4", "p40", "p100", "v100", "v100s", "t4", "gtx", "titan", "1080",
    "1080ti", "2080", "2080ti",
}  # fmt: skip
# In the state of a node that starts no job now, as in IDLE+DRAIN or DOWN*.
AWAY = re.compile(
    r"(?<!POWERED_)(?<!POWERING_)DOWN|DRAIN|FAIL|MAINT|REBOOT|RESERVED|NOT_RESPONDING|UNKNOWN|\*"
)


class Node(NamedTuple):
    """One node of a partition."""

    name: str
    cores: int
    memory_mb: int  # 0 where nobody knows
    gpus: int
    features: tuple[str, ...]
    gpu_bytes: int | None = None  # memory of its smallest GPU, where the name of its kind tells
    has_bf16: bool = True  # unless that name is of an older kind
    host: str = ""  # name of its machine
    partitions: tuple[str, ...] = ()
    gpu_types: tuple[str, ...] = ()  # the cluster's names for its GPUs
    is_up: bool = True


def partitions() -> dict[str, dict[str, str]]:
    """Return what Slurm says of each partition, by name."""
    text = run_client(["scontrol", "-o", "show", "partition"])
    return {
        facts["PartitionName"]: facts
        for facts in map(fields_of, text.splitlines())
        if "PartitionName" in facts
    }


def find_partition(typed: str | None) -> tuple[str, dict[str, str]]:
    """
    Return the partition that jobs go to, and what Slurm says of it.

    Args:
        typed: What a person typed; several with commas are answered for by the strictest.

    Raises:
        ConfigError: There is none of a name, or it takes no jobs, or none is the default.
    """
    known = partitions()
    names = value_of("partition", typed) or ""
    default = [name for name, facts in known.items() if facts.get("Default") == "YES"]
    if not names and not default:
        raise ConfigError(f"--partition must be one of {', '.join(known)}: there is no default.")
    names = names or default[0]
    for name in names.split(","):
        if name not in known:
            raise ConfigError(f"--partition must be one of {', '.join(known)}, got {name}.")
        if (state := known[name].get("State")) in ("INACTIVE", "DRAIN"):
            raise ConfigError(f"--partition {name} takes no jobs now: it is {state}.")
    return names, _strictest([known[name] for name in names.split(",")])


def _strictest(all_facts: list[dict[str, str]]) -> dict[str, str]:
    """Return the facts of one partition; of several, the first one's with the least of each limit."""
    facts = dict(all_facts[0])
    limits = [minutes for each in all_facts if (minutes := minutes_of(each.get("MaxTime", "")))]
    if limits and len(all_facts) > 1:
        facts["MaxTime"] = f"{min(limits) // 60}:{min(limits) % 60:02d}:00"
    for name in ("MaxMemPerNode", "MaxMemPerCPU"):
        if numbers := [int(each[name]) for each in all_facts if each.get(name, "").isdigit()]:
            facts[name] = str(min(numbers))
    if any(each.get("State") == "UP" for each in all_facts):
        facts["State"] = "UP"
    return facts


def minutes_of(text: str) -> int | None:
    """Return a time limit of Slurm (D-HH:MM:SS, HH:MM:SS, UNLIMITED) in minutes; None for none."""
    if text in ("UNLIMITED", "NONE", "INFINITE", ""):
        return None
    return minutes_in(text)


class Wanted(Protocol):
    """What a job asks of each of its nodes, as flags and a job's resources have it."""

    @property
    def exclude(self) -> str | None: ...

    @property
    def constraint(self) -> str | None: ...

    @property
    def gpu_type(self) -> str | None: ...


def too_few_are_up(partition: str, wanted: Wanted, nodes: int) -> bool:
    """Return True if a job waits for nodes that are down, drained or not heard of yet."""
    up = [node for node in usable_nodes(partition, wanted) if node.is_up]
    return num_in_one(up, partition) < nodes


def num_in_one(nodes: Sequence[Node], partition: str) -> int:
    """Return how many of some nodes one job can have: all of its nodes are in one partition."""
    return max(sum(name in node.partitions for node in nodes) for name in partition.split(","))


def usable_nodes(partition: str, wanted: Wanted) -> list[Node]:
    """
    Return the nodes of one or several partitions that a job may have.

    Raises:
        ConfigError: None is left with what was typed; or none has such GPUs, and which there are.
    """
    excluded: set[str] = set()
    if wanted.exclude:
        excluded = set(run_client(["scontrol", "show", "hostnames", wanted.exclude]).split())
    found = []
    for line in run_client(["scontrol", "-o", "show", "node"]).splitlines():
        facts = fields_of(line)
        inside = set(partition.split(",")) & set(facts.get("Partitions", "").split(","))
        if not inside:
            continue
        node = _node(facts, tuple(sorted(inside)), wanted.gpu_type)
        # More than a plain feature name ("a&b", "a|b") is judged by Slurm itself.
        plain = wanted.constraint is not None and wanted.constraint.isalnum()
        if node.name not in excluded and (not plain or wanted.constraint in node.features):
            found.append(node)
    if not found:
        typed = {"constraint": wanted.constraint, "exclude": wanted.exclude}
        words = " and ".join(f"--{name} {value}" for name, value in typed.items() if value)
        left = f"left with {words}" if words else "that has told of itself: sinfo"
        raise ConfigError(f"Partition {partition} has no node {left}.")
    if wanted.gpu_type is not None and not any(node.gpus for node in found):
        types = {kind for node in found for kind in node.gpu_types}
        there = (
            f"one of {', '.join(sorted(types))}" if types else "left out, for no GPU has a type,"
        )
        raise ConfigError(
            f"--gpu-type must be {there} in partition {partition}, got {wanted.gpu_type}."
        )
    return found


def _node(facts: dict[str, str], inside: tuple[str, ...], gpu_type: str | None) -> Node:
    gres = facts.get("Gres", "")
    if gpu_type is not None:
        gres = ",".join(part for part in gres.split(",") if part.startswith(f"gpu:{gpu_type}:"))
    # Where nobody tracks it, RealMemory is 1, the default of slurm.conf.
    memory_mb = int(facts["RealMemory"])
    return Node(
        facts["NodeName"],
        int(facts.get("CPUEfctv") or facts["CPUTot"]),  # without those that Slurm keeps
        memory_mb - int(facts.get("MemSpecLimit", 0)) if memory_mb > 1 else 0,
        gpus_in(gres),
        tuple(facts.get("AvailableFeatures", "").split(",")),
        *kind_in(gres),
        host=facts.get("NodeHostName", ""),
        partitions=inside,
        gpu_types=tuple(types_in(facts.get("Gres", ""))),
        is_up=not AWAY.search(facts.get("State", "")),
    )


def types_in(gres: str) -> list[str]:
    """Return the types of GPUs that a node's GRES text names: gpu:a100:4(S:0-1),gpu:2 has a100."""
    return re.findall(r"(?:^|,)gpu:([^:,()]+):\d+(?=[(,]|$)", gres)


def gpus_in(gres: str) -> int:
    """Return how many GPUs a node's GRES text names: gpu:a100:4(S:0-1),gpu:t4:2 has 6."""
    counts = re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)(?=[(,]|$)", gres)
    return sum(int(count) for count in counts)


def kind_in(gres: str) -> tuple[int | None, bool]:
    """
    Return what the names of a node's GPUs tell: gpu:nvidia_a100_80gb:4 has 80 GB each, and bf16.

    Sites choose these names; many are the driver's own, some have a memory in them.
    """
    names = re.findall(r"(?:^|,)gpu:([^:,()]*[a-z][^:,()]*)", gres.lower())
    memories = [re.search(r"(\d+)gb", name) for name in names]
    told = [int(memory[1]) * 10**9 for memory in memories if memory]
    is_old = any(OLD_GPUS & set(re.findall(r"[a-z0-9]+", name)) for name in names)
    return min(told) if told and len(told) == len(names) else None, not is_old


class Limits(NamedTuple):
    """What the cluster as a whole allows."""

    max_array_size: int
    requeue_by_default: bool


def configuration(timeout_seconds: float | None = None) -> dict[str, str]:
    """Return the cluster's settings; raises SlurmError, after so long where it does not answer."""
    text = run_client(["scontrol", "show", "config"], timeout_seconds=timeout_seconds)
    facts = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        facts[key.strip()] = value.strip()
    return facts


def cluster_limits() -> Limits:
    """Return the cluster's limits, from its configuration."""
    facts = configuration()
    return Limits(
        max_array_size=int(facts.get("MaxArraySize", 1001)),
        requeue_by_default=facts.get("JobRequeue", "1") != "0",
    )
