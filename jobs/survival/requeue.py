"""
Who brings a job back, when, and when not.

A warned job asks `answer_to`: a person's stop is final, any other warning is answered by going on.
A crashed job is started again as long as it makes progress, and not where a person has to fix
something first; `CrashBudget` counts, over all starts of the job. What is no fault of the job, a
warning or a store that is away, is counted by `allows_fruitless_start`: so often does nothing come of
a start before a person should look.

Counts are files in the job's folder, and a start counts once: who counts may be killed before it acts,
and is asked again. Where the disk does not let them be kept, the numbers of starts
since the last one that committed something take their place.

What Slurm's own record says right after a warning (all seen on Slurm 22.05):

    time limit, scancel --signal    RUNNING
    preempted                       RUNNING, PreemptTime set: requeue, or Slurm kills at its EndTime
    scontrol requeue                COMPLETING, Restarts one higher: it comes back by itself
    scancel                         COMPLETING: a requeue would bring it back to life
    the batch script is killed      COMPLETING, JobLaunchFailure or RaisedSignal (26.05), and the signal's
                                    number: nobody but its ranks can requeue it
    a node is lost, Requeue=0       COMPLETING, NodeDown: the batch script chains a follow-up
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import submitit

from instruct_core.errors import InstructError, SlurmError
from instruct_core.storage.looks import entries_in
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store
from jobs.bad_nodes import blame_crash, may_be_of_a_node
from jobs.events import Crashed
from jobs.failures import write_outcome
from jobs.job_folder import (
    FAILED_CHECK,
    Progress,
    place_of,
    read_record,
    replace_json,
    this_start,
)
from jobs.ledger import note_crash
from jobs.slurm import own_job_id, own_restarts, show_job
from jobs.survival.crash import Crash

logger = logging.getLogger(__name__)

MAX_CRASHES_WITHOUT_PROGRESS = 3
MAX_FRUITLESS_STARTS = 10  # warned, or without their store, before anything was done
MAX_STARTS_WITHOUT_BOOKS = 20  # without progress, where nothing can be counted: the disk is full
CRASHES_THAT_EXCLUDE_A_NODE = 2

Answer = Literal["requeue", "requeued", "stop", "unsure"]


@dataclass(frozen=True)
class _Fruitless:
    """Starts in a row that came to nothing, up to one."""

    committed: int = 0
    in_a_row: int = 0
    start: str = ""


@dataclass(frozen=True)
class _Crashes:
    """Crashes in a row that committed nothing new, up to a start."""

    committed: int = -1
    in_a_row: int = 0
    node: str = ""
    node_in_a_row: int = 0
    error: str = ""
    start: str = ""


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
    if job is None:
        return "stop"
    # Nobody else brings back a job whose script was killed, or one that may not be requeued.
    goes_on = job.is_running or job.has_lost_its_script or job.has_lost_a_node
    return "requeue" if goes_on else "stop"


def allows_fruitless_start(folder: Path, committed: int) -> bool:
    """
    Note that this start was warned, or had no store; False if too many came to nothing.

    Args:
        folder: Of the job; the count is kept there.
        committed: What has been reached; a start after which it is more is not counted.
    """
    path = folder / "warnings.json"
    try:
        counts = on_a_disk(path, lambda: read_record(path, _Fruitless)) or _Fruitless()
        if counts.start != this_start():
            in_a_row = 0 if committed > counts.committed else counts.in_a_row + 1
            counts = _Fruitless(max(committed, counts.committed), in_a_row, this_start())
            on_a_disk(path, lambda: replace_json(path, asdict(counts)))
    except OSError as error:  # a full disk must not be the end of the run
        return _allows_uncounted(folder, error)
    return counts.in_a_row < MAX_FRUITLESS_STARTS


def too_many_warnings(unit: str) -> str:
    """Return what a person reads of a job that was warned too often before it had done a unit."""
    return (
        f"warned {MAX_FRUITLESS_STARTS} times in a row before a {unit} was made. Raise --time, or "
        "lower --lead."
    )


def _allows_uncounted(folder: Path, problem: OSError) -> bool:
    """Return whether a job comes back of which nothing can be counted."""
    logger.warning("Starts that came to nothing cannot be counted: %s", problem)
    return starts_without_progress(folder) < MAX_STARTS_WITHOUT_BOOKS


def starts_without_progress(folder: Path) -> int:
    """Return how many starts there have been since the last that is known to have got further."""
    best, good_start = -1, ""
    try:
        for path in entries_in(folder, "progress-*.json"):
            committed = (read_record(path, Progress) or Progress()).committed
            if committed is not None and committed > best:
                best, good_start = committed, path.stem.removeprefix("progress-")
    except OSError as error:
        logger.warning("How far the job has come cannot be read: %s", error)
        return 0
    job, now = this_start().rpartition("-")[0], place_of(this_start())
    good_job, then = good_start.rpartition("-")[0], place_of(good_start)
    if not good_start or good_job != job:
        return now[0] + 1 + now[1]
    # How often it started again within the allocations between is not known.
    return now[0] - then[0] + (now[1] - then[1] if now[0] == then[0] else now[1])


class CrashBudget:
    """
    Counts crashes in a row that committed nothing new, and nodes that crash again and again.

    Args:
        folder: Where the count is kept from one start of the job to the next.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "crashes.json"
        self._counts = _Crashes()

    def allows_restart(self, committed: int, node: str = "", everywhere: str = "") -> bool:
        """
        Note this start's crash; return True to start again.

        Args:
            committed: What had been reached.
            node: Where it was; "" for nowhere.
            everywhere: The error, if a second node that tells it too shows that no node is at fault: one
                that cannot see a file is, unless no other sees it either.
        """
        try:
            path = self._path
            counts = on_a_disk(path, lambda: read_record(path, _Crashes)) or _Crashes()
            if counts.start != this_start():
                if everywhere and everywhere == counts.error and node != counts.node:
                    node = ""
                counts = _Crashes(
                    committed=max(committed, counts.committed),
                    in_a_row=counts.in_a_row + 1 if committed <= counts.committed else 1,
                    node=node,
                    node_in_a_row=counts.node_in_a_row + 1 if node == counts.node else 1,
                    error=everywhere,
                    start=this_start(),
                )
                on_a_disk(path, lambda: replace_json(path, asdict(counts)))
        except OSError as error:  # a full disk must not be the end of the run
            return _allows_uncounted(self._folder, error)
        self._counts = counts
        return counts.in_a_row < MAX_CRASHES_WITHOUT_PROGRESS

    @property
    def is_everywhere(self) -> bool:
        """Return True if another node told the same before: what is counted blames none."""
        return bool(self._counts.error) and not self._counts.node

    @property
    def bad_node(self) -> str:
        """Return the node that crashed twice in a row, or ""."""
        often = self._counts.node_in_a_row >= CRASHES_THAT_EXCLUDE_A_NODE
        return self._counts.node if often else ""


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
    budget, committed = CrashBudget(folder), progress.committed or 0
    if crash.away:
        again = allows_fruitless_start(folder, committed)
    else:
        everywhere = "" if may_be_of_a_node(*crash[:2], crash.cause) else crash.error
        again = crash.retry and budget.allows_restart(committed, crash.node, everywhere)
    if crash.retry:
        run = (progress.ledger or "").rpartition("/")[2]
        blame_crash(crash.node, crash.error, crash.traceback, crash.cause, run)
    if progress.ledger is not None and progress.attempt is not None:
        node = "" if budget.is_everywhere else crash.node
        told = Crashed(crash.error, node, again, *crash.cause)
        try:
            note_crash(Store(progress.ledger), progress.attempt, told)
        except (OSError, InstructError) as error:  # its store may be what is away
            logger.warning("The crash could not be told: %s", error)
    if not again:
        write_outcome(folder, crash.message, crash.traceback, crash.retry)
    # A node that failed its first check would fail it again; of others one crash says little.
    return again, crash.node if FAILED_CHECK in crash.error else budget.bad_node
