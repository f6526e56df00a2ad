"""
Where a run's time ends: Slurm's time limit, and whether a step and a save still fit before it.

    deadline = Deadline(lead_seconds=120, save_seconds=4.0)
"""

from __future__ import annotations

import logging
import os
import signal
from datetime import datetime
from time import monotonic
from time import time as utc_seconds

from instruct_core.errors import SlurmError
from jobs.slurm import (
    JobRecord,
    RefusedError,
    controller_seconds,
    own_job_id,
    own_restarts,
    run_client,
    show_job,
)

logger = logging.getLogger(__name__)

HANG_EXIT_CODE = 75
MARGIN_SECONDS = 3.0  # between our requeue and Slurm's kill
# ... where a follow-up is chained instead: all ranks must end, and Python and sbatch start.
CHAIN_MARGIN_SECONDS = 30.0
DEFAULT_LEAD_SECONDS = 120
ASK_AGAIN_SECONDS = 10.0  # a controller that did not tell its clock
SAME_CLOCK_SECONDS = 2.0  # the controller tells whole seconds, some time after it was asked


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
        # The controller's clock, which tells all times, as one that nobody sets while the job runs.
        self._booted_at = utc_seconds() - monotonic()
        self._ask_clock_at: float | None = monotonic()  # None once the controller has told its own
        self._requeue_at: float | None = None  # known once Slurm has answered a warned job

    def look(self, stop_noted: bool, step_seconds: float) -> None:
        """Do what is due; called a few times a second by the guard's thread."""
        needed = needed_seconds(step_seconds, self.save_seconds)
        if self._end is None:
            self._end = _end_of_job()
        if self._end is not None:
            self._ask_clock()
        now = self._booted_at + monotonic()
        end = float("inf") if self._end is None else self._end
        if needed > self._lead:
            self.short_lead = (self._lead, needed)
        if not stop_noted and not self._warned and now > end - needed:
            self._end = _end_of_job()  # the limit may have been changed meanwhile
            if self._end is not None and now > self._end - needed:
                self._warned = True
                logger.warning("The time limit is %.0f s away: stopping now", self._end - now)
                os.kill(os.getpid(), signal.SIGUSR1)
        if stop_noted and not self._given_up and now > self._time_to_requeue(now, end):
            self._given_up = self._requeue()

    def _ask_clock(self) -> None:
        """Go by the controller's clock once it is told; until then by the node's."""
        if self._ask_clock_at is None or monotonic() < self._ask_clock_at:
            return
        ahead = _seconds_ahead()
        if ahead is None:
            self._ask_clock_at = monotonic() + ASK_AGAIN_SECONDS
            return
        self._ask_clock_at = None
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
                os._exit(HANG_EXIT_CODE)  # the batch script chains a follow-up
            run_client(["scontrol", "requeue", own_job_id()])
        except RefusedError as error:
            logger.warning("%s The batch script brings the job back.", error)
            os._exit(HANG_EXIT_CODE)
        except SlurmError as error:
            logger.warning("%s Asking again.", error)
            return False
        return True


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


def _seconds_ahead() -> float | None:
    """
    Return by how much this node's clock differs from the controller's; 0 where it is about right, None
    where that is not told.
    """
    before = utc_seconds()
    try:
        ahead = before - controller_seconds()
    except SlurmError:
        return None
    if abs(ahead) < SAME_CLOCK_SECONDS:
        return 0.0
    logger.warning("This node's clock is %+.0f s away from that of Slurm's controller", ahead)
    return ahead


def _end_of_job() -> float | None:
    """Return when the job's time ends, in UTC seconds; None where Slurm does not answer."""
    try:
        job = show_job(own_job_id())
        return datetime.fromisoformat(job.end).timestamp() if job else float("inf")
    except SlurmError:
        return None
    except ValueError:  # "Unknown" where there is no limit
        return float("inf")
