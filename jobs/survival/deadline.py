"""
Where a run's time ends: Slurm's time limit, and whether a step and a save still fit before it.

    deadline = Deadline(lead_seconds=120, save_seconds=4.0)
    deadline = deadline_of(Store("runs_instruct/my-run"))
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import datetime
from time import monotonic
from time import time as utc_seconds

from instruct_core.errors import SlurmError
from instruct_core.storage.store import Store
from jobs.environment import number_in
from jobs.failures import write_outcome
from jobs.job_folder import ASKS_BACK, LEAD, Progress, job_folder, or_unknown, read_progress
from jobs.ledger import newest_timed_save
from jobs.slurm import (
    CLIENT_TIMEOUT_SECONDS,
    JobRecord,
    RefusedError,
    controller_seconds,
    own_job_id,
    own_restarts,
    run_client,
    show_job,
)
from jobs.survival.requeue import allows_fruitless_start, too_many_warnings

logger = logging.getLogger(__name__)

MARGIN_SECONDS = 3.0  # between our requeue and Slurm's kill
COUNT_SECONDS = 1.0  # of it, for a disk to take the count of starts that came to nothing
# ... where a follow-up is chained instead: all ranks must end, and Python and sbatch start.
CHAIN_MARGIN_SECONDS = 30.0
DEFAULT_LEAD_SECONDS = 120
ASK_AGAIN_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 60.0  # a controller that is silent
QUICK_SECONDS = (
    5.0  # of an answer beside which something may be due; one by the clock is worth nothing later
)
SAME_CLOCK_SECONDS = 2.0  # the controller tells whole seconds, some time after it was asked
# Before a warning is due, in which it is asked whether the time limit has been changed meanwhile.
CONFIRM_SECONDS = 60.0


class Deadline:
    """
    When Slurm takes the nodes away, and what must be done before; rank 0 alone has one.

    Args:
        lead_seconds: How long before the end Slurm's own warning comes.
        save_seconds: What a save takes, as far as it is known.
    """

    def __init__(self, lead_seconds: float, save_seconds: float) -> None:
        self._lead = lead_seconds
        self.save_seconds = save_seconds
        self.short_lead: tuple[float, float] | None = None  # lead and what is needed, in seconds
        self._warned = self._given_up = False
        self._end: float | None = None  # UTC seconds
        self._end_again = _Again()
        self._confirm_at = float("-inf")  # by monotonic()
        # The controller's clock, which tells all times, as one that nobody sets while the job runs.
        self._booted_at = utc_seconds() - monotonic()
        self._clock_again = _Again()
        self._requeue_at: float | None = None  # known once Slurm has answered a warned job

    def look(self, stop_noted: bool, step_seconds: float) -> None:
        """Do what is due, then ask what is open; called a few times a second by the guard's thread."""
        needed = needed_seconds(step_seconds, self.save_seconds)
        if self._end is None and self._end_again.is_due():
            self._end = _end_of_job()
            self._end_again.wait()
            if (
                self._end is not None
            ):  # a clock that is wrong would say that something is due already
                self._ask_clock()
        now = self._booted_at + monotonic()
        end = float("inf") if self._end is None else self._end
        if needed > self._lead:
            self.short_lead = (self._lead, needed)
        if not stop_noted and not self._warned and now > end - needed - CONFIRM_SECONDS:
            self._warn_in_time(needed)
        if stop_noted and not self._given_up and now > self._time_to_requeue(now, end):
            self._given_up = self._requeue()
        if self._end is not None and not stop_noted and not self._warned:
            self._ask_clock()

    def _warn_in_time(self, needed: float) -> None:
        """
        Warn this process where only ``needed`` seconds are left.

        Whether the limit has been changed is asked for a minute before: a controller that is silent for
        as long has the last word that it gave.
        """
        assert self._end is not None, "an end that nobody knows is not near"
        left = self._end - needed - self._booted_at - monotonic()
        if left <= 0 or monotonic() >= self._confirm_at:
            timeout = min(CLIENT_TIMEOUT_SECONDS, max(QUICK_SECONDS, left))
            told = _end_of_job(timeout)
            self._end = self._end if told is None else told
            self._confirm_at = monotonic() + ASK_AGAIN_SECONDS
        now = self._booted_at + monotonic()
        if now > self._end - needed:
            self._warned = True
            logger.warning("The time limit is %.0f s away: stopping now", self._end - now)
            os.kill(os.getpid(), signal.SIGUSR1)

    def _ask_clock(self) -> None:
        """Go by the controller's clock once it is told; by the node's until then, or if it is refused."""
        if not self._clock_again.is_due():
            return
        try:
            ahead = _seconds_ahead()
        except RefusedError as error:
            logger.warning("The controller's clock is not told, the node's own counts: %s", error)
            self._clock_again.never()
        except SlurmError:
            self._clock_again.wait()
        else:
            self._clock_again.never()
            self._booted_at = utc_seconds() - monotonic() - ahead

    def _time_to_requeue(self, now: float, end: float) -> float:
        """Return when a warned job is given up; where Slurm does not answer, by what was known."""
        if self._requeue_at is None:
            try:
                self._requeue_at = _before_the_kill(show_job(own_job_id()), now)
            except SlurmError:
                return end - MARGIN_SECONDS
        return self._requeue_at

    def _requeue(self) -> bool:
        """Requeue from the last checkpoint, because no step ends in time; False to try again."""
        try:
            job = show_job(own_job_id())
            if job is None or not job.is_running or job.num_restarts != own_restarts():
                return True  # cancelled, or on its way back
            logger.error("No step boundary before the deadline: back to the last checkpoint")
            if not job.may_requeue:
                os._exit(ASKS_BACK)  # the batch script chains a follow-up
            if not _may_come_back():
                return True
            run_client(["scontrol", "requeue", own_job_id()])
        except RefusedError as error:
            logger.warning("%s The batch script brings the job back.", error)
            os._exit(ASKS_BACK)
        except SlurmError as error:
            logger.warning("%s Asking again.", error)
            return False
        return True


