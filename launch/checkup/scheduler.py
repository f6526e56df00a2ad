"""
Whether Slurm takes a job of ours, and what it does to one: limits, preemption, requeue, arrays.

    findings, offer = check_slurm(SlurmFlags(partition="gpu"))
    offer.nodes, offer.ranks_per_node       # None where Slurm has not said

What each setting is for, and what happens without it, stands in docs/preemption.md.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from instruct_core.errors import ConfigError, SlurmError
from launch.checkup.finding import Finding, fails, note, ok, refused
from launch.cluster.machine import NO_CLUSTER
from launch.cluster.partition import (
    Node,
    configuration,
    find_partition,
    partitions,
    usable_nodes,
)
from launch.cluster.request import request_of, resources_of
from launch.cluster.slurm import test_submission
from launch.console.lines import counted
from launch.flags.slurm import SlurmFlags
from launch.flags.variables import naming

ANSWER_SECONDS = 4.0  # for Slurm's controller, which answers in a hundredth
LEAST_SECONDS = 5  # that a step and a save fit into
ASK_ADMINISTRATOR = "Ask an administrator for"


class Offer(NamedTuple):
    """What a partition offers."""

    partition: str
    facts: Mapping[str, str]  # `scontrol show partition`
    config: Mapping[str, str]  # `scontrol show config`
    nodes: list[Node]

    @property
    def gpus_per_node(self) -> int:
        """GPUs of the node with most."""
        return max(node.gpus for node in self.nodes)

    @property
    def ranks_per_node(self) -> int:
        """Ranks that fill the largest node: one a GPU, or one a core where no node has any."""
        return self.gpus_per_node or max(node.cores for node in self.nodes)

    @property
    def has_a_node_up(self) -> bool:
        """Return True unless all nodes are down, drained or reserved."""
        return any(node.is_up for node in self.nodes)

    @property
    def num_nodes(self) -> int:
        """Nodes that one job may have."""
        most = self.facts.get("MaxNodes", "")
        return min(len(self.nodes), int(most)) if most.isdigit() else len(self.nodes)


def is_here(partition: str | None) -> bool:
    """Return True if jobs go to Slurm from this machine, or the person wants them to."""
    return partition is not None or shutil.which("sbatch") is not None


def check_slurm(flags: SlurmFlags) -> tuple[list[Finding], Offer | None]:
    """
    Return what is found about Slurm, and what the partition offers.

    Raises:
        ConfigError: There is no partition of the name that was typed.
    """
    typed = flags.partition
    if shutil.which("sbatch") is None:
        found = "there is no sbatch on PATH, and --partition is of Slurm"
        return [fails("slurm", found, "Log in to a node of the cluster, or leave it out")], None
    try:
        config = configuration(ANSWER_SECONDS)
    except SlurmError as error:
        return [_unanswered(str(error).rstrip("."), typed)], None
    answers = ok("slurm", f"scontrol answers, version {config.get('SLURM_VERSION', 'unknown')}")
    try:
        offer = _offer_of(flags, config)
    except ConfigError as error:
        if typed is not None and not set(typed.split(",")) <= partitions().keys():
            raise
        return [answers, refused("partition", error, _others(typed))], None
    # Slurm judges no job where it sees no node, and then refuses it in words that mislead.
    rights = [_rights(flags, offer)] if offer.has_a_node_up else []
    preemption = check_preemption(offer.facts, config)
    findings = [answers, _limits(offer), *rights, *preemption, *check_cluster(config)]
    return findings, offer


def _others(typed: str | None) -> str:
    """Return what to type instead of a partition that takes no jobs."""
    others = [
        name
        for name, facts in partitions().items()
        if name != typed and facts.get("State") not in ("INACTIVE", "DRAIN")
    ]
    if not others:
        return "Ask an administrator: no other partition takes jobs"
    return f"Give one of {', '.join(others)} with --partition"


def _unanswered(said: str, typed: str | None) -> Finding:
    if NO_CLUSTER in said and typed is None:
        return note("slurm", "sbatch is installed, and no cluster is configured: jobs run here")
    fix = "Look at it with scontrol ping, and ask again; --cluster local trains on this machine"
    return fails("slurm", said, fix)


def _offer_of(flags: SlurmFlags, config: Mapping[str, str]) -> Offer:
    with naming({"partition": flags.partition}):
        name, facts = find_partition(flags.partition)
        return Offer(name, facts, config, usable_nodes(name, flags))


def _limits(offer: Offer) -> Finding:
    facts, nodes = offer.facts, counted(len(offer.nodes), "node")
    each = "up to " + counted(offer.ranks_per_node, "GPU" if offer.gpus_per_node else "core")
    limits = (
        f"MaxTime {facts.get('MaxTime', 'unknown')}, MaxNodes {facts.get('MaxNodes', 'unknown')}"
    )
    found = f"{offer.partition}: {nodes} of {each}, {limits}"
    if facts.get("State") == "DOWN":
        return note("partition", f"{found}; it is DOWN", "Jobs wait until it is up")
    if not offer.has_a_node_up:
        why = "Jobs wait until one is; sinfo -R says why"
        return note("partition", f"{found}; none of them is up", why)
    return ok("partition", found)


def _rights(flags: SlurmFlags, offer: Offer) -> Finding:
    """Have Slurm judge a job of one rank."""
    try:
        request = request_of(flags)
        start = test_submission(Path("job").resolve(), resources_of("doctor", flags, request))
    except (ConfigError, SlurmError) as error:
        said, _, typed = str(error).partition(" Type: ")
        said = said.partition(" See it: ")[0].rstrip(".")
        fix = (
            "Give an account, a QOS or a partition that you may use: sacctmgr show assoc user=$USER"
        )
        if "node" in said:  # what the partition has and allows, and not who asks
            fix = f"See what it allows: scontrol show partition {offer.partition}"
        fix = f"Give {typed}" if typed else fix
        return fails("sbatch", said, fix)
    return ok("sbatch", f"takes a job of yours{f', which would start at {start}' if start else ''}")


def check_preemption(facts: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    """
    Return what becomes of a job whose nodes another one wants, and how it is warned.

    Args:
        facts: Of the partition.
        config: Of the cluster.
    """
    kind = config.get("PreemptType", "").removeprefix("preempt/")
    mode = facts.get("PreemptMode") or config.get("PreemptMode", "")
    if kind in ("none", "", "(null)") or mode == "OFF":
        return [ok("preemption", "no job takes the nodes of another")]
    if kind == "qos":
        found = "a QOS says what becomes of a job whose nodes another one wants"
        look = "Look: sacctmgr show qos format=name,preemptmode,gracetime"
        return [note("preemption", found, look), _warning(config)]
    if "SUSPEND" in mode:
        return [ok("preemption", f"PreemptMode={mode}: a job is stopped, and goes on later")]
    grace = number_in(facts.get("GraceTime", ""))
    what = _preemption(mode, grace)
    about_time = [_grace(grace)] if what.state != "would fail" else []  # it is its own line's fault
    return [what, *about_time, _warning(config)]


def _preemption(mode: str, grace: int) -> Finding:
    if "REQUEUE" in mode:
        return ok("preemption", f"PreemptMode={mode}: a preempted job comes back")
    found, wanted = f"PreemptMode={mode}", f"{ASK_ADMINISTRATOR} PreemptMode=REQUEUE"
    if grace < LEAST_SECONDS:
        lost = f"{found} with a GraceTime of {grace} s: a preempted job does not come back"
        return fails("preemption", lost, wanted)
    return note("preemption", f"{found}: a job requeues itself in its GraceTime", wanted)


def _grace(seconds: int) -> Finding:
    if seconds >= LEAST_SECONDS:
        return ok("grace time", f"{seconds} s to save at a preemption")
    found = f"GraceTime is {seconds} s: a preempted job has KillWait alone to save in"
    return note("grace time", found, f"{ASK_ADMINISTRATOR} one that a step and a save fit into")


def _warning(config: Mapping[str, str]) -> Finding:
    parameters = " ".join(config.get(f"{name}Parameters", "") for name in ("Slurmctld", "Preempt"))
    if "send_user_signal" in parameters:
        return ok("warning", "preempt_send_user_signal is set")
    found = "preempt_send_user_signal is not set: TERM serves as the warning"
    return note(
        "warning", found, f"{ASK_ADMINISTRATOR} SlurmctldParameters=preempt_send_user_signal"
    )


def check_cluster(config: Mapping[str, str]) -> list[Finding]:
    """Return what the cluster's settings mean for a run."""
    return [_requeue(config), _kill_wait(config), _arrays(config)]


