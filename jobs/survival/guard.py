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

Nothing that fails in here keeps it from that: a full disk, a disk that hangs itself, and a scheduler
that does not answer, for which a thread of its own waits.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import statistics
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from jobs.failures import write_failure
from jobs.job_folder import describe_error, this_start
from jobs.survival.deadline import Deadline

logger = logging.getLogger(__name__)

HANG_EXIT_CODE = 75
POLL_SECONDS = 0.5
HANG_SECONDS = 60.0  # least time without a step that counts as a hang
HANG_STEPS = 10  # ... and least number of steps' durations
# Before the rhythm of steps is known, and where compiling or a slow disk may take their time.
PATIENCE_SECONDS = 1800.0
PATIENT_PHASES = ("start", "first step", "evaluation", "save", "settling", "ending")
# For the other ranks, whose steps took a little longer or whose node is busy, to write theirs: the first
# to end ends them all.
STACKS_GRACE_SECONDS = 15.0
WRITE_SECONDS = 30.0  # for the stacks to be written: the disk may be what hangs


class Guard:
    """
    Watches one rank.

    Args:
        stop_noted: Return True once this rank has been warned.
        folder: The job's folder; stacks and the failure report go there.
        rank: This rank.
        deadline: Where the run's time ends; None on a machine without a scheduler.
        may_hang: Let the rank stand still for as long as it likes.
    """

    def __init__(
        self,
        stop_noted: Callable[[], bool],
        folder: Path,
        rank: int,
        deadline: Deadline | None = None,
        may_hang: bool = False,
    ) -> None:
        self._stop_noted, self._folder, self._rank = stop_noted, folder, rank
        self._deadline, self._may_hang = deadline, may_hang
        self._phase = "start"
        self._began = self._alive_at = monotonic()
        self._steps: deque[float] = deque(maxlen=50)
        self._over = threading.Event()
        tasks = {"guard": self._watch} | ({"deadline": self._look_ahead} if deadline else {})
        self._threads = [
            threading.Thread(target=task, name=name, daemon=True) for name, task in tasks.items()
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def working(self, phase: str) -> None:
        """Say what begins now: "first step", "step", "evaluation" or "save"."""
        now = monotonic()
        if self._phase == "step":
            self._steps.append(now - self._began)
        self._phase, self._began, self._alive_at = phase, now, now

    def asked(self) -> bool:
        """Return True once this rank has been warned; whoever asks is alive."""
        self._alive_at = monotonic()
        return self._stop_noted()

    @property
    def step_seconds(self) -> float:
        """Return the median duration of the last steps; 0 before there are any."""
        return statistics.median(self._steps) if self._steps else 0.0

    def _watch(self) -> None:
        looked_at = monotonic()
        while not self._over.wait(POLL_SECONDS):
            now = monotonic()
            if now - looked_at > 10 * POLL_SECONDS:
                self._alive_at = now  # the job was suspended: the clock went on, nobody else did
            looked_at = now
            idle = monotonic() - self._alive_at
            if idle > self._patience() and not self._may_hang:
                self._end_hang(idle)

    def _look_ahead(self) -> None:
        """Look at the deadline, whatever a look raises: the next one may be answered."""
        assert self._deadline is not None
        told = ""
        while not self._over.wait(POLL_SECONDS):
            try:
                self._deadline.look(self._stop_noted(), self.step_seconds)
            except Exception as error:
                if (problem := describe_error(error)) != told:
                    logger.warning("The time limit could not be looked at: %s", problem)
                told = problem

    def _patience(self) -> float:
        if not self._steps or self._phase in PATIENT_PHASES:
            return PATIENCE_SECONDS
        return max(HANG_SECONDS, HANG_STEPS * self.step_seconds)

    def _end_hang(self, idle: float) -> None:
        """Write down where every thread is, if that can be done, and end this process."""
        try:
            # In a thread that nobody waits for in the end: the disk may hang as well.
            writer = threading.Thread(target=self._write_down, args=(idle,), daemon=True)
            writer.start()
            writer.join(WRITE_SECONDS)
            sleep(STACKS_GRACE_SECONDS)
        finally:
            os._exit(HANG_EXIT_CODE)  # the main thread cannot be raised out of a collective

    def _write_down(self, idle: float) -> None:
        path = self._folder / "stacks" / f"{this_start()}-rank-{self._rank:05d}.txt"
        error = f"rank {self._rank} hangs: its {self._phase} has not ended for {idle:.0f} s."
        logger.error(error)
        stacks = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                file.write(f"rank {self._rank} on {socket.gethostname()}, {self._phase}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            stacks = path.read_text(encoding="utf-8")
            error += f" Where all ranks were: {path.parent}."
        except OSError as problem:
            logger.warning("Where its threads are could not be written down: %s", problem)
            faulthandler.dump_traceback(all_threads=True)
        # No node is blamed: those who wait tell, and the one they wait for does not.
        write_failure(self._folder, self._rank, error, stacks, retry=True, node="")
