"""
A thread beside the training that acts where the training cannot.

    with Guard(lambda: stop.noted, folder, rank, deadline) as guard:
        guard.working("step")       # at the start of every step, evaluation and save
        if guard.asked(): ...       # the stop signal, and a sign of life

Three things only a second thread can do. A rank that hangs, mostly in a collective whose peer is
gone, is ended after all Python stacks are written down, so the job can start again. A run whose
next step and save would not end before the time limit is warned by itself, where the cluster's
own warning comes too late. And a warned job whose ranks do not reach the next step in time is
requeued from its last checkpoint before Slurm kills it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from instruct_core.errors import SlurmError
from jobs.reports import this_start, write_failure
from jobs.slurm import own_job_id, own_restarts, run_client, show_job

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
HANG_SECONDS = 60.0  # least time without a step that counts as a hang
HANG_STEPS = 10  # ... and least number of steps' durations
# Before the rhythm of steps is known, and where compiling or a slow disk may take their time.
PATIENCE_SECONDS = 1800.0
PATIENT_PHASES = ("start", "first step", "evaluation", "save")
STACKS_GRACE_SECONDS = 3.0  # for the other ranks to write theirs: the first to end ends them all
HANG_EXIT_CODE = 75
MARGIN_SECONDS = 3.0  # between our requeue and Slurm's kill
DEFAULT_LEAD_SECONDS = 120


class Guard:
    """
    Watches one rank.

    Args:
        stop_noted: Return True once this rank has been warned.
        folder: The job's folder; stacks and the failure report go there.
        rank: This rank.
        deadline: Where the run's time ends; None on a machine without a scheduler.
    """

    def __init__(
        self,
        stop_noted: Callable[[], bool],
        folder: Path,
        rank: int,
        deadline: Deadline | None = None,
    ) -> None:
        self._stop_noted, self._folder, self._rank = stop_noted, folder, rank
        self._deadline = deadline
        self._phase = "start"
        self._began = self._alive_at = time.monotonic()
        self._steps: deque[float] = deque(maxlen=50)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def working(self, phase: str) -> None:
        """Say what begins now: "first step", "step", "evaluation" or "save"."""
        now = time.monotonic()
        if self._phase == "step":
            self._steps.append(now - self._began)
        self._phase, self._began, self._alive_at = phase, now, now

    def asked(self) -> bool:
        """Return True once this rank has been warned; whoever asks is alive."""
        self._alive_at = time.monotonic()
        return self._stop_noted()

    @property
    def step_seconds(self) -> float:
        """Return the median duration of the last steps; 0 before there are any."""
        return statistics.median(self._steps) if self._steps else 0.0

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._over.wait(POLL_SECONDS):
            now = time.monotonic()
            if now - looked_at > 10 * POLL_SECONDS:
                self._alive_at = now  # the job was suspended: the clock went on, nobody else did
            looked_at = now
            idle = time.monotonic() - self._alive_at
            if idle > self._patience():
                self._end_hang(idle)
            if self._deadline is not None:
                self._deadline.look(self._stop_noted(), self.step_seconds)

    def _patience(self) -> float:
        if not self._steps or self._phase in PATIENT_PHASES:
            return PATIENCE_SECONDS
        return max(HANG_SECONDS, HANG_STEPS * self.step_seconds)

    def _end_hang(self, idle: float) -> None:
        """Write down where every thread is, and end this process; never returns."""
        path = self._folder / "stacks" / f"{this_start()}-rank-{self._rank:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(f"rank {self._rank} on {socket.gethostname()}, {self._phase}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        error = (
            f"rank {self._rank} hangs: its {self._phase} has not ended for {idle:.0f} s. "
            f"Where all ranks were: {path.parent}."
        )
        # No node is blamed: those who wait tell, and the one they wait for does not.
        write_failure(self._folder, self._rank, error, path.read_text(), retry=True, node="")
        logger.error(error)
        time.sleep(STACKS_GRACE_SECONDS)
        os._exit(HANG_EXIT_CODE)  # the main thread cannot be raised out of a collective


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
        self._requeue_at = float("inf")

    def look(self, stop_noted: bool, step_seconds: float) -> None:
        """Do what is due; called a few times a second by the guard's thread."""
        now, needed = time.time(), needed_seconds(step_seconds, self.save_seconds)
        if self._end is None:
            self._end = _end_of_job()
        end = float("inf") if self._end is None else self._end
        if needed > self._lead:
            self.short_lead = (self._lead, needed)
        if not stop_noted and not self._warned and now > end - needed:
            self._end = _end_of_job()  # the limit may have been changed meanwhile
            if self._end is not None and now > self._end - needed:
                self._warned = True
                logger.warning("The time limit is %.0f s away: stopping now", self._end - now)
                os.kill(os.getpid(), signal.SIGUSR1)
        if stop_noted and self._requeue_at == float("inf"):
            self._requeue_at = self._kill_time() - MARGIN_SECONDS
        if now > self._requeue_at and not self._given_up:
            self._given_up = self._requeue()

    def _kill_time(self) -> float:
        """Return when a job that has been warned is killed, where it is ours to requeue it."""
        try:
            job = show_job(own_job_id())
        except SlurmError:
            return self._end or float("inf")
        if job is None or not job.is_running:
            return float("inf")  # cancelled, or requeued by Slurm: nothing for us to do
        try:
            return datetime.fromisoformat(job.end).timestamp()
        except ValueError:
            return float("inf")

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
        except SlurmError as error:
            logger.error("%s", error)
            return False
        return True


def needed_seconds(step_seconds: float, save_seconds: float) -> float:
    """Return what a warned run needs to end well: its step, a save in flight, one more, and some."""
    return 2 * step_seconds + 2.5 * save_seconds + 2 * MARGIN_SECONDS


def _end_of_job() -> float | None:
    """Return when the job's time ends, in UTC seconds; None where Slurm does not answer."""
    try:
        job = show_job(own_job_id())
        return datetime.fromisoformat(job.end).timestamp() if job else float("inf")
    except SlurmError:
        return None
    except ValueError:  # "Unknown" where there is no limit
        return float("inf")
