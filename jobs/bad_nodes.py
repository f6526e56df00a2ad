"""
Nodes that keep failing or dragging, over all runs of a person: what each has done, as long as it counts.

    blame("node2", "slow", "rank 3 took 1.8 times as long", "my-run")      # in a job
    bad_nodes(folder)                # [BadNode("tux", "node2", until, 3, "...", ["my-run"])]
    forgive(folder, "node2")

    <folder>/tux/node2/0000000007-0001-failed.json

A fault is a file of its own that nobody changes, so many jobs and launchers at once need no lock. A
node is bad for a day after its newest fault if it has three of the last week, or failed a first
check. Nothing has to end that: the times in the files do.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Literal, NamedTuple

from instruct_core.names import PLAIN_NAME
from instruct_core.storage.looks import entries_in
from instruct_core.storage.patience import on_a_disk, passes_on_a_disk
from jobs.causes import Cause
from jobs.job_folder import FAILED_CHECK, read_json, replace_json, this_start

logger = logging.getLogger(__name__)

BAD_NODES = "INSTRUCT_BAD_NODES"  # names the folder; set by the batch script, empty for none

Kind = Literal["failed", "check", "slow"]  # "check": of its first seconds

DAY = 86_400.0
COUNTS_SECONDS = 7 * DAY  # how long a fault counts
FAULTS = 3  # that make a node bad
LONGEST_REASON = 300  # characters
# Ends that may be the node's fault. A rank that was killed without a word is one, an exception that
# nobody knows is the code's.
OF_A_NODE = ("node failed", "network", "unknown")


class Fault(NamedTuple):
    """One thing that a node has done."""

    kind: str
    why: str  # one line
    run: str
    utc_seconds: float


class BadNode(NamedTuple):
    """A node that jobs do without, where others will do."""

    cluster: str
    node: str
    until: float  # UTC seconds
    num_faults: int  # of the last week
    why: str  # of the newest one
    runs: list[str]  # that they happened to

    @property
    def line(self) -> str:
        """It in words: which node, until when, why."""
        until = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(self.until))
        times = "once" if self.num_faults == 1 else f"{self.num_faults} times"
        runs = f" in {', '.join(self.runs)}" if self.runs else ""
        return f"{self.node} until {until}: at fault {times} in a week{runs}, the last time: {self.why}"


def blame_crash(node: str, error: str, trace: str, cause: Cause, run: str) -> None:
    """Note a crash that was put down to a node, if it may be its fault; arguments as of a Crash."""
    if FAILED_CHECK in error:
        blame(node, "check", error, run)
    elif may_be_of_a_node(error, trace, cause):
        blame(node, "failed", error, run)


def may_be_of_a_node(error: str, trace: str, cause: Cause) -> bool:
    """Return True for an end that a node may be at fault for, as far as its words tell."""
    known = cause.name in OF_A_NODE and not (cause.name == "unknown" and trace)
    return known or FAILED_CHECK in error


def blame(node: str, kind: Kind, why: str, run: str) -> None:
    """
    Note what a node has done in this start of a job; a start counts once for each kind.

    Args:
        node: By Slurm's name.
        kind: Of the fault.
        why: One line.
        run: That it happened to.
    """
    folder = os.environ.get(BAD_NODES, "")
    # node[1-2]: what befalls two at once is neither's.
    if not folder or not PLAIN_NAME.fullmatch(node):
        return
    place = Path(folder) / own_cluster() / node
    fault = Fault(kind, why[:LONGEST_REASON], run, time.time())
    try:
        replace_json(place / f"{this_start()}-{kind}.json", {"format": 1, **fault._asdict()})
        for path, old in _faults_in(place):
            if fault.utc_seconds - old.utc_seconds > COUNTS_SECONDS:
                path.unlink(missing_ok=True)
    except OSError as error:  # a job must not end of what it wants to say
        logger.warning("What node %s has done could not be noted: %s", node, error)


def blame_aside(node: str, kind: Kind, why: str, run: str) -> Thread:
    """Do as `blame` in a thread of its own: training does not wait for a disk that is asked again."""
    thread = Thread(target=blame, args=(node, kind, why, run), name="blame", daemon=True)
    thread.start()
    return thread


def own_cluster() -> str:
    """Return the name of the cluster that this job runs on."""
    return cluster_folder(os.environ.get("SLURM_CLUSTER_NAME", ""))


def cluster_folder(name: str) -> str:
    """Return the folder of a cluster's nodes."""
    return name.lower() if PLAIN_NAME.fullmatch(name) else "cluster"


def bad_nodes(folder: Path, cluster: str | None = None) -> list[BadNode]:
    """
    Return the nodes that jobs do without now, by name.

    Args:
        folder: Of the record; it need not be there.
        cluster: Of which cluster, if not of all.
    """
    found = []
    for place in _places(folder, cluster or "*"):
        faults = [fault for _, fault in _faults_in(place)]
        if (bad := _judged(place.parent.name, place.name, faults, time.time())) is not None:
            found.append(bad)
    return found


def forgive(folder: Path, node: str) -> int:
    """Forget all that a node has done, on every cluster; return how much that was. Raises OSError."""
    forgotten = 0
    for place in _places(folder, "*"):
        if place.name == node:
            for path in entries_in(place, "*.json"):
                path.unlink(missing_ok=True)
                forgotten += 1
            with suppress(OSError):  # a job has noted something meanwhile
                place.rmdir()
    return forgotten


def _places(folder: Path, cluster: str) -> list[Path]:
    """Return the folders of all nodes of a cluster, or of each."""
    clusters = on_a_disk(folder, lambda: entries_in(folder, cluster))
    return [place for one in clusters for place in on_a_disk(one, partial(entries_in, one, "*"))]


def _faults_in(place: Path) -> Iterator[tuple[Path, Fault]]:
    """
    Yield the faults of a node that can be read; what a newer version says of them is left out.

    Raises:
        OSError: The disk does not answer for a while: whether the node is bad nobody knows.
    """
    for path in on_a_disk(place, lambda: entries_in(place, "*.json")):
        try:
            told = on_a_disk(path, partial(read_json, path))
            kind, why, run = (str(told[name]) for name in ("kind", "why", "run"))
            yield path, Fault(kind, why, run, float(told["utc_seconds"]))
        except (TypeError, ValueError, KeyError):
            continue
        except OSError as error:
            if passes_on_a_disk(error):
                raise


def _judged(cluster: str, node: str, faults: Iterable[Fault], now: float) -> BadNode | None:
    """Return a node as a bad one, or None. A fault from a day to come is that of a clock, and none."""
    recent = [f for f in faults if -DAY < now - f.utc_seconds < COUNTS_SECONDS]
    if not recent:
        return None
    newest = sorted(recent, key=lambda fault: fault.utc_seconds)[-1]
    decides = recent if len(recent) >= FAULTS else [f for f in recent if f.kind == "check"]
    until = max((fault.utc_seconds for fault in decides), default=0.0) + DAY
    if until <= now:
        return None
    runs = sorted({fault.run for fault in recent} - {""})
    return BadNode(cluster, node, until, len(recent), newest.why, runs)