def deadline_of(runs: Store) -> Deadline:
    """Return that of this job, whose run's ledger says what a save takes."""
    try:
        save = newest_timed_save(runs)
    except OSError as error:  # the first save will tell
        logger.warning("The ledger could not be read: %s", error)
        save = None
    return Deadline(
        number_in(LEAD, DEFAULT_LEAD_SECONDS), 0.0 if save is None else save.seconds or 0.0
    )


def _may_come_back() -> bool:
    """Return False where too many starts in a row came to nothing, if a disk tells in time."""
    folder, answers = job_folder(), list[bool]()

    def count() -> None:
        progress = or_unknown(lambda: read_progress(folder), Progress())
        answers.append(allows_fruitless_start(folder, progress.committed or 0))

    counting = threading.Thread(target=count, daemon=True)
    counting.start()
    counting.join(COUNT_SECONDS)
    may = all(answers)
    if not may:  # here: a word that comes later would be of a job that was requeued
        write_outcome(folder, too_many_warnings("step"), "", retry=False)
    return may


class _Again:
    """When a question that was not answered is asked again: after pauses that grow."""

    def __init__(self) -> None:
        self._at, self._pause = float("-inf"), ASK_AGAIN_SECONDS

    def is_due(self) -> bool:
        return monotonic() >= self._at

    def wait(self) -> None:
        self._at = monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def never(self) -> None:
        self._at = float("inf")


def needed_seconds(step_seconds: float, save_seconds: float) -> float:
    """Return what a warned run needs to end well: its step, a save in flight, one more, and some."""
    return 2 * step_seconds + 2.5 * save_seconds + 2 * MARGIN_SECONDS


def _before_the_kill(job: JobRecord | None, now: float) -> float:
    """Return when to requeue a job that has been warned; never where it is not ours to do."""
    if job is None or not job.is_running:
        return float("inf")  # cancelled, or requeued by Slurm
    try:
        end = datetime.fromisoformat(job.end).timestamp()
    except ValueError:
        return float("inf")
    # A short grace leaves time for a step.
    chain_margin = min(CHAIN_MARGIN_SECONDS, (end - now) / 2)
    return end - (MARGIN_SECONDS if job.may_requeue else max(MARGIN_SECONDS, chain_margin))


def _seconds_ahead() -> float:
    """
    Return by how much this node's clock differs from the controller's; 0 where it is about right.

    Raises:
        SlurmError: It is not told, or so late that it says nothing; as `controller_seconds`.
    """
    before, asked_at = utc_seconds(), monotonic()
    told = controller_seconds(QUICK_SECONDS)
    took = monotonic() - asked_at
    if took > QUICK_SECONDS:
        raise SlurmError(f"scontrol took {took:.0f} s to tell the time.")
    ahead = before + took / 2 - told
    if abs(ahead) < SAME_CLOCK_SECONDS + took / 2:
        return 0.0
    logger.warning("This node's clock is %+.0f s away from that of Slurm's controller", ahead)
    return ahead


def _end_of_job(timeout_seconds: float | None = None) -> float | None:
    """Return when the job's time ends, in UTC seconds; None where Slurm does not answer in time."""
    try:
        job = show_job(own_job_id(), timeout_seconds)
        return datetime.fromisoformat(job.end).timestamp() if job else float("inf")
    except SlurmError:
        return None
    except ValueError:  # "Unknown" where there is no limit
        return float("inf")
