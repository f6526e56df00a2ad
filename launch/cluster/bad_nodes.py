"""
Nodes that have been at fault again and again, and which of them a job can do without.

    names, notes = left_out(fitting, wanted=2, partition="gpu")

Jobs keep the record, see jobs/bad_nodes.py. It lies in `~/.local/state/instruct-cluster/bad-nodes`,
which nodes and login nodes share where they share people's homes; INSTRUCT_BAD_NODES names another
folder, and none where it is empty.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from instruct_core.errors import ConfigError
from jobs.bad_nodes import BAD_NODES, BadNode, bad_nodes, cluster_folder, forgive
from launch.cluster.partition import Node, configuration, num_in_one
from launch.console.commands import command
from launch.console.lines import counted, perhaps
from launch.flags.home import own_folder


def record() -> Path | None:
    """Return the folder of the record; None where nobody wants one, or there is no home for it."""
    named = os.environ.get(BAD_NODES)
    if named is not None:
        return Path(named).absolute() if named else None
    home = own_folder("XDG_STATE_HOME", ".local/state")
    return None if home is None else home / "bad-nodes"


def known_bad() -> list[BadNode]:
    """Return the nodes of all clusters that jobs do without now; [] where the record cannot be read."""
    folder = record()
    try:
        return bad_nodes(folder) if folder is not None else []
    except OSError:
        return []


def left_out(fitting: Sequence[Node], wanted: int, partition: str) -> tuple[list[str], list[str]]:
    """
    Return the bad nodes that a job does without, and a line on each that is known.

    Args:
        fitting: The nodes that would do.
        wanted: How many the job needs, all in one partition.
        partition: Or several with commas.

    Raises:
        SlurmError: Slurm does not answer.
    """
    by_name = {node.name: node for node in fitting}
    bad = [each for each in known_bad() if each.node in by_name]
    if bad:
        here = cluster_folder(configuration().get("ClusterName", ""))
        bad = [each for each in bad if each.cluster == here]
    names: list[str] = []
    notes = []
    for each in sorted(bad, key=lambda each: -each.until):
        others = [node for node in fitting if node.is_up and node.name not in (*names, each.node)]
        if num_in_one(others, partition) >= wanted:
            names.append(each.node)
            notes.append(f"Without {each.line}. Have it back: {to_trust(each.node)}")
        else:
            notes.append(f"Note: {each.line}. It is used all the same: too few others are up")
    return names, notes


def to_trust(node: str) -> str:
    """Return the command that has jobs use a node again."""
    return command("doctor", "--trust", node)


def trust(typed: str) -> list[str]:
    """
    Forget what nodes have done; return a line on each.

    Args:
        typed: Their names, with commas.

    Raises:
        ConfigError: Nothing is known of one; names those of which something is.
    """
    folder, names = record(), [name.strip() for name in typed.split(",")]
    known = sorted({place.name for place in folder.glob("*/*")}) if folder is not None else []
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--trust {name} has nothing to forget: of this node nothing is known. Known are "
                f"{', '.join(known) or 'none'}.{perhaps(name, known)}"
            )
    assert folder is not None, "there is none, and nothing is known of any node"
    return [f"Node {name}: {counted(forgive(folder, name), 'fault')} forgotten" for name in names]