def _requeue(config: Mapping[str, str]) -> Finding:
    if config.get("JobRequeue", "1") != "0":
        return ok("requeue", "JobRequeue=1: jobs come back")
    found = "JobRequeue=0: a job asks to come back itself, or is followed by another"
    return note("requeue", found, f"{ASK_ADMINISTRATOR} JobRequeue=1")


def _kill_wait(config: Mapping[str, str]) -> Finding:
    seconds = number_in(config.get("KillWait", "30"))
    if seconds >= LEAST_SECONDS:
        return ok("kill wait", f"{seconds} s to save at scancel and scontrol requeue")
    found = f"KillWait is {seconds} s: no step and save fit before a kill"
    return fails("kill wait", found, f"{ASK_ADMINISTRATOR} KillWait=30")


def _arrays(config: Mapping[str, str]) -> Finding:
    most = number_in(config.get("MaxArraySize", "1001"))
    if most < 2:
        found = f"MaxArraySize is {most}: Slurm takes no array jobs here"
        return fails("arrays", found, "Prepare and answer with --cluster local")
    return ok("arrays", f"of up to {most - 1:,} tasks each")


def number_in(text: str) -> int:
    """Return the number that a value of scontrol begins with (`30`, `30 sec`); 0 where there is none."""
    number = re.match(r"\d+", text)
    return int(number[0]) if number else 0
