"""
Who brings a job back, when, and when not.

A warned job asks `answer_to`: a person's stop is final, any other warning is answered by going on.
A crashed job is started again as long as it makes progress, and not where a person has to fix
something first; `CrashBudget` counts, over all starts of the job.

What Slurm's own record says right after a warning (all seen on Slurm 22.05):

    time limit, scancel --signal    RUNNING
    preempted                       RUNNING, PreemptTime set: requeue, or Slurm kills at its EndTime
    scontrol requeue                COMPLETING, Restarts one higher: it comes back by itself
    scancel                         COMPLETING: a requeue would bring it back to life
"""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import submitit

from instruct_core.errors import SlurmError
from instruct_core.storage.store import Store
from jobs.events import Crashed
from jobs.job_folder import Failure, Progress, read_json, replace_json, write_outcome
from jobs.ledger import note_crash
from jobs.slurm import own_job_id, own_restarts, show_job

logger = logging.getLogger(__name__)

MAX_CRASHES_WITHOUT_PROGRESS = 3
MAX_WARNINGS_WITHOUT_PROGRESS = 10
MAX_RESTARTS_WITHOUT_BOOKS = 20  # of a job whose crashes cannot be counted: its disk is full
CRASHES_THAT_EXCLUDE_A_NODE = 2
NO_CRASHES: dict[str, Any] = {"committed": -1, "in_a_row": 0, "node": "", "node_in_a_row": 0}

Answer = Literal["requeue", "requeued", "stop", "unsure"]


def answer_to(received: Iterable[signal.Signals | None]) -> Answer:
    """
    Return what a warned job does once it has saved: ask to run again, know that it will, end, or
    leave it to the batch script because Slurm does not answer.

    Args:
        received: The first warning of every rank, None for a rank that got none.
    """
    if submitit.JobEnvironment().cluster == "slurm":
        return _answer_of_slurm()
    # TERM is how a person stops a local run (Ctrl-C, `kill`); USR1 and USR2 are what a cluster
    # does before a time limit.
    return "stop" if signal.SIGTERM in set(received) else "requeue"


def _answer_of_slurm() -> Answer:
    try:
        job = show_job(own_job_id())
    except SlurmError as error:
        logger.warning("Slurm does not say who warned us: %s", error)
        return "unsure"  # to requeue a job that someone cancelled would bring it back to life
    if job is not None and job.num_restarts > own_restarts():
        return "requeued"
    return "requeue" if job is not None and job.is_running else "stop"


class Crash(NamedTuple):
    """Why a start of a job ended, as far as it can be told."""

    error: str
    traceback: str
    node: str  # "" where nobody knows
    retry: bool


# srun: error: node2: task 3: Killed       srun: error: node[1-2]: tasks 0-1: Exited with ...
SRUN_SAYS = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<rank>\d+)[\d,-]*: (?P<what>.+)")


def cause_of(failures: Sequence[Failure], said: str = "") -> Crash:
    """
    Return why the ranks ended: the report of the first that failed, else what srun saw first.

    A rank that was killed leaves no report, and its peers report that they have lost it: then
    srun's word, which comes first, counts more.

    Args:
        failures: Those of this start, the first one first.
        said: What the batch script's standard error says about this start.
    """
    final = [failure for failure in failures if not failure.retry]
    # What comes after these words was ended by srun itself.
    seen = list(SRUN_SAYS.finditer(said.partition("Terminating StepId")[0]))
    reported = {failure.rank for failure in failures}
    killed = [
        match
        for match in seen
        if "Exited with" not in match["what"] and int(match["rank"]) not in reported
    ]
    if not final and (killed or (seen and not failures)):
        first = (killed or seen)[0]
        error = f"rank {first['rank']} on {first['node']}: {first['what']}."
        return Crash(error, "", first["node"], True)
    if failures:
        first_one = (final or failures)[0]
        return Crash(first_one.error, first_one.traceback, first_one.node, not final)
    return Crash("its processes were killed.", "", "", True)


def was_warned_too_early(said: str) -> bool:
    """Return True if a rank died of a warning, because it came before it could listen."""
    return any("User defined signal" in match["what"] for match in SRUN_SAYS.finditer(said))


def allows_warning(folder: Path, resumed_at: int, ended_at: int) -> bool:
    """Return False for a job that is warned again and again before it has made a step."""
    path = folder / "warnings.json"
    in_a_row = 0 if ended_at > resumed_at else read_json(path).get("in_a_row", 0) + 1
    replace_json(path, {"in_a_row": in_a_row})
    return bool(in_a_row < MAX_WARNINGS_WITHOUT_PROGRESS)


class CrashBudget:
    """
    Counts crashes in a row that committed nothing new, and nodes that crash again and again.

    Args:
        folder: Where the count is kept from one start of the job to the next.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "crashes.json"
        self._counts = {**NO_CRASHES, **read_json(self._path)}

    def allows_restart(self, committed: int, node: str = "") -> bool:
        """Note one more crash, at which ``committed`` had been reached; True to start again."""
        counts = self._counts
        counts["in_a_row"] = counts["in_a_row"] + 1 if committed <= counts["committed"] else 1
        counts["committed"] = max(committed, counts["committed"])
        counts["node_in_a_row"] = counts["node_in_a_row"] + 1 if node == counts["node"] else 1
        counts["node"] = node
        replace_json(self._path, counts)
        return bool(counts["in_a_row"] < MAX_CRASHES_WITHOUT_PROGRESS)

    @property
    def bad_node(self) -> str:
        """Return the node that crashed twice in a row, or ""."""
        often = self._counts["node_in_a_row"] >= CRASHES_THAT_EXCLUDE_A_NODE
        return str(self._counts["node"]) if often else ""


def judge_crash(crash: Crash, folder: Path, progress: Progress) -> tuple[bool, str]:
    """
    Return whether a crashed job starts again, and the node it should do without ("" for none).

    The ledger of its attempt is told; a job that does not start again leaves its last word in its
    folder.

    Args:
        crash: Why it ended.
        folder: The job's folder.
        progress: How far it had come: `committed`, and `attempt` and `ledger` if it got there.
    """
    budget = CrashBudget(folder)
    again = crash.retry and budget.allows_restart(progress.committed or 0, crash.node)
    if progress.ledger is not None and progress.attempt is not None:
        told = Crashed(crash.error, crash.node, comes_back=again)
        note_crash(Store(progress.ledger), progress.attempt, told)
    if not again:
        write_outcome(folder, crash.error, crash.traceback, crash.retry)
    return again, budget.bad_node
